"""The repository, and commands run in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(command: Sequence[str | Path], cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command's exit status and all it said, on `stdout`."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeed(command: Sequence[str | Path], cwd: Path = ROOT, **environ: str) -> str:
    """What a command said that had to succeed."""
    done = run(command, cwd, **environ)
    assert done.returncode == 0, done.stdout
    return done.stdout
