"""Models that make a token of each character, and conversations."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from smolorad.chat.model import ModelText
from smolorad.chat.turns import Turn, Turns

_SPEC = importlib.util.find_spec("trl")
assert _SPEC is not None
assert _SPEC.submodule_search_locations
FOLDER = Path(_SPEC.submodule_search_locations[0], "chat_templates")
# TRL's templates of real models. Those for training are twins of the others, and are all tried in `make test-long`.
TEMPLATES = [
    pytest.param(path, id=path.stem, marks=pytest.mark.long if path.stem.endswith("_training") else ())
    for path in sorted(FOLDER.glob("*.jinja"))
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# What their models call special, whatever of it stands in a template.
_CONTROL = re.compile(
    r"<[|｜][^<>\s'\"]+?[|｜]>|<\|?(?:start|end)_of_\w+\|?>|<end_of_utterance>|<\|turn>|<turn\|>|\[/?INST\]|</?s>"
)


def talk(*said: str, system: str = "") -> Turns:
    """Questions and answers by turns."""
    turns = [Turn("assistant" if at % 2 else "user", words) for at, words in enumerate(said)]
    return ((Turn("system", system),) if system else ()) + tuple(turns)


def model_text(source: str, *ends: str) -> ModelText:
    """A tokenizer of characters, which has the template's control tokens; `ends` stop the generation besides `</s>`."""
    tokenizer = Tokenizer(models.WordLevel({chr(one): one for one in range(256)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(sorted({*_CONTROL.findall(source), *SPECIAL.values()}))
    return ModelText(tokenizer, source, SPECIAL, [SPECIAL["eos_token"], *ends])
