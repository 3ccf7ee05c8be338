"""A model's files, brought to a folder: from the hub, from another folder, or the starter."""

from __future__ import annotations

from pathlib import Path

from smolorad import publish
from smolorad.domain import Fetched, PhaseProgress
from smolorad.engine.facts import check, facts, model_files
from smolorad.engine.report import Report
from smolorad.portable import remove_paths

_CHUNK_BYTES = 16 * 2**20


def fetch(
    source: str, *, revision: str = "", output: Path | None, cache: Path, report: Report, trust_remote_code: bool = False
) -> Fetched:
    """Brings the model `source`, a hub id, the absolute path of a folder or `starter`, and checks that it is one.

    With `output` its files are copied there, plainly, without links; without, the folder that has them is told: the hub's
    cache, the starter's below `cache`, the folder itself. `report` is told of the phases `download`, `convert`, `copy` and
    `read`; what it raises stops the work. On failure nothing is left in `output`.
    Raises NotFound, UnsupportedModel, Damaged, HubUnreachable, InvalidRequest.
    """
    found, exactly = _bring(source, revision, cache, report, code=trust_remote_code)
    check(found, name=source, trust_remote_code=trust_remote_code)
    if output is None:
        return _told(found, source, exactly, report, trust_remote_code)
    with publish.fresh(output):
        _copy(found, output, report, code=trust_remote_code)
        return _told(output, source, exactly, report, trust_remote_code)


def _bring(source: str, revision: str, cache: Path, report: Report, *, code: bool) -> tuple[Path, str]:
    """The folder that has the files, and what exactly they are."""
    if source == "starter":
        from smolorad.engine.starter import SOURCE, ensure_starter

        return ensure_starter(cache, report), SOURCE
    if Path(source).is_absolute():
        return Path(source), source
    from smolorad.engine.hub import download_model

    snapshot = download_model(source, revision, report, code=code)
    return snapshot, f"{source}@{snapshot.name}"


def _told(folder: Path, name: str, exactly: str, report: Report, trust_remote_code: bool) -> Fetched:
    report(PhaseProgress("read", 0, publish.size_of(folder), "bytes"))
    return Fetched(str(folder), exactly, facts(folder, name=name, trust_remote_code=trust_remote_code))


def _copy(folder: Path, output: Path, report: Report, *, code: bool) -> None:
    files = model_files(folder, code=code)
    total, done = sum(p.stat().st_size for p in files), 0
    for path in files:
        with path.open("rb") as source, (output / path.name).open("wb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                report(PhaseProgress("copy", done, total, "bytes"))
                target.write(chunk)
                done += len(chunk)
    remove_paths(output)
    report(PhaseProgress("copy", done, total, "bytes"))
