"""How a request names things: models, folders, and itself."""

from __future__ import annotations

import os
import uuid

from smolora._errors import InvalidRequest
from smolora.common import paths

AnyPath = str | os.PathLike[str]


def new_request_id() -> str:
    """A request id, so that a call that is sent again never starts the work twice."""
    return uuid.uuid4().hex


def model_reference(source: AnyPath) -> str:
    """A model's name or hub id as it is; a path made absolute, because the daemon has a folder of its own.

    The name of a GGUF file that is in the current folder is a path, too.
    """
    if isinstance(source, str) and not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."):
        return absolute_path(source) if source.endswith(".gguf") and os.path.isfile(source) else source
    return absolute_path(source)


def absolute_path(path: AnyPath) -> str:
    try:
        return str(paths.absolute(path))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
