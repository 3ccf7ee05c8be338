"""`python -m smolorad.engine.worker.standby [--base FOLDER]`: a weights worker that can merge at once when it is ready.

By then it has imported the libraries and prepared the base, without its weights. The daemon starts it while a training runs,
which it must not delay: it prepares only on an idle core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from smolorad.domain import Device
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.worker.commands import open_worker_inbox, serve

if TYPE_CHECKING:
    from smolorad.engine.worker.merge_prefetch import MergePrefetch

T = TypeVar("T")


def main(argv: Sequence[str]) -> None:
    """Prepares, reports that it is ready, and takes commands; ends with the daemon, also while it prepares."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--base", type=Path, help="the model folder that will be merged into")
    given, rest = parser.parse_known_args(argv)
    inbox = open_worker_inbox(rest)
    inbox.listen()
    prefetched = run_when_idle(lambda: _prepare(given.base))
    inbox.tell_ready()
    serve(inbox, prefetched)


def run_when_idle(work: Callable[[], T]) -> T:
    """Runs `work` on idle cores only, where the system supports that; returns its result, raises its error.

    In a thread of its own: on Linux only root can raise such a thread's priority again, and the merge needs it.
    """
    with ThreadPoolExecutor(1, initializer=_lower_priority) as thread:
        return thread.submit(work).result()


def _lower_priority() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0 is this thread


def _prepare(base: Path | None) -> MergePrefetch | None:
    with gc_paused():
        import smolorad.engine.worker.merge  # noqa: F401
        from smolorad.engine.runtime.device import trim_memory
        from smolorad.engine.worker.merge_prefetch import prefetch

        prefetched = prefetch(base) if base is not None else None
    trim_memory(Device.CPU)  # it may wait for a while
    return prefetched


if __name__ == "__main__":
    main(sys.argv[1:])
