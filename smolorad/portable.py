"""What leaves this machine: names that other machines can find models by, and configs without paths of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolorad import publish
from smolorad.errors import Damaged

STARTER = "starter"
STARTER_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same model on the hub

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# The layout of the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
_SNAPSHOT = re.compile(r"(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([^/\\]+)[/\\]?$")
_PATH = re.compile(r"[/~.\\]|[A-Za-z]:|file:")
# Fields of configs in which libraries note where they read something.
_PLACES = ("name_or_path", "_file", "_path", "_dir", "_folder")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a base model can be found: its hub id, with the commit where it is known; else the name it has here."""

    name: str
    revision: str | None = None


def source_of(name: str, folder: Path | None = None) -> Source:
    """The name of a base for other machines, never a path.

    `name` is what it is called here: a name of this home, `starter`, a hub id, or an absolute path. `folder` has its files.
    """
    if folder is not None and (found := _of_folder(folder)) is not None:
        return found
    if name == STARTER:
        return Source(STARTER_ID)
    if not is_path(name):
        return Source(name)
    return _of_snapshot(name) or Source(re.split(r"[/\\]", name.rstrip("/\\."))[-1] or "model")


def is_path(text: str) -> bool:
    """Whether a model's name is a place on a machine, and no name or hub id."""
    return bool(_PATH.match(text)) or "\\" in text or text.count("/") > 1


def adapter_config(raw: Mapping[str, Any], base: Source) -> Mapping[str, Any]:
    """A PEFT config that names its base by a name: one that is a path, here or on another machine, becomes `base`."""
    given = raw.get("base_model_name_or_path")
    if not isinstance(given, str) or not is_path(given):
        return raw
    return {**raw, "base_model_name_or_path": base.name, "revision": base.revision}


def remove_paths(folder: Path) -> None:
    """Removes the paths that libraries note from a folder's configs; a file without one stays unchanged, to the byte."""
    for path in sorted(path for path in folder.glob("*config.json") if path.is_file()):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kept = _without_paths(content)
        except (ValueError, RecursionError):  # the reader of the config says so
            continue
        if kept != content:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items() if not (_is_place(key) and _is_local(one))}
    return [_without_paths(one) for one in value] if isinstance(value, list) else value


def _is_place(key: str) -> bool:
    return key.endswith(_PLACES)


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and is_path(value)


def _of_folder(folder: Path) -> Source | None:
    """By the hub's cache that it lies in, or by what its manifest says of its origin."""
    if (found := _of_snapshot(str(folder)) or _of_snapshot(str(folder.resolve()))) is not None:
        return found
    try:
        about = publish.read_manifest(folder).get("about")
    except Damaged:  # most folders were not published here
        return None
    if not isinstance(about, dict):
        return None
    source, origin = str(about.get("source", "")), about.get("origin")
    if origin == STARTER or "gguf_sha256" in about:
        return Source(STARTER_ID)
    if origin == "folder":
        return _of_snapshot(source)
    name, _, revision = source.partition("@")
    return Source(name, revision or None) if origin == "hub" and _HUB_ID.fullmatch(name) else None


def _of_snapshot(path: str) -> Source | None:
    found = _SNAPSHOT.search(path)
    return Source(found[1].replace("--", "/"), found[2]) if found else None
