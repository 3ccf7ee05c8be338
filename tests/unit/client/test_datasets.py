"""The original functions, each against what is written about it; they need no daemon."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

import smolora
from smolora.datasets import chunk_texts, prepare_dataset, read_csv, read_jsonl, read_txt_folder
from smolora.local_text import load_text_data
from tests.house.repository import run
from tests.unit.client.text.kit import LINES, TEXTS, WORDS
from tests.unit.corpus.kit import fill


def test_read_txt_folder_reads_every_line_of_every_txt_file_also_below_in_sorted_order(tmp_path: Path) -> None:
    files = {
        "b.txt": " last \n\n \t\n",
        "a.txt": "first\r\nfirst\n",
        "a/deep/c.TXT": "deep",
        "z.md": "no",
        ".hidden.txt": "no",
        ".git/x.txt": "no",
    }
    assert read_txt_folder(fill(tmp_path, files)) == ["first", "first", "deep", "last"]
    assert read_txt_folder(str(tmp_path / "a")) == ["deep"]
    (tmp_path / "empty").mkdir()
    assert read_txt_folder(tmp_path / "empty") == []


def test_read_jsonl_gives_the_stripped_values_of_one_field(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": " a ", "body": "x"}\n\n{"body": "y\\nz", "text": ""}\n')
    assert read_jsonl(path) == ["a", ""]
    assert read_jsonl(str(path), "body") == ["x", "y\nz"]
    assert read_jsonl(path, text_field="body") == ["x", "y\nz"]


def test_read_csv_takes_quoted_commas(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1," a, b "\n2,"say ""yes"""\n')
    assert read_csv(path) == ["a, b", 'say "yes"']
    assert read_csv(str(path), "id") == ["1", "2"]


