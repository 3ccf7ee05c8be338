"""A scripted daemon, and both clients of it behind one awaitable face."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import smolora
from smolora.v1 import datasets_pb2
from tests.unit.client.fake_daemon import FakeDaemon


@pytest.fixture
async def daemon(short_path: Path) -> AsyncIterator[FakeDaemon]:
    """A started daemon with nothing scripted."""
    fake = FakeDaemon(short_path / "d.sock")
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def uploads(daemon: FakeDaemon) -> dict[str, bytes]:
    """What arrives by UploadFile, by its path within the upload."""
    arrived: dict[str, bytes] = {}

    async def upload(requests: Any, context: Any) -> Any:
        header, data = None, b""
        async for request in requests:
            if request.HasField("header"):
                header = request.header
            data += request.data
        assert header is not None
        assert header.upload_id == ("u1" if arrived else "")
        assert header.size_bytes == len(data)
        arrived[header.path] = data
        return datasets_pb2.UploadFileResponse(upload_id="u1", sha256=hashlib.sha256(data).hexdigest())

    daemon.script["UploadFile"] = upload
    return arrived


class Threaded:
    """The blocking client, each call in a thread, so that the server in this event loop can answer."""

    def __init__(self, client: smolora.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


@pytest.fixture(params=["asyncio", "threads"])
async def client(request: pytest.FixtureRequest, daemon: FakeDaemon) -> AsyncIterator[Any]:
    """Each client in turn; its calls are awaited."""
    if request.param == "asyncio":
        async with smolora.AsyncClient(daemon.socket) as aio:
            yield aio
    else:
        with smolora.Client(daemon.socket) as blocking:
            yield Threaded(blocking)


class Command:
    """`smolora-client` in a process of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def start(self, *arguments: str | bytes, **environ: str) -> asyncio.subprocess.Process:
        """Starts it, with its three streams piped; `environ` goes on top of this process's."""
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "smolora.cli.main", "--socket", str(self._socket), *arguments]
        return await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **environ}
        )

    async def run(self, *arguments: str | bytes, stdin: str | bytes = "", **environ: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = await self.start(*arguments, **environ)
        out, err = await process.communicate(stdin.encode() if isinstance(stdin, str) else stdin)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def command(daemon: FakeDaemon) -> Command:
    """The command line, talking to the scripted daemon."""
    return Command(daemon.socket)
