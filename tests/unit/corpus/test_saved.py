"""Folders that `save_to_disk` wrote, by the real `datasets`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from smolora import RowProblem
from smolora._text.rows import Row
from smolorad.corpus.readers.saved import open_saved, read_dataset
from smolorad.errors import BadData
from tests.unit.corpus.kit import Recorder


def made(*texts: str | None, column: str = "text") -> datasets.Dataset:
    """A dataset in memory."""
    return datasets.Dataset.from_dict({column: list(texts), "id": list(range(len(texts)))})


def test_a_saved_dataset_is_read_row_by_row_and_a_null_is_located(tmp_path: Path) -> None:
    made(" a ", None, "", "b\0").save_to_disk(tmp_path / "saved", num_shards=2)
    found = list(read_dataset(open_saved(tmp_path / "saved", Recorder().tell), "train"))
    assert found == [
        Row("a", "train", 1),
        RowProblem("train", 2, "has null in 'text', not text; fill it in or remove the row"),
        Row("", "train", 3),
        RowProblem("train", 4, "holds a NUL character, as damaged files do; remove it"),
    ]


def test_of_several_splits_train_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    datasets.DatasetDict(test=made("b"), train=made("a"), dev=made("c")).save_to_disk(tmp_path / "saved")
    host = Recorder()
    assert open_saved(tmp_path / "saved", host.tell)["text"][:] == ["a"]
    assert host.notes == ["Left out, as only the split 'train' is read: 'test', 'dev'."]


def test_the_only_split_is_read_whatever_its_name(tmp_path: Path) -> None:
    datasets.DatasetDict(test=made("b")).save_to_disk(tmp_path / "saved")
    assert open_saved(tmp_path / "saved", Recorder().tell)["text"][:] == ["b"]


def test_splits_without_train_are_refused_by_name(tmp_path: Path) -> None:
    datasets.DatasetDict(test=made("b"), dev=made("c")).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadData, match=r"no split 'train': its splits are 'test', 'dev'"):
        open_saved(tmp_path / "saved", Recorder().tell)


def test_a_column_that_is_missing_or_holds_no_text_is_named() -> None:
    with pytest.raises(BadData, match=r"train has no column 'text': its columns are 'body', 'id'; .*--text-field"):
        list(read_dataset(made("a", column="body"), "train"))
    with pytest.raises(BadData, match=r"train has no text in its column 'id'"):
        list(read_dataset(made("a"), "train", "id"))
    assert list(read_dataset(made("a", column="body"), "train", "body")) == [Row("a", "train", 1)]


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
        open_saved(tmp_path / "saved", Recorder().tell)
    assert "\n" not in caught.value.message
