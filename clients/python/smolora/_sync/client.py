# GENERATED from smolora/_async/client.py by scripts/unasync.py: change that file.
"""The blocking client."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from smolora._references import AnyPath
from smolora._sync.datasets import DatasetCalls
from smolora._sync.generation import GenerationCalls
from smolora._sync.jobs import JobCalls
from smolora._sync.training import TrainingCalls


class Client(TrainingCalls, DatasetCalls, JobCalls, GenerationCalls):
    """Talks to the daemon on this machine.

    `socket` is its Unix socket; by default the one that SMOLORA_SOCKET or SMOLORA_HOME names, else the platform's. `timeout` is
    how many seconds a call that is not a stream may take. Nothing is sent before the first call. A call that fails raises a
    `SmoloraError`: DaemonNotRunning where no daemon listens.

        with Client() as client:
            for piece in client.generate("Once upon a time"):
                print(piece, end="")
    """

    def __init__(self, socket: AnyPath | None = None, *, timeout: float = 10.0) -> None:
        super().__init__(socket, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connection. Jobs continue."""
        self._transport.close()
