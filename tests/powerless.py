"""Permissions that count: a superuser may read everything, so what tests them runs without that power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# What lets a superuser pass by a file's permissions.
_POWERS = "-dac_override,-dac_read_search"


def powerless() -> tuple[str, ...]:
    """What a command begins with that shall not read what its owner may not; nothing where the tests' user may not either.

    Fails where a superuser cannot lay that power down: a test that passes by itself tests nothing.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.fail("setpriv (of util-linux) is missing; install it, or run the tests as an ordinary user")
    return (setpriv, "--bounding-set", _POWERS, "--inh-caps", _POWERS, "--")


@contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[Path]:
    """The path with these permissions, until the block ends."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield path
    finally:
        path.chmod(before)
