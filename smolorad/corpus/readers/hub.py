"""A dataset of the Hugging Face hub: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured, downloads are kept."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx

from smolorad.corpus.rows import first_line
from smolorad.domain import HubDataset
from smolorad.errors import BadData, HubUnreachable, InvalidRequest, NoSpace, NotFound, SmoloraError, is_disk_full

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")


def open_hub(hub: HubDataset) -> Any:
    """One split of a dataset of the hub as a `datasets.Dataset`.

    Raises InvalidRequest for what is no repository's id, NotFound for a dataset, revision, configuration or split that is not
    there, HubUnreachable where neither the hub nor its cache has it, BadData for files that `datasets` cannot read.
    """
    # A name such as `csv` would be taken for a reader of local files.
    if not _REPO_ID.fullmatch(hub.repo_id) or ".." in hub.repo_id or hub.repo_id in _PACKAGED_DATASETS_MODULES:
        raise InvalidRequest.field("hub.repo_id", f"{hub.repo_id!r} is not a dataset of the hub; write owner/name")
    datasets.disable_progress_bars()
    try:
        # `datasets` prefers a folder of that name here to the hub.
        with tempfile.TemporaryDirectory() as nowhere, contextlib.chdir(nowhere):
            return datasets.load_dataset(hub.repo_id, hub.config or None, split=hub.split, revision=hub.revision or None)
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError) as error:
        raise _explained(hub, error) from error


def _explained(hub: HubDataset, error: BaseException) -> SmoloraError:
    causes = list(_causes(error))
    if any(is_disk_full(cause) for cause in causes):
        return NoSpace("The disk is full; free some space in the Hugging Face cache and try again.")
    unreachable = next((cause for cause in causes if _is_unreachable(cause)), None)
    if unreachable is not None:
        return HubUnreachable(
            f"The hub cannot be reached for the dataset {hub.repo_id} ({first_line(unreachable)}); "
            "check the network and HF_HUB_OFFLINE, or prepare files instead."
        )
    detail = first_line(error).rstrip(".")
    if isinstance(error, FileNotFoundError | HfHubHTTPError):
        return NotFound(f"The hub has no such dataset for you ({detail}); check the name, or set HF_TOKEN if it is private.")
    if isinstance(error, ValueError):  # how `datasets` says that there is no such configuration or split
        return NotFound(f"{hub.repo_id} cannot be had so ({detail}); choose with --config and --split.")
    return BadData(f"{hub.repo_id} is no dataset that can be read ({detail}); choose another one, or prepare its files.")


def _is_unreachable(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(error, ConnectionError | LocalEntryNotFoundError | httpx.TransportError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
