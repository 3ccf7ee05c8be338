"""A worker as the daemon runs it: a process, a socketpair, framed messages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from smolorad.link.frames import Frames
from smolorad.link.v1 import link_pb2 as pb


class Worker:
    """One end of the link, and the process at the other."""

    def __init__(self, frames: Frames, process: subprocess.Popen[bytes]) -> None:
        self._frames = frames
        self._calls = 0
        self._early: list[pb.Event] = []  # came while something else was waited for
        self.process = process

    def call(self, on_event: Callable[[pb.Event], None] = lambda event: None, **body: Any) -> list[pb.Event]:
        """Sends one command and returns its events, the terminal one last."""
        self._calls += 1
        self._frames.send(pb.Command(call=self._calls, **body))
        events = []
        while (event := self._next()) is not None:
            if event.call != self._calls:
                continue
            events.append(event)
            on_event(event)
            if event.WhichOneof("body") not in ("phase", "note"):
                return events
        raise AssertionError(f"the worker ended with {self.process.wait()} before it answered")

    def cancel(self) -> None:
        """Cancels the call under way, and returns when the worker has heard it."""
        self._frames.send(pb.Command(call=self._calls, cancel=pb.Cancel()))
        self._frames.send(pb.Command(ping=pb.Ping(nonce=1)))
        while (event := self._frames.receive(pb.Event)) is not None and event.WhichOneof("body") != "pong":
            self._early.append(event)

    def _next(self) -> pb.Event | None:
        return self._early.pop(0) if self._early else self._frames.receive(pb.Event)


@contextmanager
def running_worker(environ: Mapping[str, str], module: str = "smolorad.engine.worker") -> Iterator[Worker]:
    """A worker with this environment beside the tests' own; its end of the socket closes with the block, and so it ends."""
    ours, its = socket.socketpair()
    frames = Frames(ours)
    with its:
        command = [sys.executable, "-m", module, "--link-fd", str(its.fileno())]
        process = subprocess.Popen(command, pass_fds=[its.fileno()], env={**os.environ, **environ})
        its.close()
        try:
            ready = frames.receive(pb.Event)
            assert ready is not None
            assert ready.ready.pid == process.pid
            yield Worker(frames, process)
        finally:
            frames.close()
            process.wait()
