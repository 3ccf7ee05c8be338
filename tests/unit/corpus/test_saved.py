"""Folders that `save_to_disk` wrote, by the real `datasets`."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from smolora import ProblemKind, RowProblem
from smolorad.corpus.readers.saved import open_saved, read_dataset
from smolorad.corpus.shaper import Shaper
from smolorad.corpus.shapes import Sample
from smolorad.errors import BadData
from tests.unit.corpus.kit import Recorder


def made(*texts: str | None, column: str = "text") -> datasets.Dataset:
    """A dataset in memory."""
    return datasets.Dataset.from_dict({column: list(texts), "id": list(range(len(texts)))})


def read(dataset: datasets.Dataset, text_field: str = "text") -> list[Sample | RowProblem]:
    """Its rows and problems."""
    shaper = Shaper(None, text_field, {})
    records = read_dataset(dataset, "train", shaper.select)
    return [one if isinstance(one, RowProblem) else shaper.shaped(one) for one in records]


def test_a_saved_dataset_is_read_row_by_row_and_a_null_is_located(tmp_path: Path) -> None:
    made(" a ", None, "", "b\0").save_to_disk(tmp_path / "saved", num_shards=2)
    ((_, dataset, _),) = open_saved(tmp_path / "saved", Recorder().emit)
    found = read(dataset)
    assert [one.values if isinstance(one, Sample) else one.why for one in found] == [
        ("a",),
        "has null in 'text', not text; put it in quotes or remove the row",
        ("",),
        "holds a NUL character, as damaged files do; remove it",
    ]
    assert [(one.file, one.line) for one in found] == [("train", number) for number in range(1, 5)]


def test_of_several_splits_train_is_read_validation_held_out_and_the_others_are_named(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(test=made("b"), train=made("a"), dev=made("c", "d"), raw=made("e"))
    saved.save_to_disk(tmp_path / "saved")
    host = Recorder()
    found = open_saved(tmp_path / "saved", host.emit)
    assert [(one.name, one.dataset["text"][:], one.split) for one in found] == [
        ("train", ["a"], "train"),
        ("dev", ["c", "d"], "validation"),
    ]
    assert host.notes == [
        "The saved dataset's split 'dev' is held out, so that --validation draws no others.",
        "Left out of the saved dataset, as only what is to train on or to hold out is read: 'test' (1 row), 'raw' (1 row).",
    ]
    assert [one.name for one in open_saved(tmp_path / "saved", Recorder().emit, held_out=False)] == ["train"]


def test_the_only_split_is_read_whatever_its_name(tmp_path: Path) -> None:
    datasets.DatasetDict(test=made("b")).save_to_disk(tmp_path / "saved")
    ((name, dataset, split),) = open_saved(tmp_path / "saved", Recorder().emit)
    assert (name, dataset["text"][:], split) == ("test", ["b"], "")


def test_splits_without_train_are_refused_by_name(tmp_path: Path) -> None:
    datasets.DatasetDict(test=made("b"), dev=made("c")).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadData, match=r"no split 'train': its splits are 'test', 'dev'"):
        open_saved(tmp_path / "saved", Recorder().emit)


def test_a_column_that_is_missing_or_holds_no_text_is_named() -> None:
    with pytest.raises(
        BadData, match=r"train has no column 'text': its columns are 'body', 'id'; name one as text_field \(--text-field\)"
    ):
        read(made("a", column="body"))
    (problem,) = read(made("a"), "id")
    assert isinstance(problem, RowProblem)
    assert problem.why.startswith("has a number in 'id', not text")
    (sample,) = read(made("a", column="body"), "body")
    assert isinstance(sample, Sample)
    assert (sample.values, sample.file, sample.line) == (("a",), "train", 1)


def test_a_text_that_is_not_utf_8_is_located() -> None:
    ends = array("i", [0, 1, 2, 3])
    texts = pa.StringArray.from_buffers(3, pa.py_buffer(ends), pa.py_buffer(b"a\xffb"))
    found = read(datasets.Dataset(pa.table({"text": texts})))
    assert [one.line for one in found if isinstance(one, Sample)] == [1, 3]
    (problem,) = [one for one in found if isinstance(one, RowProblem)]
    assert (problem.line, problem.kind) == (2, ProblemKind.ENCODING)


def lose_the_data(folder: Path) -> None:
    next(folder.glob("*.arrow")).unlink()


def tear_the_data(folder: Path) -> None:
    path = next(folder.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:100])


def point_elsewhere(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "../secret.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))


def write_nonsense(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


@pytest.mark.parametrize("damage", [lose_the_data, tear_the_data, point_elsewhere, write_nonsense])
def test_a_damaged_folder_is_told_in_one_sentence(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    made("a").save_to_disk(tmp_path / "saved")
    made("secret").save_to_disk(tmp_path / "other")
    next((tmp_path / "other").glob("*.arrow")).rename(tmp_path / "secret.arrow")
    damage(tmp_path / "saved")
    with pytest.raises(BadData, match=r"saved dataset saved cannot be read .*send the whole folder") as caught:
        open_saved(tmp_path / "saved", Recorder().emit)
    assert "\n" not in caught.value.message
