"""From a GGUF file's metadata to the tokenizer files that transformers has for the same model.

transformers reads such files too, but cuts texts of many models another way than they were trained with, and gives up some of
their added tokens. Nothing is taken from its reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from smolorad.engine.gguf import pre_tokenizers, sentencepiece
from smolorad.engine.gguf.added_tokens import added_tokens, is_added
from smolorad.engine.gguf.vocabulary import Fields, Vocabulary, read_vocabulary
from smolorad.errors import UnsupportedModel, first_line

_TEMPLATE = "tokenizer.chat_template"
# Texts of tokens that end an answer, wherever they are no ordinary ones. `</s>` is none of them: Gemma has it for HTML.
_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"),
        *("<EOT>", "<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<end_of_utterance>", "<turn|>"),
    )
)
_GLM_START = ("[gMASK]", "<sop>")
_DEFAULTS: Mapping[str, Any] = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def write_tokenizer(metadata: Mapping[str, Any], folder: Path, *, name: str, context_length: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and, where the file has one, chat_template.jinja into `folder`.

    `name` is what errors call the file. Raises Damaged for metadata that make no tokenizer, and UnsupportedModel for a
    tokenizer of another kind.
    """
    vocabulary = read_vocabulary(metadata, name)
    template = _template(metadata, name)
    backend = _backend(vocabulary, name)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        **{key: vocabulary.tokens[token_id] for key, token_id in _named(vocabulary).items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    if template is not None:
        _write(folder / "chat_template.jinja", template)


def end_ids(metadata: Mapping[str, Any], *, name: str = "The GGUF file") -> list[int]:
    """The ids that end an answer: the file's `eos_token_id` first, then the others. Raises Damaged."""
    vocabulary = read_vocabulary(metadata, name)
    first = [vocabulary.named["eos_token"]] if "eos_token" in vocabulary.named else []
    both = enumerate(sentencepiece.zip_types(vocabulary))
    by_text = [index for index, (token, kind) in both if token in _ENDS and is_added(token, kind)]
    return list(dict.fromkeys((*first, *sorted({*vocabulary.ends, *by_text}))))


def _template(metadata: Mapping[str, Any], file: str) -> str | None:
    """The template of conversations. Those for tools and documents, which some files have besides, are for other callers."""
    fields = Fields(metadata, file)
    found = fields.one(_TEMPLATE, str)
    return fields.one(f"{_TEMPLATE}.default", str) if found is None else found


def _backend(vocabulary: Vocabulary, file: str) -> Tokenizer:
    """The tokenizer, as the tokenizers library makes it of the description."""
    if vocabulary.model in ("llama", "gemma4"):
        described = _sentencepiece(vocabulary, file)
    elif vocabulary.model == "gpt2":
        described = _sentencepiece(vocabulary, file) if vocabulary.pre == "gemma4" else _byte_level(vocabulary, file)
    else:
        raise UnsupportedModel(
            f"{file} has a tokenizer of the kind {vocabulary.model[:40]!a} (`tokenizer.ggml.model`), which smolora does not "
            "read from GGUF; load the model that it was made from."
        )
    try:
        return Tokenizer.from_str(json.dumps(described, ensure_ascii=False))
    except Exception as error:  # the library raises nothing more specific
        raise Fields({}, file).damaged(f"has a vocabulary that makes no tokenizer ({first_line(error)})") from error


def _byte_level(vocabulary: Vocabulary, file: str) -> dict[str, Any]:
    cut = pre_tokenizers.cut_of(vocabulary, file)
    if not vocabulary.merges:
        raise Fields({}, file).damaged("has no merges (`tokenizer.ggml.merges`)")
    parts = {**pre_tokenizers.shape(cut), "model": pre_tokenizers.model(cut)}
    adds_bos = cut.adds_bos if vocabulary.add_bos is None else vocabulary.add_bos
    return _described(vocabulary, vocabulary.tokens, vocabulary.merges, parts, adds_bos=adds_bos)


def _sentencepiece(vocabulary: Vocabulary, file: str) -> dict[str, Any]:
    tokens = sentencepiece.spelled(vocabulary)
    merges = sentencepiece.merges(vocabulary, tokens, file)
    parts = {**sentencepiece.shape(vocabulary), "model": sentencepiece.model(vocabulary)}
    # Its template begins with the token, so that the model's own tokenizer adds none.
    adds_bos = vocabulary.model == "llama" if vocabulary.add_bos is None else vocabulary.add_bos
    return _described(vocabulary, tokens, merges, parts, adds_bos=adds_bos and not sentencepiece.is_gemma_4(vocabulary))


def _described(
    vocabulary: Vocabulary, tokens: list[str], merges: list[tuple[str, str]], parts: dict[str, Any], *, adds_bos: bool
) -> dict[str, Any]:
    """A tokenizer.json."""
    model = {
        "type": "BPE",
        **_DEFAULTS,
        **parts.pop("model"),
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(vocabulary, tokens, _named(vocabulary).values()),
        **parts,
        "post_processor": _post_processor(vocabulary, adds_bos),
        "model": model,
    }


def _named(vocabulary: Vocabulary) -> dict[str, int]:
    """The ids of `bos_token` and the like."""
    named = dict(vocabulary.named)
    cut = pre_tokenizers.CUTS.get(vocabulary.pre)
    if vocabulary.model == "gpt2" and cut is not None and not cut.has_bos and not vocabulary.add_bos:
        named.pop("bos_token", None)
    return named


def _post_processor(vocabulary: Vocabulary, adds_bos: bool) -> dict[str, Any]:
    """What puts the tokens of beginning and end around a text, in transformers' form."""
    named = vocabulary.named
    before = [vocabulary.tokens[named["bos_token"]]] if adds_bos and "bos_token" in named else []
    after = [vocabulary.tokens[named["eos_token"]]] if vocabulary.add_eos and "eos_token" in named else []
    if before == [_GLM_START[0]] and _GLM_START[1] in vocabulary.tokens:
        before = [*_GLM_START]  # the format has one token only

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        first = [{"SpecialToken": {"id": token, "type_id": type_id}} for token in before]
        last = [{"SpecialToken": {"id": token, "type_id": type_id}} for token in after]
        return [*first, {"Sequence": {"id": sequence, "type_id": type_id}}, *last]

    ids = {token: {"id": token, "ids": [vocabulary.tokens.index(token)], "tokens": [token]} for token in (*before, *after)}
    single = around("A", 0)
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *around("B", 1)], "special_tokens": ids}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")
