"""Publishes folders atomically: each is complete or does not exist.

A folder is written in a stage beside its place, every file is flushed, a manifest with sizes and SHA-256 sums is added, and
one rename makes it visible. Why each flush is there: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smolora.common.json_file import NotAnObject, read_object
from smolorad.errors import AlreadyExists, Damaged

MANIFEST = "manifest.json"
HIDDEN = ".removing-"  # before the name of a folder whose removal has begun
_NONE: Mapping[str, str] = MappingProxyType({})


def publish(stage: Path, final: Path, about: Mapping[str, Any], sums: Mapping[str, str] = _NONE) -> Mapping[str, Any]:
    """Makes `stage` visible as `final`, with `about` in its manifest; returns the manifest.

    `sums` are as in `describe`. Both must be on one file system. Raises AlreadyExists if `final` is there, OSError if the disk
    fails; then `stage` is left, and nothing is at `final`.
    """
    if final.exists():
        raise AlreadyExists(f"{final} exists already.")
    files = describe(stage, sums)
    manifest = {"files": files, "sum": fingerprint({"files": files}), "about": dict(about)}
    with (stage / MANIFEST).open("w", encoding="utf-8") as f:
        json.dump(manifest, f, indent=1, sort_keys=True, default=str)
    flush_tree(stage)
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stage.rename(final)
    try:
        flush_folder(final.parent)
        flush_folder(final.parent.parent)
    except OSError:
        withdraw(final, stage)
        raise
    return manifest


def withdraw(final: Path, stage: Path) -> None:
    """Undoes `publish`: the folder is a stage again."""
    final.rename(stage)


def describe(folder: Path, sums: Mapping[str, str] = _NONE) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file below a folder, by relative path, the manifest left out.

    `sums` are those that the writer of the files has computed already, by relative path.
    """
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST}
    return {
        name: {"size": path.stat().st_size, "sha256": sums.get(name) or sha256_file(path)}
        for name, path in sorted(files.items())
    }


def sums_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, in hexadecimal, by relative path, the manifest left out."""
    return {name: entry["sha256"] for name, entry in describe(folder).items()}


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of a published folder, each file with `size` and `sha256`.

    Raises Damaged where there is none that can be read, and PermissionError where it may not be read.
    """
    try:
        manifest = read_object(folder / MANIFEST)
    except PermissionError:  # not damaged, and no reason to make anything again
        raise
    except (OSError, NotAnObject) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST}; delete it and make it again.") from error
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise Damaged(f"{folder / MANIFEST} is not a manifest; delete the folder and make it again.")
    return manifest


def _is_entry(name: str, entry: Any) -> bool:
    """Whether it describes a file inside the folder."""
    described = isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
    return described and all(map(is_file_name, name.split("/")))


def is_file_name(name: str) -> bool:
    """Whether it can be the name of a file on this machine."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half of a character, which JSON can spell
        return False
    return 0 < length <= 255 and name not in (".", "..") and not {"\0", "/"} & set(name)


def verify(folder: Path, *, sums: bool = True) -> Mapping[str, Any]:
    """The manifest of a published folder, if every file is as it was published; else raises Damaged that names the file.

    Without `sums` only the sizes are compared, which takes no time.
    """
    manifest = read_manifest(folder)
    if "sum" in manifest and manifest["sum"] != fingerprint(manifest):  # the first release wrote none
        raise Damaged(f"{folder / MANIFEST} is not as it was published; delete {folder.name} and make it again.")
    for name, expected in manifest["files"].items():
        path = folder / name
        same = path.is_file() and path.stat().st_size == expected["size"]
        if not same or (sums and sha256_file(path) != expected["sha256"]):
            raise Damaged(f"{path} is not as it was published; delete {folder.name} and make it again.")
    return manifest


def is_whole(folder: Path, *, sums: bool = True) -> bool:
    """Whether `verify` succeeds and may read the files."""
    try:
        verify(folder, sums=sums)
    except (Damaged, OSError):
        return False
    return True


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the names and sums of a manifest's files, in hexadecimal."""
    lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(manifest["files"].items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A new, empty folder to write an artefact into; it is removed again if the block raises."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def flush_tree(folder: Path) -> None:
    """Flushes every file and folder below a folder, and itself, to the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            with path.open("rb") as f:
                _flush(f.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Flushes a folder's list of names."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    # On macOS fsync stops at the drive's cache; F_FULLFSYNC goes through it, and is refused on some file systems.
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass
    os.fsync(fd)


def remove(folder: Path) -> None:
    """Removes a published folder, or what is in its place: hides it with one rename, then removes its files."""
    if not os.path.lexists(folder):
        return
    removed = folder.with_name(f".removed-{folder.name}-{os.getpid()}")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    flush_folder(removed.parent)
    if removed.is_dir() and not removed.is_symlink():
        shutil.rmtree(removed, ignore_errors=True)
    else:
        removed.unlink()


def hide(folder: Path) -> Path:
    """Hides a published folder with one rename, until `put_back` or its removal; returns the hidden path."""
    hidden = folder.with_name(f"{HIDDEN}{folder.name}")
    if folder.exists():
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        try:
            flush_folder(hidden.parent)
        except OSError:
            hidden.rename(folder)
            raise
    return hidden


def put_back(hidden: Path) -> None:
    """Makes a hidden folder visible again, unless its files are gone."""
    if (hidden / MANIFEST).is_file():
        hidden.rename(hidden.with_name(hidden.name.removeprefix(HIDDEN)))
        flush_folder(hidden.parent)


def empty(hidden: Path) -> None:
    """Removes the files of a hidden folder, its manifest first: from then on it is not put back."""
    (hidden / MANIFEST).unlink(missing_ok=True)
    for path in hidden.iterdir() if hidden.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