@given(st.lists(WORDS.map(" ".join)), st.integers(-3, 12))
def test_chunk_texts_keeps_every_word_in_order(texts: list[str], size: int) -> None:
    pieces = chunk_texts(texts, size)
    if size <= 0:
        assert pieces == texts
        return
    assert " ".join(pieces).split() == " ".join(texts).split()
    assert all(1 <= len(piece.split(" ")) <= size for piece in pieces)
    assert len(pieces) == sum(-(-len(text.split()) // size) for text in texts)


def test_chunk_texts_changes_nothing_by_default() -> None:
    assert chunk_texts(["  a  b ", ""]) == ["  a  b ", ""]
    assert chunk_texts(["a  b\nc d", "e"], chunk_size=3) == ["a b c", "d", "e"]


@given(st.lists(TEXTS, min_size=1), st.integers(0, 3))
def test_prepare_dataset_loses_nothing_but_the_empty_and_the_repeated(texts: list[str], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
        expected = list(dict.fromkeys(filter(None, chunk_texts([text.strip() for text in texts], size))))
        if not expected:
            with pytest.raises(ValueError, match="There is no text in"):
                prepare_dataset(path, "body", size)
            return
        made = prepare_dataset(path, "body", size)
    assert isinstance(made, datasets.Dataset)
    assert made.column_names == ["text"]
    assert made["text"][:] == expected


def test_prepare_dataset_tells_the_type_from_the_source(tmp_path: Path) -> None:
    fill(tmp_path, {"f/b.txt": "b", "f/a.txt": "a\nb", "a.jsonl": '{"text": "j"}', "a.CSV": "text\nc", "a.log": "l\nl"})
    assert prepare_dataset(tmp_path / "f")["text"][:] == ["a", "b"]
    assert prepare_dataset(str(tmp_path / "a.jsonl"))["text"][:] == ["j"]
    assert prepare_dataset(tmp_path / "a.CSV")["text"][:] == ["c"]
    assert prepare_dataset(tmp_path / "a.log", file_type="txt")["text"][:] == ["l"]
    assert prepare_dataset(tmp_path, file_type="jsonl")["text"][:] == ["j"]
    for name in ("a.log", "f/a.txt"):
        with pytest.raises(ValueError, match=r"names no known kind of file; give file_type, one of txt, jsonl, csv\."):
            prepare_dataset(tmp_path / name)
    with pytest.raises(ValueError, match=r"file_type is 'xml', but must be one of txt, jsonl, csv\."):
        prepare_dataset(tmp_path / "a.log", file_type="xml")


@given(st.lists(LINES, min_size=1))
def test_load_text_data_keeps_lines_as_they_are(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), {"b.txt": "always " * 3, "c.md": "no"})
        Path(folder, "a.txt").write_bytes("\n".join([*lines, "x", "x"]).encode())
        made = load_text_data(folder)
    assert isinstance(made, datasets.Dataset)
    written = [stripped for line in lines if (stripped := line.strip())]
    assert made["text"][:] == [*written, "x", "x", "always always always"]


def one_sentence(caught: pytest.ExceptionInfo[BaseException]) -> str:
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def test_every_malformed_line_is_reported_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"body": "b"}\nc\n{"text": 4}\n')
    with pytest.raises(ValueError, match="rows are malformed") as caught:
        read_jsonl(path)
    said = one_sentence(caught)
    assert said == (
        f"{path}:2 has no field 'text': its fields are 'body'; name one as text_field (--text-field); "
        "3 rows are malformed in all; correct them."
    )
    assert [note.partition(" ")[0] for note in caught.value.__notes__] == [f"{path}:3", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "a.csv",
            "id,body\n1,a\n",
            ":1 has no column 'text': its columns are 'id', 'body'; name one as text_field (--text-field).",
        ),
        ("a.csv", "", ":1 is missing, as the file is empty; write the names of the columns there."),
        (
            "a.jsonl",
            '{"body": "a"}',
            ":1 has no field 'text': its fields are 'body'; name one as text_field (--text-field); correct the row.",
        ),
        ("a.jsonl", "", "There is no text in"),
        ("f/a.txt", b"caf\xe9\n", "a.txt:1 is not UTF-8: its byte 4 is 0xe9; save the file as UTF-8; correct the row."),
        ("f/a.txt", "text".encode("utf-16"), "a.txt:1 is the beginning of a file in UTF-16; save the file as UTF-8."),
        ("f/a.txt", "\n \n", "There is no text in"),
        ("f/a.md", "text", "There is no text in"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, why: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = path.parent if path.parent != tmp_path else path
    with pytest.raises(ValueError, match=r".") as caught:
        prepare_dataset(source)
    assert why in one_sentence(caught)
    if source.is_dir():
        with pytest.raises(ValueError, match=r".") as caught:
            load_text_data(source)
        assert why in one_sentence(caught)


def test_a_place_that_is_not_there_or_of_the_other_kind_is_one_sentence(tmp_path: Path) -> None:
    fill(tmp_path, {"a.csv": "text\na"})
    for function in (read_txt_folder, read_jsonl, read_csv, prepare_dataset, load_text_data):
        with pytest.raises(FileNotFoundError, match=r"There is no file or folder .*gone; check the path\.$"):
            function(tmp_path / "gone")
    with pytest.raises(NotADirectoryError, match=r"a\.csv is a file; give the folder it is in\.$"):
        load_text_data(tmp_path / "a.csv")
    with pytest.raises(IsADirectoryError, match=r"is a folder; give a file"):
        read_csv(tmp_path)


def test_the_daemon_prepares_what_prepare_dataset_makes(tmp_path: Path) -> None:
    """One implementation: the worker's own result over the same file."""
    from smolorad.corpus.prepare import prepare
    from smolorad.domain import PrepareSpec
    from tests.unit.corpus.kit import Recorder

    rows = [["id", "text"], ["1", " a b c "], ["2", ""], ["3", "a, b"], ["4", "a b c"], ["5", "c\nd"]]
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepare(tmp_path / "in", PrepareSpec("d", chunk_size=2, validation=0.0), None, tmp_path / "out", Recorder())
    theirs = datasets.load_from_disk(tmp_path / "out")["train"]["text"][:]
    assert prepare_dataset(tmp_path / "in" / "a.csv", chunk_size=2)["text"][:] == theirs == ["a b", "c", "a, b", "c d"]


def test_without_the_library_lists_still_work_and_a_dataset_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("line")
    code = f"""
import sys
sys.modules["datasets"] = None
import smolora
assert smolora.datasets.read_txt_folder({str(tmp_path)!r}) == ["line"]
for function in (smolora.datasets.prepare_dataset, smolora.local_text.load_text_data):
    try:
        function({str(tmp_path)!r})
    except ImportError as error:
        print(error)
heavy = [name for name in ("grpc", "torch", "pyarrow", "numpy", "google.protobuf") if name in sys.modules]
assert not heavy, heavy
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [
        "What prepare_dataset() returns is a datasets.Dataset; install that library: pip install 'smolora[datasets]'",
        "What load_text_data() returns is a datasets.Dataset; install that library: pip install 'smolora[datasets]'",
    ]


def test_the_modules_are_had_from_the_package() -> None:
    assert smolora.datasets.read_csv is read_csv
    assert smolora.local_text.load_text_data is load_text_data
