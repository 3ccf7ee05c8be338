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

    The name of a GGUF file that is in the current folder is a path, too, and so is one in a folder below: owners on the hub do
    not name models like files, and a path with a typing error shall not be looked for there.
    """
    if isinstance(source, str) and not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."):
        is_path = source.endswith(".gguf") and ("/" in source or os.path.isfile(source))
        return absolute_path(source) if is_path and "://" not in source else source
    return absolute_path(source)


def absolute_path(path: AnyPath) -> str:
    try:
        return str(paths.absolute(path))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
