"""Which files are read, as what."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolorad.corpus.infer import Sources, infer
from smolorad.domain import FileType
from smolorad.errors import BadData, InvalidRequest
from tests.unit.corpus.kit import fill


@pytest.mark.parametrize(
    ("name", "file_type"),
    [("a.txt", FileType.TXT), ("A.TXT", FileType.TXT), ("a.jsonl", FileType.JSONL), ("a.b.csv", FileType.CSV)],
)
def test_one_file_is_read_by_its_ending(tmp_path: Path, name: str, file_type: FileType) -> None:
    fill(tmp_path, {name: ""})
    assert infer(tmp_path) == Sources(file_type, tmp_path, (name,))
    assert infer(tmp_path / name) == Sources(file_type, tmp_path, (name,))


def test_a_folder_is_read_as_txt_recursively_in_sorted_order_and_tells_what_it_leaves_out(tmp_path: Path) -> None:
    fill(tmp_path, {"b.txt": "", "a/z.txt": "", "a/b/c.txt": "", "c.jsonl": "", "pictures/d.png": ""})
    sources = infer(tmp_path)
    assert sources.file_type is FileType.TXT
    assert sources.files == ("a/b/c.txt", "a/z.txt", "b.txt")
    assert sources.left_out == ("c.jsonl", "pictures/d.png")


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jsonl": "", ".b.txt": "", ".git/c.txt": "", "d/.e/f.csv": ""})
    assert infer(tmp_path) == Sources(FileType.JSONL, tmp_path, ("a.jsonl",))


def test_several_files_of_one_kind_are_read_in_sorted_order(tmp_path: Path) -> None:
    fill(tmp_path, {"b.jsonl": "", "a.jsonl": "", "README.md": ""})
    assert infer(tmp_path) == Sources(FileType.JSONL, tmp_path, ("a.jsonl", "b.jsonl"), ("README.md",))


@pytest.mark.parametrize("files", [["a.md"], ["a"], ["a.json", "b.parquet"], ["a.jsonl", "b.csv"]])
def test_what_cannot_be_told_names_the_choices_and_the_flag(tmp_path: Path, files: list[str]) -> None:
    fill(tmp_path, dict.fromkeys(files, ""))
    with pytest.raises(InvalidRequest, match=r"txt, jsonl, csv, saved_dataset with --file-type") as caught:
        infer(tmp_path)
    assert [violation.field for violation in caught.value.violations] == ["file_type"]


def test_a_type_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, {"a.log": "", "b.log": ""})
    assert infer(tmp_path, FileType.TXT).files == ("a.log", "b.log")
    fill(tmp_path, {"c.csv": "", "d.txt": ""})
    assert infer(tmp_path, FileType.CSV) == Sources(FileType.CSV, tmp_path, ("c.csv",), ("a.log", "b.log", "d.txt"))


@pytest.mark.parametrize(
    "files",
    [
        ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"],
        ["dataset_dict.json", "train/state.json", "train/dataset_info.json", "train/data-00000-of-00001.arrow"],
    ],
)
@pytest.mark.parametrize("below", ["", "saved/"])
def test_a_saved_dataset_is_recognised(tmp_path: Path, files: list[str], below: str) -> None:
    fill(tmp_path, {below + name: "" for name in [*files, "notes.txt"]})
    assert infer(tmp_path) == Sources(FileType.SAVED_DATASET, tmp_path / below)


def test_a_saved_dataset_that_is_none_and_several_at_once_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"a.arrow": ""})
    with pytest.raises(InvalidRequest, match="no saved dataset"):
        infer(tmp_path, FileType.SAVED_DATASET)
    fill(tmp_path, {f"{name}/{file}": "" for name in "xy" for file in ("state.json", "dataset_info.json")})
    with pytest.raises(InvalidRequest, match=r"2 saved datasets \(x, y\)"):
        infer(tmp_path)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, {".hidden.txt": "text"})
    with pytest.raises(BadData, match="no file to read"):
        infer(tmp_path)
