"""Imports that take seconds, begun before somebody waits for them."""

from __future__ import annotations

import importlib
import logging
import threading

from smolorad.engine.garbage import uncollected

log = logging.getLogger(__name__)


class EarlyImports:
    """Imports some modules once, in a thread of its own: the native step computes meanwhile, all else takes turns with it."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="imports", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Returns when it is through, if it has begun."""
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            with uncollected():
                for module in self._modules:
                    importlib.import_module(module)
        except ImportError as error:  # who needs them will say so
            log.warning("cannot be imported: %s", error)
