"""Looked up word by word, ids are the tokenizer's own, to the last one."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from smolorad.corpus import bpe_cache
from smolorad.corpus.bpe_cache import _LETTERS, _REST, WordEncoder
from tests.examples import examples
from tests.tiny import CORPUS, tiny_tokenizer

ALPHABET = "ab AB,.'\n\r\t12  \u00a0\u2003é́ß日🙂\x1c<|>_"
# Merges of what is no word show where a text must not be parted.
GAPS = ["12 345 6,789.\n\nHe's here.\nThey'll see  it. ", *["\n\n\n\n", "\r\n\r\n\r\n", "      ", " \n \n \n", "\t\t\t\t"] * 50]
TEXTS = st.text(ALPHABET, max_size=40) | st.text(max_size=20)
SPECIAL = st.sampled_from(
    [
        "<|im_start|>user\n",
        "<|im_end|>",
        "<|endoftext|>",
        "don't ",
        " we'LL",
        "a\nb",
        "x.\n\ny",
        "\n\n",
        "\r\n\r\n",
        "<|im_end|>\n",
    ]
)


def ids(encoder: WordEncoder, *texts: str) -> list[list[int]]:
    return [array("i", found).tolist() for found in encoder.encode(list(texts))]


def trained(pre_tokenizer: object, normalizer: object = None) -> Tokenizer:
    """A byte-level BPE with a way of its own to part texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|im_end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *GAPS], trainer)
    return tokenizer


def split(pattern: str) -> object:
    parts = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(parts)


LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
QUICK = {
    "gpt2": lambda: Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str()),
    "smollm2": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), LEVEL])),
    "llama3": lambda: trained(split(_LETTERS + r"\p{N}{1,3}" + _REST)),
    "qwen2": lambda: trained(split(_LETTERS + r"\p{N}" + _REST), normalizers.NFC()),
}
SLOW = {
    "prefix space": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "metaspace": lambda: trained(pre_tokenizers.Metaspace()),
    "unknown pattern": lambda: trained(split(r"\w+ \w+|.")),
    "lowercase": lambda: trained(LEVEL, normalizers.Lowercase()),
}


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
@pytest.mark.hypothesis
def test_ids_are_the_tokenizer_s_own(name: str) -> None:
    tokenizer = (QUICK | SLOW)[name]()
    encoder = WordEncoder(tokenizer, json.loads(tokenizer.to_str()))
    assert encoder.by_words == (name in QUICK)

    @settings(deadline=None, max_examples=examples(150))
    @given(st.lists(st.lists(TEXTS | SPECIAL, max_size=4).map("".join), max_size=4))
    @example([" a", "a ", "a  b", "a \nb", "a\n b", "a\u00a0 b", "a \u0301b", "\n", ""])
    @example(["one two", "one two", "two. one\ntwo. one"])
    @example(["a b", "a\0b c", "a\1b", "\0", "\1", "a b"])
    @example([" a", "<|im_end|> b<|im_end|>\na", "b, 'a.b' a's,\nb--a", "a,\u0338 b"])
    def agrees(texts: list[str]) -> None:
        own = [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
        assert ids(encoder, *texts) == own

    agrees()


@pytest.mark.parametrize("content", [" ", "\0", "a\1b", " b", "b "])
def test_ids_are_the_tokenizer_s_own_whatever_is_added_to_it(content: str) -> None:
    tokenizer = QUICK["gpt2"]()
    tokenizer.add_tokens([AddedToken(content, normalized=False)])
    encoder = WordEncoder(tokenizer, json.loads(tokenizer.to_str()))
    texts = ["a\n b", "a b", "a\0b", "a\1b", "a  b", " b ", content]
    assert ids(encoder, *texts) == [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def test_ids_stay_the_same_when_what_was_learned_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = QUICK["gpt2"]()
    encoder = WordEncoder(tokenizer, json.loads(tokenizer.to_str()))
    monkeypatch.setattr(bpe_cache, "_MOST_PIECES", 30)
    for number in range(60):
        texts = [f"w{number} the lamp,", f"<|im_end|>\nw{number // 2}", "one  two"]
        assert ids(encoder, *texts) == [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert len(encoder._numbers) < 40


def test_a_token_that_takes_space_with_it_is_left_to_the_tokenizer() -> None:
    tokenizer = QUICK["gpt2"]()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])
    encoder = WordEncoder(tokenizer, json.loads(tokenizer.to_str()))
    assert not encoder.by_words
    assert ids(encoder, "a <mask> b") == [tokenizer.encode("a <mask> b", add_special_tokens=False).ids]


@pytest.mark.model
def test_the_starter_is_read_by_words(starter_model: Path) -> None:
    path = starter_model / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    encoder = WordEncoder(tokenizer, json.loads(path.read_text()))
    assert encoder.by_words
    texts = [*CORPUS, "<|im_start|>user\nTwo  words, 12.5!<|im_end|>\n", "a\r\n\r\nb don't"]
    assert ids(encoder, *texts) == [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]
