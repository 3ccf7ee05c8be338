"""Fetches a model's files: from the hub, from another folder, or the starter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from smolorad import publish
from smolorad.domain import Fetched, PhaseProgress
from smolorad.engine.model.folder import CONFIG, WEIGHTS, ModelFolder
from smolorad.engine.model.to_safetensors import nbytes_of, write_safetensors
from smolorad.engine.worker.progress import Report
from smolorad.engine.worker.room import check_room
from smolorad.errors import Damaged
from smolorad.gguf import gguf_files
from smolorad.portable import STARTER, remove_paths
from smolorad.safetensors_file import SafetensorsFile

_CHUNK_BYTES = 16 * 2**20


def fetch(
    source: str, *, revision: str = "", output: Path | None, cache: Path, report: Report, trust_remote_code: bool = False
) -> Fetched:
    """Fetches the model `source`, a hub id, the absolute path of a folder or GGUF file, or `starter`, and checks it.

    With `output` its files are copied there, without links, and weights of GGUF and MLX as plain safetensors; otherwise the
    result names the folder that has them: in the hub's cache, below `cache` for the starter and GGUF, or the folder itself.
    `report` gets the phases `download`, `convert`, `copy` and `read`; an error that it raises stops the work. On failure
    nothing is left in `output`.
    Raises NotFound, UnsupportedModel, Damaged, HubUnreachable, InvalidRequest, NoRoom.
    """
    found, resolved = _locate(source, revision, cache, report, code=trust_remote_code)
    try:
        return _checked(found, source, resolved, output, report, trust_remote_code)
    except Damaged:
        if not _is_of_hub(source) or not _remove_damaged(found):
            raise
    found, resolved = _locate(source, revision, cache, report, code=trust_remote_code)
    return _checked(found, source, resolved, output, report, trust_remote_code)


def _locate(source: str, revision: str, cache: Path, report: Report, *, code: bool) -> tuple[Path, str]:
    """The folder that has the files, and their source with its version."""
    if source == STARTER:
        from smolorad.engine.worker.starter import SOURCE, ensure_starter

        return ensure_starter(cache, report), SOURCE
    if not _is_of_hub(source):
        if files := gguf_files(Path(source)):
            from smolorad.engine.worker.gguf import ensure_folder

            return ensure_folder(files, cache, report), source
        return Path(source), source
    from smolorad.engine.worker.hub import download_model

    snapshot = download_model(source, revision, report, code=code)
    return snapshot, f"{source}@{snapshot.name}"


def locate_here(source: str, cache: Path, report: Report) -> Path:
    """The folder of a hub id or of the absolute path of a GGUF file, without the network; raises NotFound."""
    if not _is_of_hub(source):
        return _locate(source, "", cache, report, code=False)[0]
    from smolorad.engine.worker.hub import cached_model

    return cached_model(source)


def _is_of_hub(source: str) -> bool:
    return source != STARTER and not Path(source).is_absolute()


def _remove_damaged(snapshot: Path) -> bool:
    from smolorad.engine.worker.hub import remove_damaged

    return remove_damaged(snapshot)


def _checked(found: Path, name: str, resolved: str, output: Path | None, report: Report, trust_remote_code: bool) -> Fetched:
    """Checks the found folder, and copies it to `output` if there is one."""
    folder = ModelFolder.open(found, name=name, trust_remote_code=trust_remote_code)
    if output is None:
        # Every byte of the starter was compared with its manifest just now.
        files = publish.read_manifest(found)["files"] if name == STARTER else {}
        return _inspected(folder, resolved, report, {file: entry["sha256"] for file, entry in files.items()})
    with publish.fresh(output):
        _copy(folder, output, report)
        copy = ModelFolder.open(output, name=name, trust_remote_code=trust_remote_code)
        return _inspected(copy, resolved, report)


def _inspected(folder: ModelFolder, resolved: str, report: Report, sums: Mapping[str, str] = MappingProxyType({})) -> Fetched:
    if all(isinstance(file, SafetensorsFile) for file in folder.weights):  # others know the sums of their files
        report(PhaseProgress("read", 0, publish.size_of(folder.path), "bytes"))
    return Fetched(str(folder.path), resolved, folder.inspect(sums))


def _copy(folder: ModelFolder, output: Path, report: Report) -> None:
    decoded = [file for file in folder.weights if not isinstance(file, SafetensorsFile)]
    files = [path for path in folder.small_files() if path.name != CONFIG] if decoded else folder.files()
    total, done = sum(p.stat().st_size for p in files), 0
    check_room(folder.name, output, total + sum(nbytes_of(file) for file in decoded))
    for path in files:
        with path.open("rb") as source, (output / path.name).open("wb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                report(PhaseProgress("copy", done, total, "bytes"))
                target.write(chunk)
                done += len(chunk)
    remove_paths(output)
    report(PhaseProgress("copy", done, total, "bytes"))
    if decoded:  # a config may have said how they were quantised
        (output / CONFIG).write_text(json.dumps(folder.config, indent=2) + "\n", encoding="utf-8")
    for file in decoded:
        write_safetensors(file, output / WEIGHTS, report)
