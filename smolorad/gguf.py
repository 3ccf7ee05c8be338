"""GGUF files, which users name where a model folder is wanted."""

from __future__ import annotations

from pathlib import Path


def gguf_instead(path: Path) -> str | None:
    """The advice for a GGUF file, or a folder with such files; None for anything else."""
    if path.suffix != ".gguf" and not (path.is_dir() and next(path.glob("*.gguf"), None) is not None):
        return None
    return (
        f"{path} is a model as GGUF, and smolora does not read such weights; load the model that it was made from, with "
        "`--precision int4` or `int8` where memory is short."
    )
