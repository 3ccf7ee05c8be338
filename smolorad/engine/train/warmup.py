"""What a training needs before its first step, and takes seconds: begun before somebody waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from smolorad.domain import Dtype
from smolorad.engine.runtime.gc import gc_paused

log = logging.getLogger(__name__)


class WarmUp:
    """Does something once, in a thread of its own: the native step computes meanwhile, all else takes turns with it."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._given = work
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="early", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Returns when it is through, if it has begun."""
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            self._given()
        except ImportError as error:  # who needs it will say so
            log.warning("cannot be imported: %s", error)


def ready_to_train(dtype: Dtype | None) -> None:
    """Imports what a training imports, and has the kernels for a model in this dtype compiled, if it is known."""
    with gc_paused():
        import torch

        from smolorad.engine.train.fast.kernels import compile_kernels

    if dtype is not None:
        compile_kernels(getattr(torch, dtype))
