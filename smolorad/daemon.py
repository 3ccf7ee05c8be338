"""The daemon process, from start to end: lock, open, bind, serve, drain.

Exit status of `run`: 0 ended on request · 1 the socket was removed, start again · 3 another daemon uses this home or socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from smolora.common import paths
from smolorad import log as logs
from smolorad.app import SERVICES, App, Backends, real_backends
from smolorad.config import Settings
from smolorad.errors import BadState, InvalidRequest, of_system
from smolorad.log import Log
from smolorad.paths import check_own_file, check_socket_path, check_utf8, socket_folder
from smolorad.services.grpc_errors import MESSAGE_LIMIT_BYTES, DeferParseErrors
from smolorad.store.database import Database

log = Log(__name__)

EXIT_DONE, EXIT_SOCKET_LOST, EXIT_ALREADY_RUNNING = 0, 1, 3

_FILES_LIMIT = 8192
_SOCKET_CHECK_S = 10.0
_STOP_GRACE_S = 2.0
# Above the contract's limit, so that a request between the two is refused with a reason.
_RECEIVE_LIMIT_BYTES = 64 * 2**20
# No limit on a connection's streams: gRPC resets what is above it, so a client would lose calls, status and cancel among them.
# `max_generations` and `max_queue` are the limits, and they are refused with a reason.
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _RECEIVE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)


def run(settings: Settings, backends: Backends | None = None) -> int:
    """Runs the daemon until its end is requested; returns the exit status.

    Raises InvalidRequest for a path that cannot be used. Tests pass their own `backends`.
    """
    os.umask(0o077)
    _raise_files_limit()
    logs.setup(settings.log_level, settings.log_format, settings.log_file)
    for path, variable in (
        (settings.home, "SMOLORA_HOME"),
        (settings.socket, "SMOLORA_SOCKET"),
        (paths.cache_path(), "XDG_CACHE_HOME"),
    ):
        check_utf8(path, variable)
    check_socket_path(settings.socket)
    settings.places.create()
    socket_folder(settings.socket.parent)
    try:
        with _locked(settings.places.lock, settings.home), _locked(_beside(settings.socket), settings.socket):
            return asyncio.run(serve(settings, backends or real_backends(settings)))
    except _AlreadyRunning as error:
        log.error(error.message)
        return EXIT_ALREADY_RUNNING


class _AlreadyRunning(BadState):
    """Another daemon has the lock."""


@dataclass(slots=True)
class Ending:
    """Whether the daemon is to end, and how long work in progress may take."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = EXIT_DONE
    grace: timedelta | None = None

    def ask(self, grace: timedelta | None = None, status: int = EXIT_DONE) -> None:
        """Requests the end; the first request decides."""
        if not self.asked.is_set():
            self.grace, self.status = grace, status
            self.asked.set()


async def serve(settings: Settings, backends: Backends, ending: Ending | None = None) -> int:
    """Serves until `ending` is requested or a signal arrives; the caller has the locks."""
    ending = ending or Ending()
    grace_s = settings.drain_s
    with _signals(ending):
        async with Database.open(settings.places.database) as database:
            app = App(settings, database, backends, ending.ask)
            await app.settle()
            server, pulse, inode = await _bound(settings.socket, app)
            watch = asyncio.create_task(_watch_socket(settings.socket, inode, ending))
            await app.start()
            _notify(settings, "READY=1")
            log.info("ready", socket=settings.socket, home=settings.home, pid=os.getpid())
            await ending.asked.wait()
            grace_s = grace_s if ending.grace is None else max(0.0, ending.grace.total_seconds())
            log.info("ending", grace_s=grace_s)
            _notify(settings, "STOPPING=1")
            watch.cancel()
            await pulse.enter_graceful_shutdown()
            await app.drain(grace_s)
            await server.stop(_STOP_GRACE_S)
            await app.close()
    log.info("ended", status=ending.status)
    return ending.status


async def _bound(path: Path, app: App) -> tuple[grpc.aio.Server, health.aio.HealthServicer, int | None]:
    """A started server on the socket, with our services, health and reflection; and the socket's inode."""
    server = grpc.aio.server(interceptors=(DeferParseErrors(),), options=_OPTIONS)
    app.add_to(server)
    pulse = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(pulse, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for name in ("", *SERVICES):
        await pulse.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        server.add_insecure_port(paths.grpc_target(path))
    except RuntimeError as error:
        raise InvalidRequest(f"The socket {path} cannot be bound; remove what is there, or choose another path.") from error
    inode = _inode(path)  # now: whatever happens to the file from here on is noticed
    await server.start()
    with contextlib.suppress(FileNotFoundError):  # it was deleted; the watch notices
        os.chmod(path, 0o600)
    return server, pulse, inode


async def _watch_socket(path: Path, inode: int | None, ending: Ending) -> None:
    """Ends the daemon when its socket was deleted or replaced: the server itself never notices, and clients wait for ever."""
    while inode is not None and _inode(path) == inode:  # noqa: ASYNC110 - a file says nothing when it goes
        await asyncio.sleep(_SOCKET_CHECK_S)
    log.error("the socket was removed; exiting to be restarted", socket=path)
    ending.ask(status=EXIT_SOCKET_LOST)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


@contextlib.contextmanager
def _locked(lock: Path, what: Path) -> Iterator[None]:
    """Locks a file while the block runs. A second server would silently take the socket from the first: grpc#17122."""
    check_own_file(lock)
    try:
        # os.open sets close-on-exec, so children do not keep the lock.
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise of_system(error) or InvalidRequest(f"{lock} cannot be opened ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _AlreadyRunning(f"A daemon is running on {what} already; use that one, or end it first.") from None
        yield
    finally:
        os.close(fd)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


@contextlib.contextmanager
def _signals(ending: Ending) -> Iterator[None]:
    """SIGTERM and SIGINT request the end."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ending.ask)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _raise_files_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_LIMIT if hard == resource.RLIM_INFINITY else min(_FILES_LIMIT, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _notify(settings: Settings, state: str) -> None:
    """Reports the state to systemd, or to whichever program set a notify socket."""
    if address := settings.environ.get("NOTIFY_SOCKET"):
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(state.encode(), address)
