"""A model from the Hugging Face hub, through the hub's own cache, with each way it can fail in one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx
from tqdm import tqdm

from smolorad.domain import PhaseProgress
from smolorad.engine.model.folder import CODE_FILES, CONFIG, MODEL_FILES
from smolorad.engine.worker.progress import Report, no_progress
from smolorad.engine.worker.room import check_room
from smolorad.errors import HubUnreachable, InvalidRequest, NotFound, SmoloraError
from smolorad.publish import sha256_file

# The library retries by itself where a connection ends or falls silent, but not where it is reset.
_ATTEMPTS = 3


def download_model(repo: str, revision: str, report: Report, *, code: bool = False) -> Path:
    """The snapshot folder of a hub model in the hub's cache (HF_HOME), named after its commit; downloads what is not there.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured, as they were when this process began. `code` brings the model's own
    Python files too. `report` gets bytes, and may raise to stop the download. Raises NotFound, HubUnreachable, InvalidRequest,
    NoRoom.
    """
    patterns = [*MODEL_FILES, *(CODE_FILES if code else ())]
    with _translating_errors(repo, revision):
        attempt = 1
        while True:
            try:
                _check_room(repo, revision, patterns)
                found = snapshot_download(
                    repo, revision=revision or None, allow_patterns=patterns, tqdm_class=_reporting(report), max_workers=4
                )
                return Path(found)
            except httpx.NetworkError:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1


def _check_room(repo: str, revision: str, patterns: Sequence[str]) -> None:
    """Asks the hub for the sizes of the files that are not here yet."""
    cache = Path(constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE or not cache.is_dir():
        return
    try:
        files = snapshot_download(
            repo, revision=revision or None, allow_patterns=list(patterns), dry_run=True, tqdm_class=_reporting(no_progress)
        )
    except (OSError, httpx.HTTPError):  # the download says why, or finds all files in the cache
        return
    check_room(repo, cache, sum(file.file_size or 0 for file in files if file.will_download))


def cached_model(repo: str) -> Path:
    """The snapshot folder of a hub model in the hub's cache, without the network; raises NotFound where it is not complete."""
    try:
        found = Path(snapshot_download(repo, local_files_only=True))
    except HFValidationError as error:
        raise InvalidRequest(f"{repo!r} is not a hub id; write it as `owner/name`.") from error
    except LocalEntryNotFoundError:
        found = None
    if found is None or not (found / CONFIG).is_file() or not next(found.glob("*.safetensors"), None):
        raise NotFound(
            f"{repo} is not on this machine, and a dry run downloads nothing; `smolora-client load {repo}` downloads it."
        )
    return found


def remove_damaged(snapshot: Path) -> bool:
    """Removes the files in the hub's cache whose content does not match their name; returns whether there were any.

    The next download fetches them again.
    """
    damaged = [path for path in snapshot.iterdir() if path.is_symlink() and not _is_as_named(path.resolve())]
    for path in damaged:
        path.resolve().unlink(missing_ok=True)
        path.unlink()
    return bool(damaged)


def _is_as_named(blob: Path) -> bool:
    """The hub names large files after their SHA-256, others after their SHA-1 as git reckons it."""
    if not blob.is_file():
        return False
    if len(blob.name) == 64:
        return sha256_file(blob) == blob.name
    content = blob.read_bytes()
    return len(blob.name) != 40 or hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == blob.name


def _reporting(report: Report) -> type:
    """A progress bar that reports bytes instead of drawing itself."""

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs | {"file": io.StringIO()}))

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            return True  # and never raises: tqdm has a lock around this, and would keep it

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            # One bar counts what comes over the network, another what is on disk: the latter includes what was there.
            if self.unit == "B" and str(self.desc).startswith("Reconstruct"):
                report(PhaseProgress("download", int(self.n), int(self.total or 0), "bytes"))
            return drawn

    return Bar


@contextlib.contextmanager
def _translating_errors(repo: str, revision: str) -> Iterator[None]:
    try:
        yield
    except (HFValidationError, OSError, httpx.HTTPError) as error:
        if (ours := _translated(error, repo, revision)) is None:
            raise
        raise ours from error


def _translated(error: Exception, repo: str, revision: str) -> SmoloraError | None:
    """The order matters: the hub's errors are subclasses of each other, of httpx's and of OSError."""
    hub = constants.ENDPOINT
    match error:
        case HFValidationError():
            return InvalidRequest(f"{repo!r} is not a hub id; write it as `owner/name`, or give the absolute path of a folder.")
        case GatedRepoError():
            return NotFound(
                f"{repo} is gated: accept its terms at {hub}/{repo}, set HF_TOKEN for the daemon to a token of that account, "
                "and try again."
            )
        case RepositoryNotFoundError():
            return NotFound(
                f"There is no model {repo} at {hub}, or it is private; check the spelling, or set HF_TOKEN for the daemon "
                "to a token that may read it."
            )
        case RevisionNotFoundError():
            return NotFound(f"{repo} has no revision {revision!r}; give a branch, a tag or a commit that {hub}/{repo} has.")
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return HubUnreachable(
                f"{repo} is not complete in the hub's cache and HF_HUB_OFFLINE is set; unset it and restart the daemon, "
                "or load `starter` or a folder."
            )
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return NotFound(
                f"The hub refuses to give {repo} to this account (HTTP {error.response.status_code}); set HF_TOKEN for the "
                "daemon to a token that may read it."
            )
        case HfHubHTTPError():
            return HubUnreachable(f"The hub at {hub} answered HTTP {error.response.status_code} for {repo}; try again later.")
        case OSError(errno=int()) if not isinstance(error, LocalEntryNotFoundError | ConnectionError):
            return None
    return HubUnreachable(
        f"The hub at {hub} cannot be reached for {repo}, or broke off; check the network and HF_ENDPOINT and try again, or "
        "load `starter` or a folder."
    )
