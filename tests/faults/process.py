"""Waiting for a process to end that is no child of ours."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ended(pid: int, limit_s: float = 30.0) -> Iterator[None]:
    """Holds on to a process on entry; leaves when it has ended, and fails where it does not in time."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        ready, _, _ = select.select([pidfd], [], [], limit_s)
        assert ready, f"process {pid} goes on"
    finally:
        os.close(pidfd)
