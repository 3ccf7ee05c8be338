"""The whole preparation of real files: what is in the dataset, what the report says, and that nothing is left of a failure."""

from __future__ import annotations

import gc
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from smolorad.corpus.prepare import prepare
from smolorad.domain import FileType, OnError, PhaseProgress, Prepared, PrepareSpec, RowProblem, Shape
from smolorad.errors import BadData, Cancelled, Damaged, InvalidRequest, SmoloraError
from tests.examples import examples
from tests.unit.client.text.kit import TEXTS
from tests.unit.corpus.kit import Recorder, fill

MIXED = {
    "b.jsonl": '{"text": "one"}\nnonsense\n{"text": " "}\n{"text": "two "}\n',
    "a/a.jsonl": '{"text": "one"}\n{"body": 1}\n',
}


def made(files: Path, output: Path, *, tokenizer: Path | None = None, host: Recorder | None = None, **fields: Any) -> Prepared:
    """Prepares a folder; nothing is held out unless it is asked for."""
    spec = replace(PrepareSpec("d", upload_id="u", validation=0.0), **fields)
    return prepare(files, spec, tokenizer, output, host or Recorder())


def loaded(output: Path) -> dict[str, list[str]]:
    """The texts of each split, as plain `datasets` loads them."""
    found = datasets.load_from_disk(str(output))
    assert isinstance(found, datasets.DatasetDict)
    assert all(split.features == {"text": datasets.Value("string")} for split in found.values())
    return {name: split["text"][:] for name, split in found.items()}


def test_a_folder_of_txt_files_becomes_their_lines_in_sorted_order(tmp_path: Path) -> None:
    files = fill(
        tmp_path / "in", {"b.txt": "3\n\n 4 ", "a/z.txt": "2\n1\n", "a/b/c.txt": "0\n", ".x.txt": "no", "r.log": "# no"}
    )
    host = Recorder()
    prepared = made(files, tmp_path / "out", host=host)
    assert loaded(tmp_path / "out") == {"train": ["0", "2", "1", "3", "4"]}
    assert (prepared.train_rows, prepared.validation_rows, prepared.report.files) == (5, 0, 3)
    assert host.notes == ["Left out: r.log."]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset_dict.json", "train"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("v.csv", 'id,verse\n1,"a, b"\n2,c\n3,"a, b"\n4,\n'),
        ("v.jsonl", '{"verse": "a, b"}\n{"verse": "c"}\n{"verse": "a, b"}\n{"verse": ""}'),
    ],
)
def test_the_named_field_is_taken_empties_and_duplicates_are_dropped(tmp_path: Path, file: str, content: str) -> None:
    prepared = made(fill(tmp_path / "in", {file: content}), tmp_path / "out", text_field="verse")
    assert loaded(tmp_path / "out") == {"train": ["a, b", "c"]}
    report = prepared.report
    assert (report.rows_read, report.rows_kept, report.rows_empty, report.rows_duplicate, report.words) == (4, 2, 1, 1, 3)


def test_a_saved_dataset_is_taken(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"body": ["b", "a", "b"]}).save_to_disk(tmp_path / "in" / "saved")
    prepared = made(tmp_path / "in", tmp_path / "out", text_field="body")
    assert loaded(tmp_path / "out") == {"train": ["b", "a"]}
    assert (prepared.report.files, prepared.report.rows_duplicate) == (1, 1)


def test_what_was_prepared_can_be_prepared_again(tmp_path: Path) -> None:
    made(fill(tmp_path / "in", {"a.txt": "one\ntwo"}), tmp_path / "out")
    made(tmp_path / "out", tmp_path / "again")
    assert loaded(tmp_path / "again") == loaded(tmp_path / "out")


def test_rows_are_cut_before_duplicates_are_dropped(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "a b  c d\na b e\n"})
    prepared = made(files, tmp_path / "out", chunk_size=2)
    assert loaded(tmp_path / "out") == {"train": ["a b", "c d", "e"]}
    report = prepared.report
    assert (report.rows_read, report.rows_kept, report.rows_duplicate, report.words) == (2, 3, 1, 5)


