"""The engine process: `python -m smolorad.engine --link-fd N`, spawned by the daemon."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from smolorad.engine.runtime.gc import gc_paused
from smolorad.link.child import PREFIX_CACHE_FLAG, open_inbox


def main(argv: Sequence[str]) -> int:
    """Listens first, then imports what serving takes, then works until the daemon drains it."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(PREFIX_CACHE_FLAG, type=int, default=0, dest="prefix_cache_disk_bytes")
    own, others = parser.parse_known_args(argv)
    inbox = open_inbox(others)
    inbox.start()
    prefer_as_victim()

    with gc_paused():
        from smolorad.engine.runtime.device import default_threads
        from smolorad.engine.serve.loop import EngineLoop
        from smolorad.engine.serve.session import Session

    EngineLoop(inbox, Session(default_threads(os.environ), prefix_cache_disk_bytes=own.prefix_cache_disk_bytes)).run()
    return 0


def prefer_as_victim() -> None:
    """Where memory runs out, Linux should end the engine, which the daemon restarts, and nothing else of the user's."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may hide the file
            Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
