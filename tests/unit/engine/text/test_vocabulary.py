"""The bytes of every token, for each kind of tokenizer that language models have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import UnsupportedModel
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import llama_like_tokenizer, unigram_tokenizer

KINDS = (tiny_tokenizer, llama_like_tokenizer, unigram_tokenizer)
TEXT = 'The quick fox: {"a": 12}'


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_bytes_of_the_tokens_make_the_text(make: Callable[[], Any]) -> None:
    tokenizer = make()
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(map(vocabulary.bytes_of, ids)).decode().lstrip() == TEXT
    assert vocabulary.ll_tokenizer.eos_tokens == [tokenizer.eos_token_id]
    assert vocabulary.bytes_of(len(tokenizer) + 5) == b"", "a row of the head beyond the vocabulary"


@pytest.mark.parametrize("make", KINDS[:2], ids=lambda make: make.__name__)
def test_a_character_may_be_spread_over_tokens(make: Callable[[], Any]) -> None:
    tokenizer = make()
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    ids = tokenizer.encode("\U0001f9ea", add_special_tokens=False)
    assert len(ids) > 1
    assert b"".join(map(vocabulary.bytes_of, ids)).decode().lstrip() == "\U0001f9ea"


def test_a_tokenizer_that_tells_no_bytes_is_refused_a_form_and_still_speaks() -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "yes": 1, "no": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), [])
    with pytest.raises(UnsupportedModel, match=r"tokenizer is of an unknown kind .*; leave out `response_format`\."):
        _ = vocabulary.ll_tokenizer
    assert vocabulary.bytes_of(2) == b"no"


def test_a_tokenizer_of_another_library_is_refused_a_form() -> None:
    class Slow:
        def decode(self, ids: list[int]) -> str:
            return "x" * len(ids)

    with pytest.raises(UnsupportedModel, match="not one of the tokenizers library"):
        _ = Vocabulary(Slow(), []).ll_tokenizer


def test_a_tokenizer_without_an_end_has_a_vocabulary_too() -> None:
    tokenizer = tiny_tokenizer()
    assert Vocabulary(tokenizer, []).ll_tokenizer.vocab_size == len(tokenizer)


def test_nothing_is_built_before_somebody_asks() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    vocabulary = Vocabulary(Untouchable(), [0])
    assert vocabulary.end_ids == [0]
    with pytest.raises(AssertionError, match="backend_tokenizer"):
        _ = vocabulary.ll_tokenizer
