"""A real engine in a process of its own, spoken to over its socket, for tests of what only a process shows."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolorad.link.child import LINK_FD_FLAG
from smolorad.link.frames import Frames
from smolorad.link.v1 import link_pb2 as pb

TIMEOUT_S = 120.0
TERMINAL = frozenset({"resident", "outcome", "counted", "decoded", "attached", "done", "trained", "failure"})


class EngineProcess:
    """Commands in, events out; the test reads events itself, so it decides when."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "smolorad.engine", LINK_FD_FLAG, str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
            )
        self._frames = Frames(ours)
        self._calls = 0
        assert self.receive().WhichOneof("body") == "ready"

    def send(self, **body: Any) -> int:
        """Opens a call with one command, given by its field name: `send(generate=pb.Generate(...))`; returns the call."""
        self._calls += 1
        self._frames.send(pb.Command(call=self._calls, **body))
        return self._calls

    def cancel(self, call: int) -> None:
        """Asks that a call end early."""
        self._frames.send(pb.Command(call=call, cancel=pb.Cancel()))

    def pause(self, call: int) -> None:
        """Asks that a training checkpoint and end."""
        self._frames.send(pb.Command(call=call, pause=pb.Pause()))

    def drain(self) -> None:
        """Asks the engine to end."""
        self._frames.send(pb.Command(drain=pb.Drain()))

    def ping(self, nonce: int) -> None:
        """Asks for a Pong, which comes among the other events."""
        self._frames.send(pb.Command(ping=pb.Ping(nonce=nonce)))

    def receive(self) -> pb.Event:
        """The next event of any call; fails when the engine is gone."""
        event = self._frames.receive(pb.Event)
        assert event is not None, f"the engine ended with {self.process.wait()}"
        return event

    def events(self, call: int) -> Iterator[pb.Event]:
        """The events of one call up to its terminal one; those of other calls are thrown away."""
        while True:
            event = self.receive()
            if event.call == call:
                yield event
                if event.WhichOneof("body") in TERMINAL:
                    return

    def call(self, **body: Any) -> pb.Event:
        """Opens a call and returns its terminal event."""
        *_, last = self.events(self.send(**body))
        return last

    def load(self, folder: Path, name: str = "tiny", **more: Any) -> pb.Event:
        """Makes a model resident; the terminal event."""
        return self.call(load=pb.Load(path=str(folder), name=name, **more))

    def hang_up(self) -> None:
        """Closes our end of the socket, as a daemon does that dies."""
        self._frames.close()

    def close(self) -> None:
        """Kills the engine if it still runs."""
        self.process.kill()
        self.process.wait()
        self._frames.close()


@contextlib.contextmanager
def engine_process(*arguments: str, **environ: str) -> Iterator[EngineProcess]:
    """A started engine, killed afterwards."""
    engine = EngineProcess(*arguments, **environ)
    try:
        yield engine
    finally:
        engine.close()