@pytest.mark.parametrize("content", ["one", "\0"])
def test_the_garbage_collector_is_left_as_it_was(tmp_path: Path, content: str) -> None:
    before = gc.get_threshold()
    during: list[int] = []
    host = Recorder()
    host.check = lambda: during.append(gc.get_threshold()[0])  # type: ignore[method-assign]
    with suppress(BadData):
        made(fill(tmp_path / "in", {"a.txt": content}), tmp_path / "out", host=host)
    assert gc.get_threshold() == before
    assert min(during) > before[0]


# Malformed rows


def test_malformed_rows_fail_the_job_with_every_place(tmp_path: Path) -> None:
    with pytest.raises(
        BadData, match=r"^a/a\.jsonl:2 has no field 'text'.* 2 rows are malformed in all.*--on-error drop"
    ) as caught:
        made(fill(tmp_path / "in", MIXED), tmp_path / "out")
    assert [violation.field for violation in caught.value.violations] == ["a/a.jsonl:2", "b.jsonl:2"]
    assert not (tmp_path / "out").exists()


def test_malformed_rows_are_dropped_counted_and_located_where_that_is_chosen(tmp_path: Path) -> None:
    prepared = made(fill(tmp_path / "in", MIXED), tmp_path / "out", on_error=OnError.DROP)
    assert loaded(tmp_path / "out") == {"train": ["one", "two"]}
    report = prepared.report
    assert (report.files, report.rows_read, report.rows_kept, report.rows_empty) == (2, 6, 2, 1)
    assert (report.rows_duplicate, report.rows_malformed) == (1, 2)
    assert report.problems == (
        RowProblem(
            "a/a.jsonl",
            2,
            "has no field 'text': its fields are 'body'; name one as text_field (--text-field)",
            excerpt="{'body': 1}",
        ),
        RowProblem("b.jsonl", 2, "is not JSON: Expecting value at column 1; write one JSON object a line", excerpt="nonsense"),
    )


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS.map(lambda text: json.dumps({"text": text})) | st.sampled_from(["{", "[]", '{"text": 1}', ""])))
def test_every_row_is_accounted_for(tmp_path: Path, rows: list[str]) -> None:
    files = fill(tmp_path / "in", {"a.jsonl": "\n".join(["{}", '{"text": "always"}', *rows])})
    report = made(files, tmp_path / "out", on_error=OnError.DROP).report
    assert report.rows_read == report.rows_kept + report.rows_empty + report.rows_duplicate + report.rows_malformed
    (texts,) = loaded(tmp_path / "out").values()
    assert len(texts) == len(set(texts)) == report.rows_kept
    assert all(text == text.strip() != "" for text in texts)


# The split


def test_the_split_has_its_share_keeps_the_order_and_leaks_nothing(tmp_path: Path) -> None:
    lines = [f"line {n}" for n in range(200)]
    files = fill(tmp_path / "in", {"a.txt": "\n".join([*lines, *reversed(lines)])})
    prepared = made(files, tmp_path / "out", validation=0.1)
    assert (prepared.train_rows, prepared.validation_rows) == (180, 20)
    splits = loaded(tmp_path / "out")
    assert set(splits["train"]).isdisjoint(splits["validation"])
    assert sorted(splits["train"] + splits["validation"]) == sorted(lines)
    assert all(sorted(texts, key=lines.index) == texts for texts in splits.values())

    made(files, tmp_path / "same", validation=0.1)
    assert loaded(tmp_path / "same") == splits
    made(files, tmp_path / "other", validation=0.1, seed=43)
    assert loaded(tmp_path / "other")["validation"] != splits["validation"]


def test_one_row_is_not_split_and_that_is_told(tmp_path: Path) -> None:
    host = Recorder()
    prepared = made(fill(tmp_path / "in", {"a.txt": "alone"}), tmp_path / "out", validation=0.5, host=host)
    assert (prepared.train_rows, prepared.validation_rows) == (1, 0)
    assert loaded(tmp_path / "out") == {"train": ["alone"]}
    assert host.notes == ["There is only one row, so nothing is held out for evaluation."]


