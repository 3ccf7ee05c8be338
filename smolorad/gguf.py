"""Which GGUF files a path means: a file, the first of a model's several files, or a folder that has just one model."""

from __future__ import annotations

import re
from pathlib import Path

from smolorad.errors import Damaged, UnsupportedModel

SUFFIX = ".gguf"
MAGIC = b"GGUF"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_PROJECTOR = re.compile(r"(^|[-_.])mmproj([-_.]|$)", re.IGNORECASE)  # of images into a text model; no model by itself


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def gguf_files(path: Path) -> tuple[Path, ...]:
    """The files of the GGUF model that a path means, in order; none where it means no such model, or a folder has others.

    Raises UnsupportedModel for a folder with several models, Damaged where one of a model's files is missing.
    """
    if is_gguf(path):
        return _shards(path)
    if not path.is_dir() or next(path.glob("*.safetensors"), None) is not None:
        return ()
    found = sorted(file for file in path.glob(f"*{SUFFIX}") if not _PROJECTOR.search(file.name) and file.is_file())
    firsts = [file for file in found if (shard := _shard(file)) is None or int(shard["number"]) == 1]
    if len(firsts) > 1:
        names = ", ".join(file.name for file in firsts[:5])
        raise UnsupportedModel(
            f"{path} has several GGUF models ({names}{', ...' if len(firsts) > 5 else ''}); name one of them."
        )
    return _shards((firsts or found)[0]) if found else ()


def _shard(path: Path) -> re.Match[str] | None:
    """What a file's name says about the others; None where it is alone, or its name cannot be one of several."""
    shard = _SHARD.fullmatch(path.name)
    return shard if shard is not None and 1 <= int(shard["number"]) <= int(shard["count"]) else None


def _shards(path: Path) -> tuple[Path, ...]:
    if (shard := _shard(path)) is None:
        return (path,)
    count = int(shard["count"])
    files = tuple(path.with_name(f"{shard['stem']}-{number:05}-of-{count:05}{SUFFIX}") for number in range(1, count + 1))
    if absent := [file.name for file in files if not file.is_file()]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise Damaged(f"{path} is one of {count} files, and {absent[0]}{more} is missing beside it; download all of them.")
    return files
