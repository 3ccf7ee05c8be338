"""A child process on the other end of a socketpair.

Spawned with posix_spawn: a forked process may touch neither gRPC nor Metal. It ends when its socket closes, and its end is
seen as the end of its socket; a thread reaps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

from smolorad.errors import EngineUnavailable, Violation, by_reason
from smolorad.link.child import LINK_FD_FLAG
from smolorad.link.frames import AsyncFrames
from smolorad.link.v1 import link_pb2 as pb
from smolorad.log import Log

log = Log(__name__)

_CHILD_FD = 3
_START_TIMEOUT_S = 60.0
_TERMINAL = frozenset(
    (
        "resident",
        "outcome",
        "counted",
        "decoded",
        "attached",
        "done",
        "trained",
        "prepared",
        "merged",
        "fetched",
        "preview",
        "failure",
    )
)
# The defaults, where the user's environment does not set them.
_DEFAULTS = {
    # OpenMP's threads wait for each other in a loop, for milliseconds. Beside another busy program decoding is then
    # five times slower, as each waits for one that the other keeps from its core. On a quiet machine few rounds cost nothing.
    "GOMP_SPINCOUNT": "2000",
    # Warnings for the developers of libraries do not belong in the user's log.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
}
# Every child needs these variables.
_ENVIRON = {
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # loading bf16 straight to MPS from several threads crashes: transformers#48029
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Child:
    """A running child: calls to it, each with events of its own, and its death."""

    def __init__(self, name: str, pid: int, frames: AsyncFrames, patience_s: float | None = None) -> None:
        self.name = name
        self.pid = pid
        self._patience_s = patience_s
        self.returncode: int | None = None
        self._killed = ""  # why
        self._frames = frames
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Queue[pb.Event | None]] = {}
        self._left: dict[int, float] = {}  # when a call was cancelled that has not ended yet, on the monotonic clock
        self._pongs: dict[int, asyncio.Future[pb.Pong]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        threading.Thread(target=_reap, args=(pid, self._status), name=f"reap-{name}", daemon=True).start()
        self._reading = asyncio.create_task(self._read(), name=f"read-{name}")

    @classmethod
    async def spawn(
        cls,
        module: str,
        *arguments: str,
        name: str,
        environ: Mapping[str, str],
        patience_s: float | None = None,
        start_s: float | None = _START_TIMEOUT_S,
    ) -> Self:
        """Starts `python -m module arguments` and waits until it is ready.

        A call that is cancelled has `patience_s` to end, then the child is killed; None: it is waited for.
        Raises EngineUnavailable where it ends before, or takes more than `start_s`; None: however long it takes.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", module, LINK_FD_FLAG, str(_CHILD_FD), *arguments]
            actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), _CHILD_FD)]
            # It returns as soon as the program is loaded, and nothing else here is allowed to fork.
            pid = os.posix_spawn(sys.executable, command, {**_DEFAULTS, **environ, **_ENVIRON}, file_actions=actions)  # noqa: ASYNC221
        child = cls(name, pid, await AsyncFrames.over(ours), patience_s)
        try:
            async with asyncio.timeout(start_s):
                await child._ready
        except TimeoutError:
            await child.kill()
            raise EngineUnavailable(f"The {name} did not start within {start_s:g} seconds; try again.") from None
        except asyncio.CancelledError:
            await child.kill()
            raise
        return child

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or its connection has."""
        return self._gone.is_set()

    def next_number(self) -> int:
        """A number for a call; by default each gets one of its own."""
        return next(self._numbers)

    async def call(self, number: int | None = None, **body: Any) -> AsyncGenerator[pb.Event, None]:
        """Sends one command, its body by name, and yields the call's events; the last one is its result.

        Leaving early cancels the call, and takes until the child has ended it: what is asked next finds it free. Raises what
        the child's Failure says, and EngineUnavailable where the child dies.
        """
        number = self.next_number() if number is None else number
        events = self._calls[number] = asyncio.Queue()
        ended = False
        try:
            await self.send(pb.Command(call=number, **body))
            while not ended:
                event = await events.get()
                if event is None:
                    ended = True
                    raise await self._death()
                kind = event.WhichOneof("body")
                ended = kind in _TERMINAL
                if kind == "failure":
                    raise _error(event.failure)
                yield event
        finally:
            if not ended and not self._gone.is_set():
                self._left[number] = time.monotonic()
                self._frames.post(pb.Command(call=number, cancel=pb.Cancel()))
                try:
                    async with asyncio.timeout(self._patience_s):
                        await _settled(events)
                except TimeoutError:
                    await self.kill()
            self._left.pop(number, None)
            del self._calls[number]

    def left_s(self, call: int) -> float:
        """How many seconds ago a call was cancelled that has not ended yet; 0 for any other."""
        return time.monotonic() - self._left[call] if call in self._left else 0.0

    async def ping(self) -> pb.Pong:
        """Asks for a sign of life; raises EngineUnavailable where there is none to come. The caller sets the time limit."""
        nonce = next(self._numbers)
        pong = self._pongs[nonce] = asyncio.get_running_loop().create_future()
        try:
            await self.send(pb.Command(ping=pb.Ping(nonce=nonce)))
            answer: pb.Pong = await pong
            return answer
        finally:
            del self._pongs[nonce]

    async def drain(self, grace_s: float) -> None:
        """Asks it to checkpoint and end by itself; returns when it has ended, or when the grace is over."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(grace_s):
                await self.send(pb.Command(drain=pb.Drain()))
                await self._gone.wait()
        except (TimeoutError, EngineUnavailable):
            log.info("child drained", child=self.name, pid=self.pid, seconds=round(time.monotonic() - began, 3))

    async def kill(self, why: str = "") -> None:
        """SIGKILL, unless it has ended; returns when it is reaped.

        `why` completes the error of its calls, "The engine <why> and was killed"; default: that it gave no sign of life.
        """
        if not self._status.done():
            self._killed = self._killed or why or "gave no sign of life"
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        await self.wait()

    async def close(self) -> None:
        """Closes the socket, which ends an idle child at once; returns when it is reaped."""
        self._frames.close()
        await self.wait()

    async def wait(self) -> int:
        """Its exit status once it has ended: negative for the signal that ended it."""
        self.returncode = await asyncio.shield(self._status)
        await asyncio.shield(self._reading)
        return self.returncode

    async def send(self, command: pb.Command) -> None:
        """Sends a command that opens no call, or one that does; raises EngineUnavailable where the child has ended."""
        if self._gone.is_set():
            raise await self._death()
        try:
            await self._frames.send(command)
        except EngineUnavailable:
            raise await self._death() from None  # with the reason why the child ended

    async def _read(self) -> None:
        while (event := await self._frames.receive(pb.Event)) is not None:
            match event.WhichOneof("body"):
                case "ready":
                    if not self._ready.done():
                        self._ready.set_result(None)
                case "pong":
                    pong = self._pongs.get(event.pong.nonce)
                    if pong is not None and not pong.done():
                        pong.set_result(event.pong)
                case _:
                    if (events := self._calls.get(event.call)) is not None:
                        events.put_nowait(event)
        await self._end()

    async def _end(self) -> None:
        """Ends the calls, once the socket is closed."""
        self._gone.set()
        self._frames.close()
        death = await self._death()
        if not self._ready.done():
            self._ready.set_exception(death)
            self._ready.exception()  # marks it as retrieved: there may be no waiter
        for events in self._calls.values():
            events.put_nowait(None)
        for pong in self._pongs.values():
            if not pong.done():
                pong.set_exception(death)
                pong.exception()

    async def _death(self) -> EngineUnavailable:
        """How it ended, in a sentence; waits a moment for the status, which comes a little after the socket's end."""
        try:
            async with asyncio.timeout(1.0):
                code = await asyncio.shield(self._status)
        except TimeoutError:
            return EngineUnavailable(f"The {self.name} closed its connection; try again.")
        if code >= 0:
            return EngineUnavailable(f"The {self.name} ended with status {code}; try again, and see the daemon's log.")
        if self._killed:
            return EngineUnavailable(f"The {self.name} {self._killed} and was killed; try again.")
        name = signal.Signals(-code).name
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return EngineUnavailable(f"The {self.name} was ended by {name}{hint}; try again.")


async def _settled(events: asyncio.Queue[pb.Event | None]) -> None:
    """Passes over what a cancelled call still says, to its end or the child's."""
    while (event := await events.get()) is not None:
        if event.WhichOneof("body") in _TERMINAL:
            return


def _reap(pid: int, ended: asyncio.Future[int]) -> None:
    """Waits for a child's end, in its own thread, and sets its exit status, negative for a signal."""
    _, status = os.waitpid(pid, 0)

    def set_status() -> None:
        if not ended.done():
            ended.set_result(os.waitstatus_to_exitcode(status))

    with contextlib.suppress(RuntimeError):  # the loop is closed
        ended.get_loop().call_soon_threadsafe(set_status)


def _error(failure: pb.Failure) -> Exception:
    violations = [Violation(one.field, one.description) for one in failure.violations]
    return by_reason(failure.reason)(failure.message, violations)