# Tokens


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer of letters that would add a special token, cut and pad; counting does none of it."""
    letters = Tokenizer(models.WordLevel({"[BOS]": 0, "?": 1, "a": 2, "b": 3}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 0)])
    letters.enable_truncation(4)
    letters.enable_padding(length=10)
    path = tmp_path / "tiny" / "tokenizer.json"
    path.parent.mkdir()
    letters.save(str(path))
    return path


def test_tokens_are_counted_over_both_splits(tmp_path: Path, tokenizer: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "abba\nbb\naaaaaaaa\n"})
    prepared = made(files, tmp_path / "out", tokenizer=tokenizer, validation=0.3)
    assert (prepared.report.tokens, prepared.report.tokenizer) == (14, "tiny")
    assert made(files, tmp_path / "out", tokenizer=tokenizer, model="owner/name").report.tokenizer == "owner/name"
    untold = made(files, tmp_path / "out").report
    assert (untold.tokens, untold.tokenizer) == (0, "")


@pytest.mark.model
def test_tokens_are_those_of_the_model_s_own_tokenizer(tmp_path: Path, starter_model: Path) -> None:
    from transformers import AutoTokenizer

    lines = ["In the beginning God created the heaven and the earth.", "ünïcödé  日本語 🎉", "<|im_start|>user"]
    counted = made(
        fill(tmp_path / "in", {"a.txt": "\n".join(lines)}), tmp_path / "out", tokenizer=starter_model / "tokenizer.json"
    )
    own = AutoTokenizer.from_pretrained(starter_model)
    spelled = [own(line, add_special_tokens=False, split_special_tokens=True).input_ids for line in lines]
    assert counted.report.tokens == sum(map(len, spelled))
    assert len(spelled[2]) > len(own(lines[2], add_special_tokens=False).input_ids)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": "text", "m/tokenizer.json": "{}"})
    with pytest.raises(Damaged, match=r"tokenizer\.json is not a tokenizer"):
        made(files, tmp_path / "out", tokenizer=files / "m" / "tokenizer.json")
    assert not (tmp_path / "out").exists()


# Failures


@pytest.mark.parametrize(
    ("files", "fields", "error", "words"),
    [
        ({"a.txt": "\n \n"}, {}, BadData, "no text to train on: 0 rows were read"),
        (
            {"a.jsonl": '{"text": ""}\n{}'},
            {"on_error": OnError.DROP},
            BadData,
            "2 rows were read, 1 of them empty and 1 malformed",
        ),
        ({"a.log": "text"}, {}, InvalidRequest, "txt, jsonl, csv, saved_dataset, .*markdown with --file-type"),
        ({"a.csv": "a;b\n1;b"}, {}, BadData, "a.csv:1 has no column 'text': its columns are 'a', 'b'"),
        (
            {"a.csv": "a;b\n1;b"},
            {},
            BadData,
            r"name one .*\(--text-field\), or several with --columns, as prompt=question,completion=",
        ),
        ({"a.jsonl": '{"a": "1", "b": "b"}'}, {}, BadData, r"\(--text-field\), or several with --columns, as prompt=question,"),
        ({"a.csv": "a;b\n1;b"}, {"shape": Shape.TEXT}, BadData, r"name one as text_field \(--text-field\); correct the row"),
        ({"a.txt": "text"}, {"file_type": FileType.SAVED_DATASET}, InvalidRequest, "no saved dataset"),
    ],
)
def test_what_cannot_be_prepared_is_told_and_leaves_nothing(
    tmp_path: Path, files: dict[str, str], fields: dict[str, Any], error: type[SmoloraError], words: str
) -> None:
    with pytest.raises(error, match=words):
        made(fill(tmp_path / "in", files), tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("checks_before", [0, 5, 15])
def test_a_cancelled_preparation_ends_between_rows_and_leaves_nothing(tmp_path: Path, checks_before: int) -> None:
    files = fill(tmp_path / "in", {"a.txt": "\n".join(map(str, range(1000)))})
    with pytest.raises(Cancelled):
        made(files, tmp_path / "out", host=Recorder(Cancelled("Enough."), after=checks_before))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.arrow"))


def test_progress_has_two_phases_that_end_where_they_should(tmp_path: Path) -> None:
    host = Recorder()
    files = fill(tmp_path / "in", {"a.txt": "\n".join(map(str, range(2500)))})
    made(files, tmp_path / "out", host=host)
    read, write = PhaseProgress("read", 2500, 2500, "rows"), PhaseProgress("write", 2500, 2500, "rows")
    phases = [event for event in host.events if isinstance(event, PhaseProgress)]
    assert phases[:3] == [PhaseProgress("read", 1000, 0, "rows"), PhaseProgress("read", 2000, 0, "rows"), read]
    assert phases[-1] == write
