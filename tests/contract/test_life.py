"""SystemService, and the life of the daemon: in this process, and as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from smolora.common import paths
from smolora.v1 import models_pb2, system_pb2, system_pb2_grpc
from smolora.v1 import system_pb2 as pb
from smolorad import daemon
from smolorad.app import SERVICES, Backends
from smolorad.daemon import EXIT_ALREADY_RUNNING, EXIT_SOCKET_LOST
from smolorad.errors import InvalidRequest
from tests.contract.house import House, loaded, refused, settings_of
from tests.daemon_process import DaemonProcess, daemon_process
from tests.fake_engine import FakeEngine

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def process() -> Iterator[DaemonProcess]:
    """A real daemon, with real children that no call uses."""
    with daemon_process() as started:
        yield started


def get_status(path: Path) -> pb.GetStatusResponse:
    options = (("grpc.default_authority", "localhost"),)
    with grpc.insecure_channel(paths.grpc_target(path), options=options) as channel:
        return system_pb2_grpc.SystemServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=20, wait_for_ready=True)


async def test_status_tells_what_runs(house: House, engines: list[FakeEngine]) -> None:
    empty = await house.system.GetStatus(pb.GetStatusRequest())
    assert (empty.engine_state, empty.engine_pid, empty.HasField("resident")) == (pb.ENGINE_STATE_OFF, 0, False)
    assert (empty.pid, empty.contract, empty.home) == (os.getpid(), "v1", str(house.settings.home))
    assert empty.daemon_rss_bytes > 2**20
    await loaded(house)
    full = await house.system.GetStatus(pb.GetStatusRequest())
    assert (full.engine_state, full.engine_pid, full.engine_rss_bytes) == (pb.ENGINE_STATE_READY, engines[0].pid, 1)
    assert full.HasField("unload_time")


async def test_health_is_told_for_every_service(house: House) -> None:
    for name in ("", *SERVICES):
        assert (await house.health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING


async def test_reflection_lists_the_services(house: House) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await anext(aiter(call))
    call.cancel()
    names = {service.name for service in answer.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names
    assert len(SERVICES) == 6


async def test_shutdown_ends_it_with_the_grace_that_was_asked(house: House, engines: list[FakeEngine]) -> None:
    await loaded(house)
    await house.system.Shutdown(pb.ShutdownRequest(grace=Duration(seconds=3)))
    assert await house.stop() == 0
    assert ("drain", 3.0) in engines[0].script.calls
    assert not house.settings.socket.exists()
    await house.start()
    assert (await refused(house.system.Shutdown(pb.ShutdownRequest(grace=Duration(seconds=2**62))))).fields == ("grace",)


async def test_who_watches_health_sees_the_end_come(house: House) -> None:
    watch = aiter(house.health.Watch(health_pb2.HealthCheckRequest(service="")))
    assert (await anext(watch)).status == SERVING
    house.ending.ask()
    assert (await anext(watch)).status == NOT_SERVING


async def test_the_socket_is_for_its_owner_alone(house: House) -> None:
    assert stat.S_IMODE(house.settings.socket.stat().st_mode) == 0o600


async def test_a_daemon_without_its_socket_ends_to_be_started_again(
    short_path: Path, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_SOCKET_CHECK_S", 0.01)
    house = await House(settings_of(short_path), backends).start()
    house.settings.socket.unlink()
    async with asyncio.timeout(20):
        await house.ending.asked.wait()
    assert await house.stop() == EXIT_SOCKET_LOST


async def test_a_socket_that_goes_while_the_daemon_starts_is_noticed(
    short_path: Path, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_SOCKET_CHECK_S", 0.01)
    real = grpc.aio.server

    def server(*args: Any, **options: Any) -> grpc.aio.Server:
        made = real(*args, **options)
        start = made.start

        async def start_and_lose() -> None:
            await start()
            settings.socket.unlink()

        monkeypatch.setattr(made, "start", start_and_lose)
        return made

    monkeypatch.setattr(grpc.aio, "server", server)
    settings = settings_of(short_path)
    settings.places.create()
    async with asyncio.timeout(20):
        assert await daemon.serve(settings, backends) == EXIT_SOCKET_LOST


async def test_a_file_in_the_socket_s_place_is_left_alone(short_path: Path, backends: Backends) -> None:
    settings = settings_of(short_path)
    settings.places.create()
    settings.socket.write_text("mine")
    with pytest.raises(InvalidRequest, match="cannot be bound"):
        await daemon.serve(settings, backends)
    assert settings.socket.read_text() == "mine"


def test_a_path_that_is_too_long_is_refused(short_path: Path, backends: Backends) -> None:
    settings = settings_of(short_path / ("x" * 100))
    with pytest.raises(InvalidRequest, match=r"bytes long, and 103 is the limit.*SMOLORA_SOCKET"):
        daemon.run(settings, backends)
    assert not settings.home.exists()


def test_a_process_serves_without_torch_or_tcp_and_ends_with_zero(process: DaemonProcess) -> None:
    assert get_status(process.socket).pid == process.pid
    seen = psutil.Process(process.pid)
    assert [c for c in seen.net_connections() if c.family != socket.AF_UNIX] == []
    libraries = {Path(mapped.path).name for mapped in seen.memory_maps()}
    assert not [name for name in libraries if "torch" in name or "arrow" in name]
    for folder in (process.home, process.socket.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert process.stop() == 0
    assert not process.socket.exists()


def test_the_daemon_s_modules_know_no_torch() -> None:
    code = "import sys, smolorad.daemon; print([m for m in ('torch', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


def test_a_second_daemon_is_refused_and_hurts_nobody(process: DaemonProcess, tmp_path: Path) -> None:
    same_home = {**process.environ, "SMOLORA_SOCKET": str(process.root / "other.sock")}
    same_socket = {**process.environ, "SMOLORA_HOME": str(process.root / "other")}
    for environ in (same_home, same_socket):
        second = subprocess.run(
            [sys.executable, "-m", "smolorad.cli", "serve"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == EXIT_ALREADY_RUNNING
        assert "A daemon is running on" in second.stderr
        assert "Traceback" not in second.stderr
    assert get_status(process.socket).pid == process.pid


def test_a_killed_daemon_s_socket_is_taken_over(process: DaemonProcess) -> None:
    process.kill()
    assert process.socket.exists()
    process.start()
    assert get_status(process.socket).pid == process.pid
    assert process.stop() == 0


def test_an_interrupt_ends_it_too(process: DaemonProcess) -> None:
    assert process.process is not None
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(60) == 0


async def test_what_is_not_protobuf_does_not_end_it(house: House) -> None:
    method = house.channel.unary_unary(f"/{SERVICES[5]}/GetStatus")
    with pytest.raises(grpc.aio.AioRpcError):
        await method(b"\xff\xff\xff")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, str(house.settings.socket))
        await asyncio.get_running_loop().sock_sendall(raw, b"GET / HTTP/1.1\r\n\r\n" + bytes(1000))
    assert (await house.system.GetStatus(system_pb2.GetStatusRequest())).contract == "v1"
    assert not (await house.models.ListModels(models_pb2.ListModelsRequest())).models


async def test_a_request_that_is_no_message_is_refused_as_any_other(house: House) -> None:
    assert house.channel is not None
    data = b"\x0a\xff\xff"  # a field that says it is longer than the message

    async def parts() -> AsyncIterator[bytes]:
        yield data

    for call in (
        house.channel.unary_unary("/smolora.v1.SystemService/GetStatus")(data),
        house.channel.unary_stream("/smolora.v1.GenerationService/Generate")(data),
        house.channel.stream_unary("/smolora.v1.DatasetService/UploadFile")(parts()),
    ):
        answer = await refused(call)
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
