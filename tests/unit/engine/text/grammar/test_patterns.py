"""Expressions in llguidance's words: what it makes of them matches in Python, too."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.domain import ResponseFormat
from smolorad.engine.text.grammar.patterns import NotGuaranteed, translate
from smolorad.errors import InvalidRequest
from tests.examples import examples
from tests.tiny import tiny_tokenizer
from tests.unit.engine.text.grammar.test_grammar import Babbler

BABBLER = Babbler(tiny_tokenizer())
ATOMS = st.sampled_from(
    [
        "a",
        "é",
        "🙂",
        ".",
        r"\d",
        r"\D",
        r"\w",
        r"\W",
        r"\s",
        r"\S",
        r"\.",
        r"\/",
        r"\n",
        r"\x41",
        "/",
        "#",
        " ",
        '"',
        "&",
        "~",
        "-",
        "}",
    ]
)
SETS = st.lists(
    st.sampled_from(["a", "b-d", r"\d", r"\W", r"\S", "&", "&&", "[", "~", r"\]", r"\-", ".", "é", "+-.", r"\n", " "]),
    min_size=1,
    max_size=3,
).map("".join)
PARTS = st.one_of(ATOMS, SETS.map("[{}]".format), SETS.map("[^{}]".format))
QUANTIFIED = st.tuples(PARTS, st.sampled_from(["", "", "?", "{2}", "{1,3}", "{,2}", "??", "{0,1}?"])).map("".join)
EXPRESSIONS = st.recursive(
    QUANTIFIED,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda several: f"(?:{'|'.join(several)})"),
    ),
    max_leaves=5,
)


@settings(max_examples=examples(120))
@given(expression=EXPRESSIONS, seed=st.integers(0, 99))
def test_what_is_said_matches_in_python(expression: str, seed: int) -> None:
    form = ResponseFormat(regex=expression)
    try:
        BABBLER.grammars.get(form)
    except InvalidRequest:
        return  # refused first: a set that leaves nothing, for example
    said = BABBLER.say(form, seed, most=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert said is None or re.fullmatch(expression, said), said


@pytest.mark.parametrize(
    "expression", ["a{66001}", "((a{300}){300})", "(?:(a|b){1000}c){100}", "a*+", "a{2}+", "(?x)a", r"[\q]", "[b-a]", "[a"]
)
def test_what_no_parser_without_memory_follows_is_refused(expression: str) -> None:
    with pytest.raises(NotGuaranteed):
        translate(expression)
