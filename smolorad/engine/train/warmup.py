"""Imports training libraries and compiles kernels in the background, before a training asks for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from smolorad.domain import Dtype
from smolorad.engine.runtime.gc import gc_paused

log = logging.getLogger(__name__)


class WarmUp:
    """Does work once, in a thread of its own: the native step computes meanwhile, Python code takes turns with it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the work, unless it has started."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="warm-up", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Waits for the end of the work, if it has started."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except ImportError as error:  # the training reports it
            log.warning("cannot be imported: %s", error)


def prepare_training(dtype: Dtype | None) -> None:
    """Imports what a training imports, and compiles the kernels for a model in this dtype, if it is known."""
    with gc_paused():
        import torch

        import smolorad.engine.model.to_transformers
        import smolorad.engine.train.run  # noqa: F401
        from smolorad.engine.train.fast.kernels import compile_kernels

    if dtype is not None:
        compile_kernels(getattr(torch, dtype))
