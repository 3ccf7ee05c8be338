"""`python -m smolorad.engine.worker.standby [--base FOLDER]`: the weights worker, ready to merge at once when it says ready.

What a merge imports is in memory by then, and what it must know of its base, but not the base itself. The daemon starts it
while a training runs, which it must not delay: it works only on a core that nobody else wants.
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
    """Looks ahead, tells that it is ready, and takes commands; ends with the daemon, also while it looks."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--base", type=Path, help="the model folder that will be merged into")
    given, rest = parser.parse_known_args(argv)
    inbox = open_worker_inbox(rest)
    inbox.listen()
    prefetched = run_when_idle(lambda: _look(given.base))
    inbox.tell_ready()
    serve(inbox, prefetched)


def run_when_idle(work: Callable[[], T]) -> T:
    """What it returns, worked out on idle cores alone, where the system has that; raises what it raises.

    In a thread of its own: Linux lets nobody but root take such a thread back to what it was, and the merge is in a hurry.
    """
    with ThreadPoolExecutor(1, initializer=_step_back) as thread:
        return thread.submit(work).result()


def _step_back() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0 is this thread


def _look(base: Path | None) -> MergePrefetch | None:
    with gc_paused():
        import smolorad.engine.worker.merge  # noqa: F401
        from smolorad.engine.runtime.device import trim_memory
        from smolorad.engine.worker.merge_prefetch import prefetch

        prefetched = prefetch(base) if base is not None else None
    trim_memory(Device.CPU)  # it may wait for a while
    return prefetched


if __name__ == "__main__":
    main(sys.argv[1:])
