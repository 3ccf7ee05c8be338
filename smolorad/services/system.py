"""SystemService: what runs, and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psutil
from google.protobuf.timestamp_pb2 import Timestamp

import smolorad
from smolora.v1 import models_pb2, system_pb2_grpc
from smolora.v1 import system_pb2 as pb
from smolorad.children.engine import Pong
from smolorad.config import Settings
from smolorad.errors import EngineUnavailable
from smolorad.jobs.queue import Queue
from smolorad.link.convert import to_message
from smolorad.residency import EngineState, Residency
from smolorad.services.generation import GenerationService
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.services.validation import check_duration

CONTRACT = "v1"
_PING_S = 2.0
_STATES = {
    EngineState.OFF: pb.ENGINE_STATE_OFF,
    EngineState.LOADING: pb.ENGINE_STATE_LOADING,
    EngineState.READY: pb.ENGINE_STATE_READY,
    EngineState.RESTARTING: pb.ENGINE_STATE_RESTARTING,
}


class SystemService(system_pb2_grpc.SystemServiceServicer):
    """See the contract, proto/smolora/v1/system.proto."""

    def __init__(
        self,
        settings: Settings,
        residency: Residency,
        queue: Queue,
        generation: GenerationService,
        end: Callable[[timedelta | None], None],
    ) -> None:
        self._settings = settings
        self._residency = residency
        self._queue = queue
        self._generation = generation
        self._end = end
        self._process = psutil.Process()
        self._start_time = datetime.now(UTC)

    @map_errors
    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        engine, resident = self._residency.engine, self._residency.resident
        pong = await self._ask_engine()
        return pb.GetStatusResponse(
            version=smolorad.__version__,
            pid=os.getpid(),
            start_time=_timestamp(self._start_time),
            home=str(self._settings.home),
            socket=str(self._settings.socket),
            engine_state=_STATES[self._residency.state],
            engine_pid=engine.pid if engine else 0,
            engine_restarts=self._residency.restarts,
            resident=to_message(models_pb2.ResidentModel, resident) if resident else None,
            adapters=pong.adapters,
            unload_time=_timestamp(due) if (due := self._residency.unload_time()) else None,
            running_job=self._queue.on_engine,
            queued_jobs=self._queue.waiting,
            active_generations=self._generation.active,
            daemon_rss_bytes=self._process.memory_info().rss,
            engine_rss_bytes=pong.rss_bytes,
            contract=CONTRACT,
            tokens_per_second=pong.tokens_per_second,
            cache_bytes=pong.cache_bytes,
            prefix_cache_bytes=pong.prefix_cache_bytes,
        )

    @map_errors
    async def Shutdown(self, request: pb.ShutdownRequest, context: Context) -> pb.ShutdownResponse:
        self._end(check_duration(request.grace, "grace") if request.HasField("grace") else None)
        return pb.ShutdownResponse()

    async def _ask_engine(self) -> Pong:
        """The engine's state; an empty one where it does not answer at once."""
        engine = self._residency.engine
        if engine is None:
            return Pong()
        try:
            async with asyncio.timeout(_PING_S):
                return await engine.ping()
        except (TimeoutError, EngineUnavailable):
            return Pong()


def _timestamp(when: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp
