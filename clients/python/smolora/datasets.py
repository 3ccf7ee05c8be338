"""From files of text to a `datasets.Dataset`, without a daemon: the functions that the project began with.

`read_txt_folder`, `read_jsonl`, `read_csv` and `chunk_texts` give lists of strings and need nothing but Python;
`prepare_dataset` needs the library `datasets`: pip install 'smolora[datasets]'. What is malformed raises a ValueError that
names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from smolora.common.problems import RowProblem
from smolora.common.text import chunk, csv, jsonl, txt
from smolora.common.text.dedup import deduplicated
from smolora.common.text.files import visible_files
from smolora.common.text.hugging_face import hugging_face
from smolora.common.text.rows import Row, Rows

__all__ = ["chunk_texts", "prepare_dataset", "read_csv", "read_jsonl", "read_txt_folder"]

AnyPath = str | os.PathLike[str]

_SHOWN_PROBLEMS = 100
_READERS: dict[str, Callable[[Path, str], Rows]] = {
    "txt": lambda path, text_field: txt.read_txt(path, str(path)),
    "jsonl": lambda path, text_field: jsonl.read_jsonl(path, str(path), text_field),
    "csv": lambda path, text_field: csv.read_csv(path, str(path), text_field),
}


def read_txt_folder(folder_path: AnyPath) -> list[str]:
    """Every line that is not empty, stripped, of the `.txt` files of a folder and of those below it, in the paths' order.

    Files and folders whose name begins with a dot are left out. Raises FileNotFoundError, NotADirectoryError, and ValueError
    where a line is not UTF-8.
    """
    return _texts(_rows(_files(_folder(folder_path), "txt"), "txt"))


def read_jsonl(file_path: AnyPath, text_field: str = "text") -> list[str]:
    """The stripped values of one field, of a file with one JSON object a line; empty lines are left out.

    Raises FileNotFoundError, and a ValueError that names every malformed line and the fields that there are.
    """
    return _texts(_rows([_file(file_path)], "jsonl", text_field))


def read_csv(file_path: AnyPath, text_field: str = "text") -> list[str]:
    """The stripped values of one column, of a file with a header line; values in quotes may hold commas and line breaks.

    Raises FileNotFoundError, and a ValueError that names every malformed row and the columns that there are.
    """
    return _texts(_rows([_file(file_path)], "csv", text_field))


def chunk_texts(texts: Iterable[str], chunk_size: int = 0) -> list[str]:
    """Pieces of `chunk_size` whitespace-separated words, joined by one space, of each text in turn; the last may be shorter.

    With 0 or less the texts as they are.
    """
    return list(chunk.chunk_texts(texts, chunk_size))


def prepare_dataset(source: AnyPath, text_field: str = "text", chunk_size: int = 0, file_type: str | None = None) -> Any:
    """A `datasets.Dataset` with the column `text`: read, cut into pieces, without empty texts and exact repetitions, in order.

    `file_type` is `txt`, `jsonl` or `csv`; by default a folder is `txt`, and a file what its ending says. A folder's files of
    that type are read, also in folders below it. Raises FileNotFoundError, ImportError where `datasets` is not installed, and
    ValueError for what cannot be read, and where no text is left.
    """
    path = _existing(source)
    kind = _file_type(path, file_type)
    files = _files(path, kind) if path.is_dir() else [path]
    texts = _texts(_rows(files, kind, text_field))
    return to_dataset(deduplicated(filter(None, chunk_texts(texts, chunk_size))), path, "What prepare_dataset() returns")


def to_dataset(texts: Iterable[str], source: Path, what: str) -> Any:
    """A `datasets.Dataset` of texts; raises ValueError for none, and ImportError that says what to install for `what`."""
    library = hugging_face(what)
    column = list(texts)
    if not column:
        raise ValueError(f"There is no text in {source}; check that its files have the right ending and are not empty.")
    return library.Dataset.from_dict({"text": column}, features=library.Features({"text": library.Value("string")}))


def _file_type(path: Path, given: str | None) -> str:
    choices = ", ".join(_READERS)
    if given is not None:
        if given not in _READERS:
            raise ValueError(f"file_type is {given!r}, but must be one of {choices}.")
        return given
    kind = "txt" if path.is_dir() else path.suffix.lower().removeprefix(".")
    if kind not in _READERS or (kind == "txt" and not path.is_dir()):
        raise ValueError(f"The ending of {path} names no known kind of file; give file_type, one of {choices}.")
    return kind


def _existing(given: AnyPath) -> Path:
    path = Path(os.path.expanduser(given))
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}; check the path.")
    return path


def _file(given: AnyPath) -> Path:
    path = _existing(given)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file, or use prepare_dataset().")
    return path


def _folder(given: AnyPath) -> Path:
    path = _existing(given)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the folder it is in.")
    return path


def _files(folder: Path, kind: str) -> list[Path]:
    return [folder / name for name in visible_files(folder) if name.lower().endswith(f".{kind}")]


def _rows(files: Iterable[Path], kind: str, text_field: str = "text") -> Rows:
    return chain.from_iterable(_READERS[kind](path, text_field) for path in files)


def _texts(rows: Rows) -> list[str]:
    texts: list[str] = []
    problems: list[RowProblem] = []
    for row in rows:
        if isinstance(row, Row):
            texts.append(row.text)
        else:
            problems.append(row)
    if problems:
        raise _malformed(problems)
    return texts


def _malformed(problems: list[RowProblem]) -> ValueError:
    """One sentence about the first row and how many there are; the others follow as notes, which a traceback shows."""
    lines = [f"{problem.file}:{problem.line} {problem.why}" for problem in problems]
    rest = "correct the row" if len(lines) == 1 else f"{len(lines):,} rows are malformed in all; correct them"
    error = ValueError(f"{lines[0]}; {rest}.")
    for line in lines[1:_SHOWN_PROBLEMS]:
        error.add_note(line)
    return error
