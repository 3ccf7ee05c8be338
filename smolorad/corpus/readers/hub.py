"""A dataset of the Hugging Face hub: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured, downloads are kept."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import httpx

from smolorad.domain import HubDataset, Note
from smolorad.errors import BadData, HubUnreachable, InvalidRequest, NoSpace, NotFound, SmoloraError, first_line, is_disk_full

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_ANSWERS_WITHIN_S = 30.0


def open_hub(hub: HubDataset, emit: Callable[[Note], None]) -> Any:
    """One split of a dataset of the hub as a `datasets.Dataset`; from the hub's cache where the hub cannot be reached.

    Raises InvalidRequest for what is no repository's id, NotFound for a dataset, revision, configuration or split that is not
    there, HubUnreachable where neither the hub nor its cache has it, BadData for files that `datasets` cannot read.
    """
    # A name such as `csv` would be taken for a reader of local files.
    if not _REPO_ID.fullmatch(hub.repo_id) or ".." in hub.repo_id or hub.repo_id in _PACKAGED_DATASETS_MODULES:
        raise InvalidRequest.field("hub.repo_id", f"{hub.repo_id!r} is not a dataset of the hub; write owner/name")
    datasets.disable_progress_bars()
    try:
        with _as_smolora_errors(hub):
            # `datasets` asks again, six times, and then silently uses its cache.
            found = HfApi().dataset_info(hub.repo_id, revision=hub.revision or None, timeout=_ANSWERS_WITHIN_S)
    except HubUnreachable as unreachable:
        return _cached(hub, unreachable, emit)
    return _load(hub, found.sha)


def _cached(hub: HubDataset, unreachable: HubUnreachable, emit: Callable[[Note], None]) -> Any:
    """What `datasets` keeps of an earlier download; raises `unreachable` where that is not what is wanted."""
    datasets.config.HF_HUB_OFFLINE = True
    try:
        dataset = _load(hub, None)
    except HubUnreachable:
        raise unreachable from None
    commit = Path(dataset.cache_files[0]["filename"]).parent.name
    if hub.revision not in ("", commit):  # the cache does not know branches
        raise unreachable
    emit(Note(f"The hub cannot be reached; {hub.repo_id} comes from the cache, at commit {commit}."))
    return dataset


def _load(hub: HubDataset, commit: str | None) -> Any:
    # `datasets` prefers a folder of that name here to the hub.
    with _as_smolora_errors(hub), tempfile.TemporaryDirectory() as nowhere, contextlib.chdir(nowhere):
        return datasets.load_dataset(hub.repo_id, hub.config or None, split=hub.split, revision=commit)


@contextlib.contextmanager
def _as_smolora_errors(hub: HubDataset) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        raise _to_smolora_error(hub, error) from error


def _to_smolora_error(hub: HubDataset, error: Exception) -> SmoloraError:
    causes = list(_causes(error))
    if any(is_disk_full(cause) for cause in causes):
        return NoSpace("The disk is full; free some space in the Hugging Face cache and try again.")
    for cause in causes:
        if isinstance(cause, RemoteEntryNotFoundError):
            continue  # a file that `datasets` looks for, and can do without
        if isinstance(cause, RevisionNotFoundError):
            return NotFound(f"The dataset {hub.repo_id} has no revision {hub.revision!r}; give a branch, a tag or a commit.")
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403, 404):
            return NotFound(
                f"There is no dataset {hub.repo_id} on the hub, or it is private; check the spelling, or set HF_TOKEN for the "
                "daemon to a token that may read it."
            )
        if isinstance(cause, ConnectionError | LocalEntryNotFoundError | HfHubHTTPError | httpx.TransportError):
            return HubUnreachable(
                f"The hub cannot be reached for the dataset {hub.repo_id} ({first_line(cause)}); "
                "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or prepare files instead."
            )
    detail = first_line(error).rstrip(".")
    if type(error) is ValueError:  # how `datasets` says that there is no such configuration or split
        return NotFound(f"{hub.repo_id} has no such configuration or split ({detail}); choose with --config and --split.")
    return BadData(f"{hub.repo_id} is no dataset that can be read ({detail}); choose another one, or prepare its files.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # `datasets` raises some errors `from None`; their context has the cause all the same.
        error = error.__cause__ or error.__context__
