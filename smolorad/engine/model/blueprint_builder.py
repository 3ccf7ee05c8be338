"""Makes a blueprint with transformers: `python -m smolorad.engine.model.blueprint_builder FOLDER DTYPE OUTPUT`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedTokenizerFast

from smolorad.domain import Dtype
from smolorad.engine.model.blueprint import BLUEPRINT, TOKENIZER, Blueprint
from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.meta_model import meta_model
from smolorad.engine.model.native_support import decoder_of
from smolorad.engine.model.size_check import left_out
from smolorad.engine.model.stored_names import sources_of
from smolorad.engine.model.transformers_folder import (
    context_length,
    end_ids,
    generation_config,
    read_model_config,
    read_tokenizer,
)
from smolorad.engine.runtime.dtypes import STORED
from smolorad.engine.runtime.errors import reading
from smolorad.engine.text.tokenizer import ServingTokenizer
from smolorad.errors import SmoloraError, UnsupportedModel

_HEAD, _OTHER_HEAD = "lm_head.weight", "embed_out.weight"
_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces, a\ttab,\nlines\r\n\nand an end ",
    "Žluťoučký kůň, Да, 日本語, 한국어, مرحبا, 🙂👩‍👩‍👧 \u0301 \ufeff\u00a0",
    "def f(x):\n    return {'a': [1, 23, 456.789e-10]} # don't",
    "<s>[INST] <|im_start|>user\n</s><|endoftext|>",
)
_TALK = (
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A model.\n"},
    {"role": "user", "content": " And <|im_end|> then? "},
)


def blueprint_of(folder: ModelFolder, dtype: Dtype) -> tuple[Blueprint, str] | None:
    """The blueprint of a model folder, and its tokenizer's description; None where it cannot be served by one.

    Raises what reading config and tokenizer does.
    """
    config = read_model_config(folder.path, folder.config, folder.name)
    model = meta_model(folder, config, dtype=dtype)
    formats = {tensor.name: tensor.format for tensor in folder.tensors}
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    with reading(folder.path / CONFIG, "get the model again"):
        decoder = decoder_of(model)
    if decoder is None:
        return None
    shapes = {tensor.name: tuple(tensor.shape) for tensor in folder.tensors}
    sources = sources_of(decoder, parameters, shapes, model.base_model_prefix)
    if sources is None:
        return None
    used = {name for names in sources.values() for name in names}
    if any(formats[name] not in STORED for name in used) or (_HEAD not in parameters and formats.keys() & {_HEAD, _OTHER_HEAD}):
        return None
    if left_out([name for name in formats if name not in used], config, list(used)):
        return None  # `load_transformers` raises for it
    model.generation_config = generation_config(folder.path, config)
    theirs = read_tokenizer(folder.path)
    special = {name: str(token) for name, token in theirs.special_tokens_map.items() if isinstance(token, str)}
    blueprint = Blueprint(
        architecture=config.model_type,
        decoder=decoder,
        parameters=parameters,
        sources=sources,
        context_length=context_length(model, theirs),
        end_ids=sorted(end_ids(model, theirs)),
        vocabulary_size=config.vocab_size,
        chat_template=theirs.chat_template,
        special=special,
    )
    if not isinstance(theirs, PreTrainedTokenizerFast) or not isinstance(theirs.chat_template, str | None):
        return None
    backend = theirs.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    description = backend.to_str()
    ours = ServingTokenizer(description.encode(), theirs.chat_template, special)
    return (blueprint, description) if _agree(ours, theirs) else None


def write(folder: ModelFolder, dtype: Dtype, output: Path) -> None:
    """Writes the blueprint of a folder with the small files, or the note that there is none, into the empty folder `output`."""
    made = blueprint_of(folder, dtype)
    if made is not None:
        for path in folder.small_files():
            shutil.copyfile(path, output / path.name)
        (output / TOKENIZER).write_text(made[1], encoding="utf-8")
    (output / BLUEPRINT).write_bytes(msgspec.json.encode(made[0] if made is not None else None))


def _agree(ours: ServingTokenizer, theirs: Any) -> bool:
    """Whether both tokenizers give the same result for some texts that tokenizers differ in."""
    for text in _TEXTS:
        ids = theirs(text, verbose=False).input_ids
        if ours(text).input_ids != ids or ours.encode(text, False) != theirs.encode(text, add_special_tokens=False):
            return False
        if any(ours.decode(ids, skip) != theirs.decode(ids, skip_special_tokens=skip) for skip in (False, True)):
            return False
    alike = len(ours) == len(theirs) and _special_ids(ours) == _special_ids(theirs)
    if not alike or ours.chat_template is None:
        return alike
    return all(_show_alike(ours, theirs, talk) for talk in (_TALK, _TALK[:1]))


def _show_alike(ours: ServingTokenizer, theirs: Any, talk: Sequence[Any]) -> bool:
    """Whether both encode a conversation alike. A template that ours finds to be endless is not given to theirs."""
    try:
        return _rendered(ours, talk) == _rendered(theirs, talk)
    except UnsupportedModel:
        return True


def _rendered(tokenizer: Any, talk: Sequence[Any]) -> list[int] | None:
    """A conversation's ids up to where the answer begins; None where the template refuses it."""
    try:
        ids: list[int] = tokenizer.apply_chat_template(list(talk), add_generation_prompt=True, return_dict=True)["input_ids"]
    except UnsupportedModel:
        raise
    except Exception:  # noqa: BLE001  # whatever a template raises
        return None
    return ids


def _special_ids(tokenizer: Any) -> set[int]:
    return {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


def main(argv: Sequence[str]) -> int:
    """Writes the blueprint; prints on stderr why there is none."""
    folder, dtype, output = argv
    try:
        write(ModelFolder.open(Path(folder)), Dtype(dtype), Path(output))
    except SmoloraError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
