"""The real daemon in this process, on a real Unix socket, with scripted children."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

from smolora.common import paths
from smolora.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    generation_pb2_grpc,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    system_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from smolorad.app import Backends
from smolorad.config import Settings
from smolorad.daemon import Ending, serve

CALL_S = 20.0


@dataclass(frozen=True)
class Refused:
    """How a call failed: what a client sees."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[str, ...]
    retry_s: int | None


@dataclass
class House:
    """A daemon and its stubs."""

    settings: Settings
    backends: Backends
    ending: Ending = field(default_factory=Ending)
    _task: asyncio.Task[int] | None = None
    channel: grpc.aio.Channel | None = None

    async def start(self) -> House:
        """Serves until `stop`; returns when it is healthy."""
        self.settings.places.create()
        self.ending = Ending()
        self._task = asyncio.create_task(serve(self.settings, self.backends, self.ending))
        target, options = paths.grpc_target(self.settings.socket), (("grpc.default_authority", "localhost"),)
        while not self.settings.socket.exists():
            if self._task.done():
                self._task.result()
            await asyncio.sleep(0)
        self.channel = channel = grpc.aio.insecure_channel(target, options=options)
        async with asyncio.timeout(CALL_S):
            await channel.channel_ready()
        self.health = health_pb2_grpc.HealthStub(channel)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(channel)
        self.training = training_pb2_grpc.TrainingServiceStub(channel)
        self.jobs = jobs_pb2_grpc.JobServiceStub(channel)
        self.models = models_pb2_grpc.ModelServiceStub(channel)
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.system = system_pb2_grpc.SystemServiceStub(channel)
        return self

    async def stop(self) -> int:
        """Ends it as SIGTERM does; the exit status."""
        assert self._task is not None
        if self.channel is not None:
            await self.channel.close()
        self.ending.ask()
        async with asyncio.timeout(CALL_S):
            return await self._task


async def refused(call: Awaitable[Any] | AsyncIterator[Any]) -> Refused:
    """The failure of a call that must fail."""
    try:
        async with asyncio.timeout(CALL_S):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return _read(error)
    raise AssertionError("the call did not fail")


def _read(error: grpc.aio.AioRpcError) -> Refused:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    infos, fields, retry_s = [], [], None
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                if isinstance(message, error_details_pb2.ErrorInfo):
                    infos.append(message)
                elif isinstance(message, error_details_pb2.BadRequest):
                    fields += [v.field for v in message.field_violations]
                else:
                    retry_s = message.retry_delay.seconds
    (info,) = infos
    assert info.domain == "smolora"
    text = error.details() or ""
    assert text
    assert "Traceback" not in text
    assert "\n" not in text
    return Refused(error.code(), info.reason, text, tuple(fields), retry_s)


async def everything(call: AsyncIterator[Any]) -> list[Any]:
    """All messages of a stream."""
    async with asyncio.timeout(CALL_S):
        return [message async for message in call]


async def upload(house: House, *files: tuple[str, bytes]) -> str:
    """Sends files; the upload's id."""
    upload_id = ""
    for path, data in files:

        async def parts(path: str = path, data: bytes = data, upload_id: str = upload_id) -> AsyncIterator[Any]:
            yield datasets_pb2.UploadFileRequest(
                header=datasets_pb2.UploadHeader(upload_id=upload_id, path=path, size_bytes=len(data))
            )
            yield datasets_pb2.UploadFileRequest(data=data)

        upload_id = (await house.datasets.UploadFile(parts())).upload_id
    return upload_id


async def prepared(house: House, name: str = "verses", **more: Any) -> datasets_pb2.Dataset:
    """A dataset of two rows."""
    upload_id = await upload(house, ("a.txt", b"one\ntwo\n"))
    request = datasets_pb2.PrepareDatasetRequest(name=name, upload_id=upload_id, **more)
    return (await everything(house.datasets.PrepareDataset(request)))[-1].dataset


async def loaded(house: House, model: str = "starter", **more: Any) -> models_pb2.ResidentModel:
    """The model, once it is loaded."""
    return (await everything(house.models.LoadModel(models_pb2.LoadModelRequest(model=model, **more))))[-1].resident


async def trained(house: House, adapter: str = "support", **more: Any) -> models_pb2.Adapter:
    """An adapter of the dataset `verses`."""
    request = training_pb2.TrainRequest(dataset="verses", adapter=adapter, **more)
    return (await everything(house.training.Train(request)))[-1].adapter


async def happened(done: Callable[[], bool]) -> None:
    """Returns when the daemon, in this process, has done what no call reports."""
    async with asyncio.timeout(CALL_S):
        while not done():  # noqa: ASYNC110, there is no event of it
            await asyncio.sleep(0)


async def until(call: AsyncIterator[Any], wanted: Any) -> Any:
    """The first message of a stream for which `wanted` holds; the stream is left open."""
    async with asyncio.timeout(CALL_S):
        async for message in call:
            if wanted(message):
                return message
    raise AssertionError("the stream ended without it")


def settings_of(root: Path, **changes: Any) -> Settings:
    """Settings for a home below a folder with a short path."""
    environ = {"SMOLORA_HOME": str(root / "home"), "SMOLORA_SOCKET": str(root / "d.sock")}
    environ |= {f"SMOLORA_{name.upper()}": str(value) for name, value in changes.items()}
    return Settings.load((), environ, root / "none.toml")
