"""Which files are read, as what."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolorad.corpus.file_types import Source, Sources, infer
from smolorad.domain import FileType
from smolorad.errors import BadData, InvalidRequest
from tests.unit.corpus.kit import fill


def read_as(sources: Sources) -> dict[str, FileType]:
    """What is read as what."""
    return {source.file: source.file_type for source in sources.files}


@pytest.mark.parametrize(
    ("name", "file_type"),
    [
        ("a.txt", FileType.TXT),
        ("A.TXT", FileType.TXT),
        ("a.jsonl", FileType.JSONL),
        ("a.b.csv", FileType.CSV),
        ("a.tsv", FileType.TSV),
        ("a.json", FileType.JSON),
        ("a.md", FileType.MARKDOWN),
        ("a.parquet", FileType.PARQUET),
        ("a.arrow", FileType.ARROW),
        ("a.jsonl.gz", FileType.JSONL),
        ("a.csv.ZST", FileType.CSV),
        ("README.md", FileType.MARKDOWN),
    ],
)
def test_one_file_is_read_by_its_ending(tmp_path: Path, name: str, file_type: FileType) -> None:
    fill(tmp_path, {name: ""})
    assert infer(tmp_path) == infer(tmp_path / name) == Sources(tmp_path, (Source(name, file_type),))


def test_a_folder_is_read_recursively_in_sorted_order_each_file_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path, {"b.txt": "", "a/z.txt": "", "a/b/c.csv": "", "c.jsonl.gz": "", "pictures/d.png": "", "README.md": ""})
    sources = infer(tmp_path)
    assert list(read_as(sources)) == ["a/b/c.csv", "a/z.txt", "b.txt", "c.jsonl.gz"]
    assert list(read_as(sources).values()) == [FileType.CSV, FileType.TXT, FileType.TXT, FileType.JSONL]
    assert sources.left_out == ("README.md", "pictures/d.png")


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jsonl": "", ".b.txt": "", ".git/c.txt": "", "d/.e/f.csv": ""})
    assert read_as(infer(tmp_path)) == {"a.jsonl": FileType.JSONL}


@pytest.mark.parametrize("files", [["a.log"], ["a"], ["a.gz"]])
def test_what_cannot_be_told_names_the_choices_and_the_flag(tmp_path: Path, files: list[str]) -> None:
    fill(tmp_path, dict.fromkeys(files, ""))
    with pytest.raises(InvalidRequest, match=r"txt, jsonl, csv, .*markdown with --file-type") as caught:
        infer(tmp_path)
    assert [violation.field for violation in caught.value.violations] == ["file_type"]


def test_a_type_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, {"a.log": "", "b.log": ""})
    assert read_as(infer(tmp_path, FileType.TXT)) == {"a.log": FileType.TXT, "b.log": FileType.TXT}
    fill(tmp_path, {"c.csv": "", "d.txt": ""})
    sources = infer(tmp_path, FileType.CSV)
    assert (read_as(sources), sources.left_out) == ({"c.csv": FileType.CSV}, ("a.log", "b.log", "d.txt"))


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
    assert infer(tmp_path) == Sources(tmp_path / below, saved=True)


def test_what_stands_beside_a_saved_dataset_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {f"saved/{name}": "" for name in ("state.json", "dataset_info.json", "a.arrow")} | {"more/a.jsonl": ""})
    assert infer(tmp_path) == Sources(tmp_path / "saved", left_out=("more/a.jsonl",), saved=True)


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
