"""Each shape from each of its spellings; what is no row of any, or of another, is reported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolora import ProblemKind, RowProblem
from smolora.common.text.rows import Record
from smolorad.chat.turns import Turn
from smolorad.corpus import fields as known
from smolorad.corpus.shaper import Shaper
from smolorad.corpus.shapes import COLUMNS, Sample
from smolorad.domain import Shape
from smolorad.jobs.prepare import COLUMNS as NAMES_TO_MAP

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
TURNS = (Turn("user", "2+2?"), Turn("assistant", "4"))


def shaped(
    *rows: Mapping[str, Any], shape: Shape | None = None, text_field: str = "text", columns: Mapping[str, str] | None = None
) -> list[Sample | RowProblem]:
    """The rows of a file, one a line."""
    shaper = Shaper(shape, text_field, columns or {})
    return [shaper.shaped(Record(fields, "f", number)) for number, fields in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("fields", "shape", "values"),
    [
        ({"text": " a "}, Shape.TEXT, ("a",)),
        ({"text": "a", "label": 1}, Shape.TEXT, ("a",)),
        ({"prompt": "2+2?", "completion": " 4"}, Shape.PROMPT_COMPLETION, ("2+2?", " 4")),
        ({"messages": [ASKED, ANSWERED]}, Shape.CHAT, (TURNS,)),
        ({"messages": '[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]'}, Shape.CHAT, (TURNS,)),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, Shape.PROMPT_COMPLETION, (TURNS[:1], TURNS[1:])),
        ({"prompt": "2+2?", "completion": [ANSWERED]}, Shape.PROMPT_COMPLETION, (TURNS[:1], TURNS[1:])),
        ({"prompt": "x", "messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ANSWERED]}, Shape.CHAT,
         (TURNS,)),
        ({"prompt": [ASKED], "completion": "4"}, Shape.PROMPT_COMPLETION, (TURNS[:1], TURNS[1:])),
        ({"messages": {"role": ["user", "assistant"], "content": ["2+2?", "4"]}}, Shape.CHAT, (TURNS,)),
        ({"messages": [ASKED, ANSWERED | {"tool_calls": None}]}, Shape.CHAT, (TURNS,)),
        # ShareGPT
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, Shape.CHAT, (TURNS,)),
        ({"system": "Be brief.", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
         Shape.CHAT, ((Turn("system", "Be brief."), *TURNS),)),
        # Alpaca
        ({"instruction": "2+2?", "input": "", "output": "4"}, Shape.CHAT, (TURNS,)),
        ({"instruction": "Add", "input": "2 2", "output": "4"}, Shape.CHAT,
         ((Turn("user", "Add\n\n2 2"), Turn("assistant", "4")),)),
        # Preferences
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, Shape.PREFERENCE, ("2+2?", "4", "5")),
        ({"chosen": "Q: 2+2? A: 4", "rejected": "Q: 2+2? A: 5"}, Shape.PREFERENCE, ("Q: 2+2? A: ", "4", "5")),
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, {"role": "assistant", "content": "5"}], "prompt": "2+2?"},
         Shape.PREFERENCE, ((Turn("user", "2+2?"),), (Turn("assistant", "4"),), (Turn("assistant", "5"),))),
    ],
)  # fmt: skip
def test_a_row_is_told_by_its_fields(fields: dict[str, Any], shape: Shape, values: tuple[Any, ...]) -> None:
    (sample,) = shaped(fields)
    assert isinstance(sample, Sample), sample
    assert (sample.shape, sample.values) == (shape, values)
    assert len(COLUMNS[shape]) == len(values)


def test_alpaca_becomes_its_own_prompt_where_that_is_asked_for() -> None:
    (sample,) = shaped({"instruction": "Add", "input": "2 2", "output": "4"}, shape=Shape.PROMPT_COMPLETION)
    assert isinstance(sample, Sample)
    prompt, completion = sample.values
    assert isinstance(prompt, str)
    assert prompt.startswith("Below is an instruction")
    assert prompt.endswith("### Instruction:\nAdd\n\n### Input:\n2 2\n\n### Response:\n")
    assert completion == "4"


def test_a_column_map_gives_fields_their_standard_names() -> None:
    rows = shaped({"question": "2+2?", "answer": "4"}, columns={"prompt": "question", "completion": "answer"})
    assert [row.values for row in rows if isinstance(row, Sample)] == [("2+2?", "4")]
    rows = shaped({"body": "a"}, text_field="body")
    assert [row.values for row in rows if isinstance(row, Sample)] == [("a",)]


@pytest.mark.parametrize(
    ("fields", "named", "why"),
    [
        (
            {"text": "a", "body": "b"},
            {"text_field": "bodyy"},
            "has no field 'bodyy': its fields are 'text', 'body'; name one as",
        ),
        ({"prompt": "a", "completion": "b"}, {"text_field": "body"}, "has no field 'body'"),
        ({"prompt": "a", "completion": "b"}, {"columns": {"prompt": "question"}}, "has no field 'question'.* with --columns"),
        ({"text": "a"}, {"columns": {"prompt": "question", "completion": "answer"}}, "has no field 'question'"),
    ],
)
def test_a_field_that_is_named_but_not_there_is_never_replaced_by_another(
    fields: dict[str, Any], named: dict[str, Any], why: str
) -> None:
    (problem,) = shaped(fields, **named)
    assert isinstance(problem, RowProblem)
    assert re.match(why, problem.why)
    unfit = Shaper(None, named.get("text_field", "text"), named.get("columns", {})).unfit_columns(list(fields))
    assert unfit == problem.why.replace("field", "column", 1).replace("its fields", "its columns")


def test_a_row_without_the_named_field_is_a_problem_among_those_that_have_it() -> None:
    first, other = shaped({"text": "a", "body": "b"}, {"text": "c"}, text_field="body")
    assert isinstance(first, Sample)
    assert first.values == ("b",)
    assert isinstance(other, RowProblem)
    assert other.why.startswith("has no field 'body'")


def test_what_a_row_may_lack_it_may_lack_under_another_name() -> None:
    (sample,) = shaped(
        {"q": "Add", "input": "not this", "a": "4"}, columns={"instruction": "q", "input": "context", "output": "a"}
    )
    assert isinstance(sample, Sample)
    assert sample.values == ((Turn("user", "Add"), Turn("assistant", "4")),)


def test_the_names_a_request_may_map_are_those_that_are_known_here() -> None:
    assert set(NAMES_TO_MAP) == set(known.NAMES)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"body": "a"}, ProblemKind.MALFORMED, "has no field 'text': its fields are 'body'"),
        ({"text": 1}, ProblemKind.MALFORMED, "has a number in 'text'"),
        ({"text": "a\0"}, ProblemKind.ENCODING, "NUL"),
        ({"prompt": "a", "completion": " "}, ProblemKind.EMPTY_COMPLETION, "has nothing in 'completion'"),
        ({"instruction": "a", "output": ""}, ProblemKind.EMPTY_COMPLETION, "has nothing in 'output'"),
        ({"messages": [ASKED]}, ProblemKind.EMPTY_COMPLETION, "no turn of the assistant"),
        ({"messages": []}, ProblemKind.MALFORMED, "an empty list"),
        ({"messages": "hello"}, ProblemKind.MALFORMED, "not a list of turns"),
        ({"messages": ["hello"]}, ProblemKind.MALFORMED, "has a string as turn 1"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, ProblemKind.MALFORMED, '"wizard" as the role of turn 1'),
        ({"messages": [{"role": "user", "content": None}]}, ProblemKind.MALFORMED, "has null as the content of turn 1"),
        ({"messages": {"role": [], "content": []}}, ProblemKind.MALFORMED, "an empty list"),
        (
            {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            ProblemKind.MALFORMED,
            "calls a tool in turn 2 of 'messages'",
        ),
        ({"messages": [ASKED, {"role": "assistant", "content": "\ud83d"}]}, ProblemKind.ENCODING, "half of a character"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, ProblemKind.EMPTY_COMPLETION, "the same answer"),
        ({"chosen": "Q: b", "rejected": "Q: b"}, ProblemKind.EMPTY_COMPLETION, "the same answer"),
        ({"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]}, ProblemKind.EMPTY_COMPLETION, "the same answer"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, ProblemKind.EMPTY_COMPLETION, "no answer in 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, ProblemKind.MALFORMED, "has no prompt"),
    ],
)
def test_what_is_no_row_has_a_kind_and_a_mend(fields: dict[str, Any], kind: ProblemKind, words: str) -> None:
    (problem,) = shaped(fields)
    assert isinstance(problem, RowProblem)
    assert (problem.file, problem.line, problem.kind) == ("f", 1, kind)
    assert words in problem.why


def test_a_row_of_another_shape_names_the_first_one() -> None:
    first, other, more = shaped({"text": "a"}, {"prompt": "b", "completion": "c"}, {"text": "d"})
    assert isinstance(first, Sample)
    assert isinstance(more, Sample)
    assert isinstance(other, RowProblem)
    assert other.kind is ProblemKind.MIXED_SHAPES
    assert "is a row of prompt and completion, while those before it are of text (f:1)" in other.why


def test_a_row_that_has_the_fields_of_both_is_what_the_others_are() -> None:
    rows = shaped({"text": "a"}, {"text": "b", "prompt": "c", "completion": "d"})
    assert [row.values for row in rows if isinstance(row, Sample)] == [("a",), ("b",)]


KEYS = st.sampled_from(["role", "content", "from", "value", "text", "type"])
NAMES = st.sampled_from([name for names in COLUMNS.values() for name in names] + ["conversations", "instruction", "output"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(NAMES, JSON, max_size=4), max_size=4)


@given(ROWS, st.sampled_from([None, *Shape]))
def test_whatever_stands_in_the_fields_it_is_a_row_of_one_shape_or_a_problem(
    rows: list[dict[str, Any]], shape: Shape | None
) -> None:
    found = [row for row in shaped(*rows, shape=shape) if isinstance(row, Sample)]
    assert len({(row.shape, tuple(map(type, row.values))) for row in found}) <= 1
    assert all(row.shape is shape for row in found if shape is not None)
