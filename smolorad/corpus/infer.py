"""Which files are read, and as what, where nobody says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smolora._text.files import visible_files
from smolorad.domain import FileType
from smolorad.errors import BadData, InvalidRequest

_ENDINGS: Mapping[str, FileType] = {".txt": FileType.TXT, ".jsonl": FileType.JSONL, ".csv": FileType.CSV}
_CHOOSE = f"choose one of {', '.join(FileType)} with --file-type"


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read as what. `files` are sorted paths relative to `root`; a saved dataset is `root` itself, and has none."""

    file_type: FileType
    root: Path
    files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def infer(place: Path, file_type: FileType | None = None) -> Sources:
    """The files of a folder, recursively and without hidden ones, or the one file; read as `file_type` or by what they are.

    A folder that `save_to_disk` wrote is a saved dataset; otherwise .txt files go before the rest, and .jsonl and .csv files
    may not be mixed. Where a type is given, files with its ending are read, or all where none has it.
    Raises InvalidRequest where the type cannot be told, BadData where there is no file.
    """
    root, files = (place, visible_files(place)) if place.is_dir() else (place.parent, [place.name])
    if not files:
        raise BadData("There is no file to read; files whose name begins with a dot are left out.")
    saved = _saved_roots(files)
    if file_type is FileType.SAVED_DATASET or (file_type is None and saved):
        return Sources(FileType.SAVED_DATASET, root / _only(saved))
    chosen = file_type or _by_ending(files)
    matching = [file for file in files if _ENDINGS.get(_ending(file)) is chosen] or files
    left_out = set(files).difference(matching)
    return Sources(chosen, root, tuple(matching), tuple(sorted(left_out)))


def _ending(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _by_ending(files: list[str]) -> FileType:
    endings = {_ending(file) for file in files}
    known = [kind for ending, kind in _ENDINGS.items() if ending in endings]
    if FileType.TXT in known:
        return FileType.TXT
    if len(known) == 1:
        return known[0]
    found = ", ".join(sorted(ending or "files without an ending" for ending in endings)[:12])
    what = "are of several kinds" if known else "have no ending that tells how they are read"
    raise InvalidRequest.field("file_type", f"the files {what} ({found}); {_CHOOSE}")


def _saved_roots(files: list[str]) -> list[str]:
    """Folders that hold what `save_to_disk` writes; of nested ones the outermost."""
    names = set(files)
    dicts = [_folder(file) for file in files if PurePosixPath(file).name == "dataset_dict.json"]
    singles = [
        _folder(file)
        for file in files
        if PurePosixPath(file).name == "state.json" and str(PurePosixPath(file).with_name("dataset_info.json")) in names
    ]
    return dicts or singles


def _folder(file: str) -> str:
    return str(PurePosixPath(file).parent)


def _only(saved: list[str]) -> str:
    if len(saved) == 1:
        return saved[0]
    if saved:
        raise InvalidRequest.field(
            "upload_id", f"holds {len(saved)} saved datasets ({', '.join(saved[:12])}); send one of them"
        )
    raise InvalidRequest.field(
        "file_type", "the files are no saved dataset: there is no dataset_dict.json or state.json; send the whole folder"
    )
