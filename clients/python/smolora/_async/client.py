"""The asyncio client. `smolora._sync.client` is generated from this file: change this one, then run scripts/unasync.py."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from smolora._async.datasets import DatasetCalls
from smolora._async.generation import GenerationCalls
from smolora._async.jobs import JobCalls
from smolora._async.training import TrainingCalls
from smolora._references import AnyPath


class AsyncClient(TrainingCalls, DatasetCalls, JobCalls, GenerationCalls):
    """Talks to the daemon on this machine.

    `socket` is its Unix socket; by default the one that SMOLORA_SOCKET or SMOLORA_HOME names, else the platform's. `timeout` is
    how many seconds a call that is not a stream may take. Nothing is sent before the first call. A call that fails raises a
    `SmoloraError`: DaemonNotRunning where no daemon listens.

        async with AsyncClient() as client:
            async for piece in client.generate("Once upon a time"):
                print(piece, end="")
    """

    def __init__(self, socket: AnyPath | None = None, *, timeout: float = 10.0) -> None:
        super().__init__(socket, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and the connection. Jobs continue."""
        await self._transport.close()
