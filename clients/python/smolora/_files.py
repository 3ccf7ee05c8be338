"""The files of an upload: which ones, under which names, and their bytes in pieces."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smolora._errors import InvalidRequest, NotFound, by_reason
from smolora.common.adapter_config import CONFIG, WEIGHTS, Fault, check_files, read_config
from smolora.common.text.files import visible_files
from smolora.v1 import datasets_pb2

_PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send, its path within the upload (`notes/a.txt`), and its size."""

    path: Path
    name: str
    size_bytes: int


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[LocalFile]:
    """Every file of these files and folders, in sorted order; `*`, `?`, `[...]` and `**` in a path stand for what they match.

    Folders are searched recursively; what begins with a dot is left out, unless it is itself given. The files of a folder that
    is given alone are named from that folder down; of several paths each is named from the folder down that holds them all, as
    the name of a folder may say a split. A file that is given twice is sent once.
    Raises NotFound for a path that is not there, InvalidRequest for one that is neither file nor folder or cannot be read, for
    no files at all, for two files of one name, and for a name that is not UTF-8, as the contract knows no other.
    """
    given = [path for pattern in paths for path in _matching(Path(os.path.expanduser(pattern)))]
    common = os.path.commonpath([_absolute(path).parent for path in given]) if len(given) > 1 else ""
    found: dict[str, LocalFile] = {}
    for path in given:
        for file in _expand(path, _name_below(common, path) if common else None):
            if not _is_utf8(file.name):
                raise InvalidRequest(f"The name {file.name!r} is not UTF-8, so it cannot be sent; rename the file.")
            if file.name in found and _absolute(file.path) != _absolute(found[file.name].path):
                raise InvalidRequest(
                    f"{file.path} and {found[file.name].path} would both be uploaded as {file.name}; "
                    "rename one, or give a folder that holds both."
                )
            found[file.name] = file
    if not found:
        raise InvalidRequest(f"There are no files in {', '.join(map(str, given)) or 'nothing'}; give at least one file.")
    return [found[name] for name in sorted(found)]


def adapter_files(folder: str | os.PathLike[str]) -> list[LocalFile]:
    """The files that are the adapter of a PEFT folder, its config checked; what else a trainer saved there is left out.

    Raises NotFound, UnsupportedModel and Damaged where it is no adapter that can be imported, InvalidRequest where it cannot be
    read.
    """
    path = Path(os.path.expanduser(folder))  # unlike Path's own, it leaves `~` of an unknown user, which is then not there
    with _readable(path):
        path.stat()
        try:
            check_files(path)
            read_config(path)
        except Fault as fault:
            raise by_reason(fault.reason)(fault.message) from fault
        return [LocalFile(path / name, name, (path / name).stat().st_size) for name in (CONFIG, WEIGHTS)]


def _matching(path: Path) -> list[Path]:
    """The path itself, or where there is none of that name what it matches as a pattern; raises NotFound for no match."""
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise NotFound(f"Nothing matches {path}; check the pattern.")
    return [Path(name) for name in found]


def fingerprint(files: Iterable[LocalFile]) -> str:
    """Distinguishes these files from changed ones without reading them: a hash of names, sizes, times and places."""
    digest = hashlib.sha256()
    for file in files:
        with _readable(file.path):
            about = file.path.stat()
        known = (str(file.path.absolute()), file.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)
        digest.update(repr(known).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _name_below(folder: str, path: Path) -> str:
    return "/".join(map(_shown, _absolute(path).relative_to(folder).parts))


def _expand(path: Path, name: str | None) -> Iterator[LocalFile]:
    """A file, or those of a folder; by this name, or else by the file's own, or from the folder down."""
    with _readable(path):
        about = path.stat()
    if stat.S_ISREG(about.st_mode):
        yield LocalFile(path, name or _shown(path.name), about.st_size)
    elif stat.S_ISDIR(about.st_mode):
        before = f"{name}/" if name else ""
        for file in visible_files(path):
            with _readable(path / file):
                size = (path / file).stat().st_size
            yield LocalFile(path / file, before + file, size)
    else:
        raise InvalidRequest(f"{path} is neither a file nor a folder; only those can be uploaded.")


def _shown(name: str) -> str:
    """The name for the upload of what was given by name: the daemon reads nothing that begins with a dot."""
    return name.lstrip(".") or name


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises NotFound where the path turns out not to be there, InvalidRequest where the system does not let it be read."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}); give this user access, or leave it out.") from error


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def pieces(file: LocalFile, upload_id: str) -> Iterator[datasets_pb2.UploadFileRequest]:
    """The requests that send one file: its header, then its bytes.

    Raises NotFound where it has vanished, InvalidRequest where it cannot be read or has another size than before.
    """
    header = datasets_pb2.UploadHeader(upload_id=upload_id, path=file.name, size_bytes=file.size_bytes)
    yield datasets_pb2.UploadFileRequest(header=header)
    left = file.size_bytes
    with _readable(file.path), file.path.open("rb") as source:
        while data := source.read(_PIECE_BYTES):
            left -= len(data)
            if left < 0:
                break
            yield datasets_pb2.UploadFileRequest(data=data)
    if left:
        raise InvalidRequest(f"{file.path} changed while it was sent; wait until it is whole, and prepare again.")
