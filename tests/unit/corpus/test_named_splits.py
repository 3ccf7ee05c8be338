"""Files that are named as splits are taken as such: validation is held out, test is left out, and a note says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.corpus.named_splits import TEST, TRAIN, VALIDATION, named_files, split_named
from smolorad.corpus.prepare import prepare
from smolorad.domain import OnError, PhaseProgress, Prepared, PrepareSpec, ProblemKind, Splits
from smolorad.errors import BadData
from tests.unit.corpus.kit import Recorder, fill


def made(tmp_path: Path, files: dict[str, str], host: Recorder | None = None, **fields: Any) -> Prepared:
    """Prepares these files into `out`."""
    spec = PrepareSpec("d", upload_id="u", **fields)
    return prepare(fill(tmp_path / "in", files), spec, None, tmp_path / "out", host or Recorder())


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def held(tmp_path: Path) -> dict[str, list[str]]:
    found = datasets.load_from_disk(str(tmp_path / "out"))
    return {split: found[split]["text"][:] for split in found}


def taken(*files: str) -> dict[str, str]:
    prose = {file: file.endswith((".txt", ".md")) for file in files}
    return dict(named_files(prose).splits)


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("train.jsonl", "test.jsonl"), (TRAIN, TEST)),
        (("train.jsonl.gz", "valid.jsonl.gz", "TEST.jsonl"), (TRAIN, VALIDATION, TEST)),
        (("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet",
          "data/dev-00000-of-00001-5f04be2b8b5a4fe6.parquet"), (TRAIN, TRAIN, TEST, VALIDATION)),
        (("train/a.csv", "validation/a.csv", "test/a.csv"), (TRAIN, VALIDATION, TEST)),
        (("split=train/a.parquet", "split=test/a.parquet"), (TRAIN, TEST)),
        (("squad_train.csv", "squad_eval.csv"), (TRAIN, VALIDATION)),
        (("squad.csv", "squad-test.csv"), ("", TEST)),
        (("rows.jsonl", "test.jsonl", "val.jsonl"), ("", TEST, VALIDATION)),
        (("train.jsonl", "more.jsonl", "test_clean.jsonl", "test_other.jsonl"), (TRAIN, "", TEST, TEST)),
        (("train.txt", "test.txt"), (TRAIN, TEST)),
        (("training_data.csv", "evaluation.jsonl"), (TRAIN, VALIDATION)),
        (("trainset.csv", "devset.csv", "testSet.csv"), (TRAIN, VALIDATION, TEST)),
        # No splits
        (("rows.jsonl", "my-test-data.jsonl"), ("", "")),
        (("train.txt", "test_results.txt", "devices.txt"), (TRAIN, "", "")),
        (("train.jsonl", "tests/a.jsonl", "latest.jsonl", "contest.jsonl"), (TRAIN, "", "", "")),
        (("notes.txt", "test.txt", "dev.md"), ("", "", "")),
        (("src/a.md", "test/b.md", "dev/c.md"), ("", "", "")),
        (("a.jsonl", "train_test.jsonl"), ("", "")),
        # Nothing else to train on
        (("eval.jsonl",), ("",)),
        (("test-1.jsonl", "test-2.jsonl"), ("", "")),
        (("test.jsonl", "validation.jsonl"), ("", "")),
    ],
)  # fmt: skip
def test_names_count_where_the_files_look_like_splits(files: tuple[str, ...], splits: tuple[str, ...]) -> None:
    assert taken(*files) == {file: split for file, split in zip(files, splits, strict=True) if split}


WORDS = st.sampled_from(["train", "test", "dev", "val", "eval", "a", "b", "latest", "data", "0001", "tests"])
NAMES = st.lists(WORDS, min_size=1, max_size=3).map("-".join)
FILES = st.lists(
    st.tuples(st.lists(NAMES, max_size=2), NAMES, st.sampled_from(["jsonl", "csv.gz", "txt"])), min_size=1, max_size=6
)


@given(FILES)
def test_there_is_always_something_to_train_on(names: list[tuple[list[str], str, str]]) -> None:
    files = {"/".join([*folders, f"{name}.{ending}"]) for folders, name, ending in names}
    found = named_files({file: file.endswith("txt") for file in files})
    assert any(found.splits.get(file, TRAIN) == TRAIN for file in files)
    assert set(found.splits) <= files
    assert not set(found.splits) & set(found.not_counted)


def test_a_word_alone_says_a_split() -> None:
    assert [split_named(word) for word in ("Dev ", "test", "train", "latest", "")] == [VALIDATION, TEST, TRAIN, "", ""]


def test_test_rows_are_left_out_and_validation_is_held_out_whole(tmp_path: Path) -> None:
    host = Recorder()
    files = {
        "train.jsonl": lines("a", "b", "c", "in both", "in three"),
        "dev.jsonl": lines("d", "e", "in three"),
        "test.jsonl": lines("f", "g", "h", "in both"),
    }
    prepared = made(tmp_path, files, host, validation=0.5)
    assert held(tmp_path) == {"train": ["a", "b", "c"], "validation": ["d", "e", "in three"]}
    assert host.notes == [
        "Files named as splits: train.jsonl trained on; dev.jsonl held out, so that --validation draws no others; "
        "test.jsonl left out (4 rows). --splits ignore reads all of them alike."
    ]
    report = prepared.report
    assert (report.rows_read, report.rows_kept, report.rows_duplicate, report.files) == (8, 6, 2, 2)
    assert {finding.kind: finding.rows for finding in report.findings} == {ProblemKind.IN_TWO_SPLITS: 2}


def test_a_validation_file_without_rows_holds_nothing_out(tmp_path: Path) -> None:
    host = Recorder()
    made(tmp_path, {"train.jsonl": lines(*"abcdefghij"), "valid.jsonl": ""}, host, validation=0.2)
    assert {split: len(texts) for split, texts in held(tmp_path).items()} == {"train": 8, "validation": 2}
    assert "valid.jsonl held out, but it has no row to hold out, so that --validation draws some." in host.notes[0]


def test_names_can_be_ignored(tmp_path: Path) -> None:
    host = Recorder()
    files = {"train.jsonl": lines("a", "b"), "test.jsonl": lines("c", "b"), "dev.jsonl": lines("d")}
    made(tmp_path, files, host, validation=0.0, splits=Splits.IGNORE)
    assert {split: sorted(texts) for split, texts in held(tmp_path).items()} == {"train": ["a", "b", "c", "d"]}
    assert host.notes == []


@pytest.mark.parametrize("name", ["eval.jsonl", "test/a.jsonl"])
def test_what_is_given_alone_is_trained_on(tmp_path: Path, name: str) -> None:
    host = Recorder()
    made(tmp_path, {name: lines("a", "b")}, host, validation=0.0)
    assert held(tmp_path) == {"train": ["a", "b"]}
    assert host.notes == [f"Trained on, though named as another split, as there is nothing else to train on: {name}."]


def test_a_name_that_does_not_count_is_told(tmp_path: Path) -> None:
    host = Recorder()
    made(tmp_path, {"rows.jsonl": lines("a"), "my-test-data.jsonl": lines("b")}, host, validation=0.0)
    assert host.notes == ["Trained on like any other, as its name alone does not make it a split: my-test-data.jsonl."]


def test_what_is_left_out_cannot_fail_a_preparation(tmp_path: Path) -> None:
    files = {"train.csv": "text\na\nb\n", "test.jsonl": '{"text": "c"}\n{broken\n{"prompt": "d"}\n', "test/b.csv": "id\n1\n"}
    prepared = made(tmp_path, files, validation=0.0)
    assert (held(tmp_path), prepared.report.rows_malformed) == ({"train": ["a", "b"]}, 0)
    with pytest.raises(BadData, match=r"dev\.jsonl:1 is not JSON"):
        made(tmp_path, {"train.jsonl": lines("a"), "dev.jsonl": "{broken\n"})


def test_where_all_that_is_left_is_held_out_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"all 1 that are left are of a validation split; .*--splits ignore"):
        made(tmp_path, {"train.jsonl": "", "dev.jsonl": lines("a")})
    assert not (tmp_path / "out").exists()


def test_a_field_of_the_rows_may_say_their_split(tmp_path: Path) -> None:
    host = Recorder()
    table = "text,split,id\na,train,1\nb,test,2\nc,dev,3\nd,Train,4\ne,,5\nb,train,6\n"
    made(tmp_path, {"a.csv": table}, host, validation=0.4)
    assert held(tmp_path) == {"train": ["a", "d", "e"], "validation": ["c"]}
    assert host.notes == [
        "Rows by their field 'split': 3 of train trained on, 1 of validation held out, 1 of test left out. "
        "--splits ignore reads all of them alike.",
        "Not used: id.",
    ]
    host = Recorder()
    made(tmp_path, {"a.csv": "text,split\na,web\nb,books\n"}, host, validation=0.0)
    assert (held(tmp_path), host.notes) == ({"train": ["a", "b"]}, ["Not used: split."])
    with pytest.raises(BadData, match="2 more of a test split were left out"):
        made(tmp_path, {"a.csv": "text,split\na,test\nb,test\n"})


@pytest.mark.parametrize("order", ["train,dev,test", "test,dev,train", "dev,test,train"])
def test_no_row_of_a_test_split_is_trained_on_wherever_it_stands(tmp_path: Path, order: str) -> None:
    rows = "".join(f"a,{split}\n{split},{split}\n" for split in order.split(","))
    host = Recorder()
    prepared = made(tmp_path, {"a.csv": "text,split\n" + rows}, host)
    assert held(tmp_path) == {"train": ["train"], "validation": ["dev"]}
    report = prepared.report
    (found,) = [finding for finding in report.findings if finding.kind is ProblemKind.IN_TWO_SPLITS]
    assert (report.rows_kept, found.rows) == (2, 2)
    (told,) = [event for event in host.events if isinstance(event, PhaseProgress) and event.phase == "write"]
    assert told.done == told.total


def test_where_only_rows_of_a_test_split_are_left_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="1 more of a test split were left out"):
        made(tmp_path, {"a.csv": "text,split\na,train\na,test\n"})
    assert not (tmp_path / "out").exists()


def test_shards_of_parquet_are_splits(tmp_path: Path) -> None:
    (tmp_path / "in" / "data").mkdir(parents=True)
    for split, texts in (("train", ["a", "b"]), ("validation", ["c"]), ("test", ["d", "e"])):
        pq.write_table(pa.table({"text": texts}), tmp_path / "in" / "data" / f"{split}-00000-of-00001.parquet")
    host = Recorder()
    made(tmp_path, {}, host)
    assert held(tmp_path) == {"train": ["a", "b"], "validation": ["c"]}
    assert "data/test-00000-of-00001.parquet left out (2 rows)" in host.notes[0]


def test_a_saved_dataset_s_own_validation_is_held_out(tmp_path: Path) -> None:
    splits = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(3)]})
        for name in ("train", "validation", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "in"))
    host = Recorder()
    made(tmp_path, {}, host, on_error=OnError.DROP)
    assert held(tmp_path) == {split: [f"{split} {n}" for n in range(3)] for split in ("train", "validation")}
    assert any("'test' (3 rows)" in note for note in host.notes)
    made(tmp_path, {}, validation=0.0, splits=Splits.IGNORE)
    assert set(held(tmp_path)) == {"train"}
