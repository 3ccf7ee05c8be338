"""Calls about the daemon.

`smolora._sync.system` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from datetime import timedelta

from smolora import _values as values
from smolora._async.calls import Calls
from smolora._convert import from_message
from smolora._settings import duration
from smolora.v1 import system_pb2, system_pb2_grpc


class SystemCalls(Calls):
    """What a client asks the daemon about itself."""

    async def status(self) -> values.Status:
        """What runs, and what it uses."""
        answer = await self._call(system_pb2_grpc.SystemServiceStub, "GetStatus", system_pb2.GetStatusRequest())
        return from_message(values.Status, answer)

    async def shutdown(self, grace: float | timedelta | None = None) -> None:
        """Ends the daemon as SIGTERM does: work in progress gets `grace` seconds to reach a checkpoint."""
        request = system_pb2.ShutdownRequest(grace=duration(grace))
        await self._call(system_pb2_grpc.SystemServiceStub, "Shutdown", request)
