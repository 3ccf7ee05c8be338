"""Which files to read, and their types, where the request names none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from smolora.common.text.compressed import bare_name
from smolora.common.text.files import visible_files
from smolorad.domain import FileType
from smolorad.errors import BadData, InvalidRequest

_ENDINGS: Mapping[str, FileType] = {
    ".txt": FileType.TXT,
    ".text": FileType.TXT,
    ".jsonl": FileType.JSONL,
    ".ndjson": FileType.JSONL,
    ".json": FileType.JSON,
    ".csv": FileType.CSV,
    ".tsv": FileType.TSV,
    ".tab": FileType.TSV,
    ".parquet": FileType.PARQUET,
    ".arrow": FileType.ARROW,
    ".md": FileType.MARKDOWN,
    ".markdown": FileType.MARKDOWN,
}
# Files beside the data that describe it.
_ABOUT = ("readme", "license", "licence", "dataset_info", "dataset_infos", "manifest", "changelog")
_CHOOSE = f"choose one of {', '.join(FileType)} with --file-type"


@dataclass(frozen=True, slots=True)
class Source:
    """One file, by its path relative to the root, and what it is read as."""

    file: str
    file_type: FileType

    @property
    def is_prose(self) -> bool:
        """Whether it is text for people, not data."""
        return self.file_type in (FileType.TXT, FileType.MARKDOWN)


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read: `files` below `root` in sorted order, or `root` itself where it is a saved dataset."""

    root: Path
    files: tuple[Source, ...] = ()
    left_out: tuple[str, ...] = ()
    saved: bool = False


def infer(place: Path, file_type: FileType | None = None) -> Sources:
    """The files of a folder, recursively and without hidden ones, or the one file; read as `file_type` or by their endings.

    A folder that `save_to_disk` wrote is a saved dataset. A file that only describes the data (`README.md`) is left out
    where there is data beside it. Where a type is given, files with its ending are read, or all where none has it.
    Raises InvalidRequest where the type is not clear, BadData where there is no file.
    """
    root, files = (place, visible_files(place)) if place.is_dir() else (place.parent, [place.name])
    if not files:
        raise BadData("There is no file to read; files whose name begins with a dot are left out.")
    saved = _saved_roots(files)
    if file_type is FileType.SAVED_DATASET or (file_type is None and saved):
        only = _only(saved)
        outside = [file for file in files if only != "." and not file.startswith(f"{only}/")]
        return Sources(root / only, left_out=tuple(sorted(outside)), saved=True)
    known = {file: kind for file in files if (kind := _kind(file)) is not None}
    if file_type is not None:
        matching = [file for file, kind in known.items() if kind is file_type] or files
        chosen = [Source(file, file_type) for file in matching]
    else:
        data = {file: kind for file, kind in known.items() if not _tells_about(file)} or known
        if not data:
            found = ", ".join(sorted({_ending(file) or "files without an ending" for file in files})[:12])
            why = f"the endings of the files do not say their type ({found}); {_CHOOSE}"
            raise InvalidRequest.field("file_type", why)
        chosen = [Source(file, kind) for file, kind in data.items()]
    left_out = set(files).difference(source.file for source in chosen)
    return Sources(root, tuple(chosen), tuple(sorted(left_out)))


def _kind(file: str) -> FileType | None:
    return _ENDINGS.get(_ending(bare_name(file)))


def _ending(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _tells_about(file: str) -> bool:
    return PurePosixPath(bare_name(file)).stem.lower() in _ABOUT


def _saved_roots(files: list[str]) -> list[str]:
    """Folders that `save_to_disk` wrote; of nested ones the outermost."""
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
        raise InvalidRequest.field("upload_id", f"has {len(saved)} saved datasets ({', '.join(saved[:12])}); send one of them")
    raise InvalidRequest.field(
        "file_type", "the files are no saved dataset: there is no dataset_dict.json or state.json; send the whole folder"
    )
