"""No field that carries meaning is dropped without a word: it is used, or it refuses the row, or a note names it."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolora import ProblemKind, RowProblem
from smolora.common.text.rows import Record
from smolorad.chat.turns import Turn
from smolorad.corpus.arrow_file import read_batches, rows_of
from smolorad.corpus.diff import diff
from smolorad.corpus.fields import FORMS, MARKS, NAMES, REFUSED, REFUSED_OF_TURNS
from smolorad.corpus.notes import of_unused
from smolorad.corpus.prepare import prepare
from smolorad.corpus.shaper import Shaper
from smolorad.corpus.shapes import Sample
from smolorad.domain import OnError, Prepared, PrepareSpec, Shape
from smolorad.errors import BadData, InvalidRequest
from tests.house.repository import ROOT
from tests.unit.corpus.kit import Recorder, fill

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
PAIR = {"prompt": "2+2?", "completion": "4"}
TALK = {"messages": [ASKED, ANSWERED]}
USER, ASSISTANT = Turn("user", "2+2?"), Turn("assistant", "4")


def shaped(*rows: dict[str, Any], shape: Shape | None = None, **columns: str) -> list[Sample | RowProblem]:
    """The rows of a file, one a line."""
    shaper = Shaper(shape, "text", columns)
    return [shaper.shaped(Record(fields, "f", number)) for number, fields in enumerate(rows, 1)]


def row_of(fields: dict[str, Any], shape: Shape | None = None) -> Sample:
    (sample,) = shaped(fields, shape=shape)
    assert isinstance(sample, Sample), sample
    return sample


def why_not(fields: dict[str, Any], shape: Shape | None = None) -> str:
    (problem,) = shaped(fields, shape=shape)
    assert isinstance(problem, RowProblem), problem
    return problem.why


def unused(*rows: dict[str, Any], shape: Shape | None = None, **columns: str) -> list[str]:
    shaper = Shaper(shape, "text", columns)
    for fields in rows:
        assert isinstance(shaper.shaped(Record(fields, "f", 1)), Sample)
    return list(shaper.unused)


def made(tmp_path: Path, *rows: dict[str, Any], host: Recorder | None = None, **fields: Any) -> Prepared:
    """Prepares rows of JSON Lines into `out`; nothing is held out unless it is asked for."""
    files = fill(tmp_path / "in", {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    spec = PrepareSpec("d", upload_id="u", **({"validation": 0.0} | fields))
    return prepare(files, spec, None, tmp_path / "out", host or Recorder())


# Turns that are not trained


@pytest.mark.parametrize("mark", list(MARKS))
@pytest.mark.parametrize("off", [0, False, 0.0, Decimal(0)])
def test_a_turn_that_is_marked_so_is_not_trained(mark: str, off: object) -> None:
    says_no = off if MARKS[mark] else not off
    says_yes = not off if MARKS[mark] else off
    turns = [ASKED, ANSWERED | {mark: says_no}, ASKED, ANSWERED | {mark: says_yes}, ASKED, ANSWERED | {mark: None}]
    (found,) = row_of({"messages": turns}).values
    assert [turn.trained for turn in found if isinstance(turn, Turn)] == [True, False, True, True, True, True]


@pytest.mark.parametrize("value", [0.5, 2, -1, "0", "no", [0]])
def test_a_mark_that_is_neither_on_nor_off_is_refused_by_name(value: object) -> None:
    why = why_not({"messages": [ASKED, ANSWERED | {"weight": value}]})
    assert why == f"has {json.dumps(value)} as 'weight' of turn 2 of 'messages'; " + (
        "write 1 for a turn that is trained and 0 for one that is not"
    )


def test_marks_that_contradict_each_other_are_refused() -> None:
    assert "contradict" in why_not({"messages": [ASKED, ANSWERED | {"weight": 0, "train": True}]})
    (turns,) = row_of({"messages": [ASKED, ANSWERED | {"weight": 0, "train": False}, ASKED, ANSWERED]}).values
    assert isinstance(turns, tuple)
    assert [turn.trained for turn in turns] == [True, False, True, True]


def test_where_no_turn_is_trained_there_is_nothing_to_learn() -> None:
    (problem,) = shaped({"messages": [ASKED, ANSWERED | {"weight": 0}]})
    assert isinstance(problem, RowProblem)
    assert problem.kind is ProblemKind.EMPTY_COMPLETION
    assert "only turns of the assistant that are marked as not trained" in problem.why


def test_marks_of_others_than_the_assistant_change_nothing_but_are_named_where_they_ask_for_it() -> None:
    turns = [ASKED | {"weight": 0}, ANSWERED]
    assert row_of({"messages": turns}).values == ((USER, ASSISTANT),)
    assert unused({"messages": turns}) == []
    assert unused({"messages": [ASKED | {"train": True}, ANSWERED]}) == ["marks of turns that are not the assistant's"]


def test_turns_that_are_not_trained_have_a_weight_in_the_folder_and_only_there(tmp_path: Path) -> None:
    made(tmp_path, TALK, {"messages": [ASKED, ANSWERED | {"weight": 0}, ASKED, ANSWERED]})
    plain, marked = datasets.load_from_disk(str(tmp_path / "out"))["train"]["messages"][:]
    assert plain == [ASKED | {"weight": 1}, ANSWERED | {"weight": 1}]
    assert [turn["weight"] for turn in marked] == [1, 0, 1, 1]
    (batch,) = read_batches(tmp_path / "out" / "train" / "data-00000-of-00001.arrow")
    assert [turn.trained for ((turns,),) in [rows_of(batch, ["messages"])[1:]] for turn in turns] == [True, False, True, True]
    made(tmp_path, TALK, {"messages": [ASKED | {"weight": 0}, ANSWERED | {"weight": 1}, ASKED, ANSWERED]})
    assert datasets.load_from_disk(str(tmp_path / "out"))["train"].features["messages"].feature.keys() == {"role", "content"}


def test_the_same_talk_with_other_marks_is_another_row(tmp_path: Path) -> None:
    twice = [ASKED, ANSWERED, ASKED, ANSWERED]
    marked = [ASKED, ANSWERED | {"weight": 0}, ASKED, ANSWERED]
    assert made(tmp_path, {"messages": twice}, {"messages": marked}, {"messages": twice}).report.rows_kept == 2


# Prompts and completions of turns


def test_of_a_prompt_of_turns_the_completion_alone_is_learned(tmp_path: Path) -> None:
    row = {"prompt": [ASKED, {"role": "assistant", "content": "BAD"}, ASKED], "completion": [ANSWERED]}
    sample = row_of(row)
    assert sample.shape is Shape.PROMPT_COMPLETION
    assert sample.values == ((USER, Turn("assistant", "BAD"), USER), (ASSISTANT,))
    prepared = made(tmp_path, row, row | {"prompt": [ASKED]}, row)
    assert (prepared.shape, prepared.train_rows, prepared.report.rows_duplicate) == (Shape.PROMPT_COMPLETION, 2, 1)
    found = datasets.load_from_disk(str(tmp_path / "out"))["train"]
    assert found[0] == {"prompt": row["prompt"], "completion": [ANSWERED]}
    before = tmp_path / "out"
    (tmp_path / "more").mkdir()
    made(tmp_path / "more", row)
    assert diff(before, tmp_path / "more" / "out", 5, Recorder()).removed_rows == 1


def test_a_completion_without_an_answer_is_nothing_to_learn() -> None:
    for completion in ([ASKED], [{"role": "assistant", "content": " "}], [ANSWERED | {"weight": 0}], "", " "):
        (problem,) = shaped({"prompt": [ASKED], "completion": completion})
        assert isinstance(problem, RowProblem)
        assert problem.kind is ProblemKind.EMPTY_COMPLETION


def test_rows_of_one_prompt_of_turns_stay_together(tmp_path: Path) -> None:
    rows = [{"prompt": [ASKED | {"content": f"q{n % 10}"}], "completion": f"a{n}"} for n in range(40)]
    prepared = made(tmp_path, *rows, validation=0.2)
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert prepared.validation_rows == 8
    asked = [{row["prompt"][0]["content"] for row in found[split]} for split in ("train", "validation")]
    assert not asked[0] & asked[1]


def test_marks_within_a_pair_are_refused_and_before_it_mean_nothing() -> None:
    before = [ASKED, ANSWERED | {"weight": 0}, ASKED]
    row = {"chosen": [*before, ANSWERED], "rejected": [*before, {"role": "assistant", "content": "5"}]}
    assert row_of(row).values[0] == (USER, ASSISTANT, USER)
    assert "compared whole" in why_not(row | {"chosen": [*before, ANSWERED | {"weight": 0}]})


# Fields that refuse a row


LABELLED = {"label": False, "kto_tag": True, "weight": 0, "mask": "Assistant"}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.parametrize("row", [PAIR, TALK, {"prompt": "2+2?", "chosen": "4", "rejected": "5"}])
def test_what_changes_a_row_and_is_not_used_refuses_it_by_name(name: str, row: dict[str, Any]) -> None:
    value = LABELLED.get(name, [{"name": "add"}])
    if "chosen" in row and name in ("label", "kto_tag"):
        assert unused(row | {name: value}) == [name]
        return
    assert repr(name) in why_not(row | {name: value})
    for empty in (None, math.nan, "", " ", [], {}, [None], {"bytes": None, "path": None}, "[]", "null"):
        assert row_of(row | {name: empty}).values == row_of(row).values
    assert unused({"text": "a", name: value}, shape=Shape.TEXT) == [name]


def test_a_label_that_names_a_class_is_no_preference() -> None:
    for label in (3, 0.25, "sport", 0, 1):
        assert unused(PAIR | {"label": label}) == ["label"]
    for label in (True, False, "True", "false "):
        assert "unpaired preferences" in why_not(PAIR | {"label": label})
    assert unused(TALK | {"weight": 1, "mask": "User"}) == ["weight", "mask"]


@pytest.mark.parametrize("name", list(REFUSED_OF_TURNS))
def test_what_changes_a_turn_and_is_not_used_refuses_the_row(name: str) -> None:
    turn = {"role": "assistant", "content": "4", name: [{"type": "function"}]}
    for row in (
        {"messages": [ASKED, turn]},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4", name: "x"}]},
        {"prompt": [ASKED], "completion": [turn]},
        {"prompt": [ASKED], "chosen": [turn], "rejected": [ANSWERED]},
    ):
        assert re.search(r"turn [12] of '(messages|conversations|completion|chosen)'", why_not(row))
    for empty in (None, "", [], {}):
        assert row_of({"messages": [ASKED, turn | {name: empty}]}).values == ((USER, ASSISTANT),)


@pytest.mark.parametrize("kind", ["image", "input_text", "thinking", "image_url", "tool_use", "output_text"])
def test_a_part_of_another_type_is_named_by_it(kind: str) -> None:
    part = {"type": kind, kind: "x", "text": None if kind == "image" else "x"}
    why = why_not({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}, ANSWERED]})
    assert why.startswith(f"has a part of the type \"{kind}\" in the content of turn 1 of 'messages'")


def test_parts_of_text_are_joined_and_what_else_they_have_is_named() -> None:
    parts = [
        {"type": "text", "text": "2+"},
        {"text": "2?", "image": None},
        {"type": "text", "text": "", "cache_control": {"a": 1}},
    ]
    row = {"messages": [{"role": "user", "content": parts}, ANSWERED]}
    assert row_of(row).values == ((USER, ASSISTANT),)
    assert unused(row) == ["cache_control of parts"]
    assert "a string as a part" in why_not({"messages": [{"role": "user", "content": ["a"]}, ANSWERED]})


def test_the_field_that_an_error_names_is_in_the_file() -> None:
    assert why_not({"prompt": ["a", "b"], "completion": "c"}).startswith("has a string as turn 1 of 'prompt'")
    (problem,) = shaped({"question": 1, "answer": "4"}, prompt="question", completion="answer")
    assert isinstance(problem, RowProblem)
    assert problem.why.startswith("has a number in 'question', not text")
    (problem,) = shaped({"talk": [1]}, messages="talk")
    assert isinstance(problem, RowProblem)
    assert problem.why.startswith("has a number as turn 1 of 'talk'")


# System prompts, Alpaca's fields


SYSTEM = Turn("system", "Be brief.")


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (TALK, ((SYSTEM, USER, ASSISTANT),)),
        (PAIR, ((SYSTEM, USER), (ASSISTANT,))),
        ({"prompt": [ASKED], "completion": "4"}, ((SYSTEM, USER), (ASSISTANT,))),
        ({"instruction": "2+2?", "output": "4"}, ((SYSTEM, USER, ASSISTANT),)),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, ((SYSTEM, USER), (ASSISTANT,), (Turn("assistant", "5"),))),
        ({"instruction": "2+2?", "chosen": "4", "rejected": "5"}, ((SYSTEM, USER), (ASSISTANT,), (Turn("assistant", "5"),))),
        (
            {
                "conversations": [{"from": "human", "value": "2+2?"}],
                "chosen": {"from": "gpt", "value": "4"},
                "rejected": {"from": "gpt", "value": "5"},
            },
            ((SYSTEM, USER), (ASSISTANT,), (Turn("assistant", "5"),)),
        ),
    ],
)
def test_a_system_prompt_beside_a_row_becomes_its_first_turn(row: dict[str, Any], values: tuple[Any, ...]) -> None:
    assert row_of(row | {"system": "Be brief."}).values == values
    for empty in ("", " ", None, math.nan):
        assert row_of(row | {"system": empty}).values == row_of(row).values
    for other in (1, True, ["a"], {"a": 1}):
        assert "in 'system', not text" in why_not(row | {"system": other})


def test_two_system_prompts_are_refused_unless_they_are_one() -> None:
    turns = [{"role": "system", "content": "Be brief."}, ASKED, ANSWERED]
    assert row_of({"messages": turns, "system": "Be brief. "}).values == ((SYSTEM, USER, ASSISTANT),)
    assert "two system prompts" in why_not({"messages": turns, "system": "Be long."})


def test_rows_without_a_system_prompt_stand_beside_rows_with_one() -> None:
    first, other = shaped(PAIR | {"system": "Be brief."}, PAIR | {"system": ""})
    assert isinstance(first, Sample)
    assert isinstance(other, Sample)
    assert other.values == ((USER,), (ASSISTANT,))
    first, late = shaped(PAIR, PAIR | {"system": "Be brief."})
    assert isinstance(late, RowProblem)
    assert late.kind is ProblemKind.MIXED_SHAPES
    assert "has a system prompt where the rows before it have none" in late.why


@pytest.mark.parametrize("name", ["input", "system", "history"])
@pytest.mark.parametrize("empty", [None, math.nan, "", "  "])
def test_what_alpaca_s_rows_may_lack_may_be_empty(name: str, empty: object) -> None:
    row = {"instruction": "Sum up.", "output": "A."}
    for shape in (Shape.CHAT, Shape.PROMPT_COMPLETION):
        assert row_of(row | {name: empty}, shape).values == row_of(row, shape).values


@pytest.mark.parametrize("value", [True, 1, 0.5, ["a"], {"a": "b"}])
def test_alpaca_s_input_is_text_or_nothing(value: object) -> None:
    for shape in (Shape.CHAT, Shape.PROMPT_COMPLETION):
        why = why_not({"instruction": "Sum up.", "input": value, "output": "A."}, shape)
        assert "in 'input', not text; write text or null" in why


def test_alpaca_s_history_is_the_turns_before() -> None:
    row = {"instruction": "2+2?", "output": "4", "history": [["Hi", "Hello."], ["Bye", "Bye."]]}
    said = [Turn("user", "Hi"), Turn("assistant", "Hello."), Turn("user", "Bye"), Turn("assistant", "Bye.")]
    assert row_of(row).values == ((*said, USER, ASSISTANT),)
    assert row_of(row | {"history": json.dumps(row["history"])}).values == row_of(row).values
    assert "no pairs of texts in 'history'" in why_not(row | {"history": ["Hi", "Hello."]})
    assert "read such rows with --shape chat" in why_not(row, Shape.PROMPT_COMPLETION)


# The note


def test_one_note_names_what_is_not_used(tmp_path: Path) -> None:
    host = Recorder()
    turn = {"role": "assistant", "content": "4", "name": "bot", "refusal": None}
    made(
        tmp_path,
        *({"id": n, "messages": [ASKED, turn], "source": "web", "score": None, "tools": []} for n in range(3)),
        host=host,
    )
    assert host.notes == ["Not used: name of turns, id, source."]
    host = Recorder()
    made(tmp_path, {"text": "a"} | {f"column{n}": n for n in range(1, 40)}, {"text": "b", "late": 1}, host=host)
    (note,) = host.notes
    assert note.startswith("Not used: column1, column2, ")
    assert note.endswith("column39, late.")


def test_a_prompt_that_the_answers_do_not_repeat_is_named() -> None:
    row = {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, {"role": "assistant", "content": "5"}], "score_chosen": 9.0}
    assert unused(row | {"prompt": "2+2?"}) == ["score_chosen"]
    assert unused(row | {"prompt": "3+3?"}) == ["prompt", "score_chosen"]


def test_columns_that_the_user_named_decide_what_a_row_is() -> None:
    row = TALK | {"q": "2+2?", "a": "4"}
    (sample,) = shaped(row, prompt="q", completion="a")
    assert isinstance(sample, Sample)
    assert sample.values == ("2+2?", "4")
    assert unused(row, prompt="q", completion="a") == ["messages"]


def test_a_column_that_stands_nowhere_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'sys', which no row has; the fields are 'prompt', 'completion', 'id'"):
        made(tmp_path, PAIR, PAIR | {"id": 1}, columns={"system": "sys"})
    made(tmp_path, PAIR | {"sys": ""}, {"prompt": "a", "completion": "b"}, columns={"system": "sys"})
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "in" / "b.parquet")
    (tmp_path / "in" / "a.jsonl").unlink()
    with pytest.raises(InvalidRequest, match="'sys', which no row has"):
        prepare(tmp_path / "in", PrepareSpec("d", columns={"system": "sys"}), None, tmp_path / "out", Recorder())


def test_null_fields_do_not_tell_the_shape() -> None:
    assert row_of({"messages": None, "chosen": None, "rejected": None, "prompt": "2+2?", "completion": "4"}).values == (
        "2+2?",
        "4",
    )
    assert "has null in 'text'" in why_not({"text": None, "id": 1})


def test_the_documents_name_every_field() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    missing = [name for name in (*NAMES, *REFUSED, *REFUSED_OF_TURNS, *MARKS) if f"`{name}`" not in page]
    assert missing == []


# Whatever stands in rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats(allow_infinity=False) | st.sampled_from(["", "a", "user", "0"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "weight", "type", "text"]), inner)
    ),
    max_leaves=5,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.sampled_from(["a", "b", ""])},
    optional=dict.fromkeys((*MARKS, *REFUSED_OF_TURNS, "name"), JSON),
)
FIELDS = st.dictionaries(st.sampled_from([*NAMES, *REFUSED, "id", "split"]), JSON | st.lists(TURN, max_size=4), max_size=6)


@given(FIELDS)
def test_every_field_of_a_row_is_used_or_refused_or_empty_or_named(fields: dict[str, Any]) -> None:
    shaper = Shaper(None, "text", {})
    found = shaper.shaped(Record(fields, "f", 1))
    if isinstance(found, RowProblem):
        assert found.why
        return
    used = {name for form in FORMS if form.shape is found.shape for name in form.used}
    for name, value in fields.items():
        said = repr(value).strip("[](){}' ,") not in ("", "None", "nan")
        if said and name not in used and name != "split":
            assert name in shaper.unused or name in REFUSED
    if found.shape is Shape.CHAT:
        (turns,) = found.values
        assert any(turn.role == "assistant" and turn.trained for turn in turns if isinstance(turn, Turn))


def test_rows_that_are_refused_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"a\.jsonl:2 has 'label', as unpaired preferences"):
        made(tmp_path, PAIR, PAIR | {"completion": "5", "label": False})
    report = made(tmp_path, PAIR, PAIR | {"completion": "5", "label": False}, on_error=OnError.DROP).report
    assert (report.rows_kept, report.rows_malformed) == (1, 1)


def test_what_a_field_of_the_users_choice_stands_for_is_named_as_in_the_file() -> None:
    row = {"question": "2+2?", "answer": "4", "prompt": "another", "completion": "5"}
    assert unused(row, prompt="question", completion="answer") == ["prompt", "completion"]
    assert unused({"body": "a", "text": "b"}, {"body": "c", "text": "d"}, text="body") == ["text"]
    assert unused({"text": "a", "sys": "b"}, system="sys") == ["sys"]


def test_names_that_cannot_be_written_plainly_are_quoted_and_each_is_named() -> None:
    assert of_unused(["", "a b", "c,d", "e\nf", "\ud800"]) == r"Not used: '', a b, 'c,d', 'e\nf', '\ud800'."
    assert of_unused([f"f{number}" for number in range(60)]).endswith(" f58, f59.")


@pytest.mark.parametrize("depth", [700, 2000])
def test_what_is_nested_too_deeply_is_its_rows_problem(depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    for row in ({"text": "a", "id": deep}, {"messages": [ASKED, ANSWERED | {"id": deep}]}, PAIR | {"tools": deep}):
        assert why_not(row) == "is nested too deeply to be read; flatten it"


@pytest.mark.parametrize("weight", ["0", "0.5", " 2 ", 0, 0.0, 3, 10**400, math.inf, Decimal("0.5")])
def test_a_weight_of_a_row_is_refused_also_as_a_tables_text(weight: object) -> None:
    assert "has a 'weight' of its own" in why_not(PAIR | {"weight": weight})
    for other in ("1", "1.0", 1, Decimal(1), "70 kg", "nan", "", None, math.nan):
        assert row_of(PAIR | {"weight": other}).values == ("2+2?", "4")


@pytest.mark.parametrize("name", REFUSED_OF_TURNS)
def test_what_refuses_a_turn_refuses_it_within_a_part_as_well(name: str) -> None:
    part = {"type": "text", "text": "2+2?"}
    why = why_not({"messages": [{"role": "user", "content": [part | {name: "a"}]}, ANSWERED]})
    assert "a part of turn 1 of 'messages'" in why
    row_of({"messages": [{"role": "user", "content": [part | {name: None}]}, ANSWERED]})


def test_a_prompt_of_turns_that_answers_repeat_stands_once() -> None:
    bad = {"role": "assistant", "content": "5"}
    values = ((USER,), (ASSISTANT,), (Turn("assistant", "5"),))
    row = {"prompt": [ASKED], "chosen": [ASKED, ANSWERED], "rejected": [ASKED, bad]}
    assert row_of(row).values == values
    assert row_of(row | {"chosen": [ANSWERED], "rejected": [bad]}).values == values
    assert row_of(row | {"chosen": [ANSWERED]}).values == values
    assert row_of({"prompt": "2+2?", "completion": [ASKED, ANSWERED]}).values == values[:2]
    assert "nothing to learn" in why_not({"prompt": [ASKED], "completion": [ASKED]})
    begun = {"role": "assistant", "content": "The answer:"}
    kept = row_of({"prompt": [ASKED, begun], "completion": [begun, ANSWERED]}).values[1]
    assert kept == (Turn("assistant", "The answer:"), ASSISTANT)
    told = row_of(row | {"system": "Be brief."}).values
    assert told == ((Turn("system", "Be brief."), USER), *values[1:])


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_beside_another_among_the_turns_is_refused_wherever_it_stands(role: str) -> None:
    other = {"role": role, "content": "Be long."}
    for turns in ([other, ASKED, ANSWERED], [ASKED, ANSWERED, other, ASKED, ANSWERED]):
        assert "two system prompts" in why_not({"messages": turns, "system": "Be brief."})
        row_of({"messages": turns, "system": ""})
