"""The optional library `datasets`."""

from __future__ import annotations

import importlib
from typing import Any


def hugging_face(what: str) -> Any:
    """The library, imported when it is first needed; raises ImportError that says how to install it for `what`."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{what} is a datasets.Dataset; install that library: pip install 'smolora[datasets]'") from error
