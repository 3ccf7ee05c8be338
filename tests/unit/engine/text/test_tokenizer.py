"""The serving tokenizer says what transformers' does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from smolorad.engine.text.tokenizer import ServingTokenizer
from tests.tiny import tiny_tokenizer
from tests.unit.engine.kit import llama_like_tokenizer, unigram_tokenizer

MAKERS: tuple[Callable[[], Any], ...] = (tiny_tokenizer, llama_like_tokenizer, unigram_tokenizer)


def serving(theirs: Any) -> ServingTokenizer:
    special = {name: str(token) for name, token in theirs.special_tokens_map.items()}
    return ServingTokenizer(theirs.backend_tokenizer.to_str().encode(), theirs.chat_template, special)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def both(request: pytest.FixtureRequest) -> tuple[ServingTokenizer, Any]:
    theirs = request.param()
    return serving(theirs), theirs


@given(text=st.text(max_size=60) | st.text("the <|im_end|>\n </s>", max_size=40))
def test_texts(both: tuple[ServingTokenizer, Any], text: str) -> None:
    ours, theirs = both
    ids = theirs(text).input_ids
    assert ours(text).input_ids == ids
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_tokens(both: tuple[ServingTokenizer, Any]) -> None:
    ours, theirs = both
    assert len(ours) == len(theirs)
    for id in [*range(len(theirs)), len(theirs) + 3]:
        assert ours.convert_ids_to_tokens(id) == theirs.convert_ids_to_tokens(id)
    special = [{id for id, token in one.added_tokens_decoder.items() if token.special} for one in both]
    assert special[0] == special[1]


@given(turns=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), max_size=4))
def test_conversations(turns: list[tuple[str, str]]) -> None:
    theirs = tiny_tokenizer()
    talk = [{"role": role, "content": content} for role, content in turns] or [{"role": "user", "content": ""}]
    expected = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert serving(theirs).apply_chat_template(talk, add_generation_prompt=True)["input_ids"] == expected


def test_what_a_template_refuses() -> None:
    theirs = tiny_tokenizer()
    theirs.chat_template = "{{ raise_exception('only questions, please') }}"
    with pytest.raises(TemplateError, match="only questions, please"):
        serving(theirs).apply_chat_template([{"role": "user", "content": "A"}])
