"""A child's side of the link: a torch-free thread reads, so that Ping and Cancel are heard while the child computes."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil

from smolorad.errors import SmoloraError
from smolorad.link.frames import Frames
from smolorad.link.v1 import link_pb2 as pb

LINK_FD_FLAG = "--link-fd"
PREFIX_CACHE_FLAG = "--prefix-cache-disk-bytes"  # of the engine


class Inbox:
    """Commands as they come; events as they go.

    The reading thread answers Ping, notes Cancel and Drain, and puts the rest into a queue that the working thread takes from.
    When the daemon is gone the process ends at once; the next daemon removes what is not published.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._queue: queue.SimpleQueue[pb.Command] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._paused: set[int] = set()
        self._arrived: dict[int, float] = {}
        self._process = psutil.Process()
        self._busy_since: float | None = None
        self._busy_call = 0
        self._adapters: tuple[str, ...] = ()
        self._tokens_per_second = 0.0
        self._cache_bytes = self._prefix_cache_bytes = 0
        self.draining = threading.Event()

    def start(self) -> None:
        """Starts to read, and reports to the daemon that this child listens."""
        self.listen()
        self.tell_ready()

    def listen(self) -> None:
        """Begins to read; from now on the process ends with the daemon."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def tell_ready(self) -> None:
        """Reports that this child accepts commands; until then the daemon sends none."""
        self.emit(0, ready=pb.Ready(pid=os.getpid()))

    def take(self, *, block: bool) -> pb.Command | None:
        """The next command that opens a call; None if there is none and `block` is false.

        While draining, a blocked `take` is woken by the Drain command itself, which is then returned.
        """
        try:
            return self._queue.get(block=block)
        except queue.Empty:
            return None

    def cancelled(self, call: int) -> bool:
        """Whether the daemon wants this call to end early."""
        return call in self._cancelled

    def paused(self, call: int) -> bool:
        """Whether the daemon wants this training to checkpoint and end."""
        return call in self._paused

    def arrived(self, call: int) -> float:
        """When the call came in, on the monotonic clock; now, for one that is not known."""
        return self._arrived.get(call, time.monotonic())

    def forget(self, call: int) -> None:
        """The call has ended; what was noted about it is no longer needed."""
        self._cancelled.discard(call)
        self._paused.discard(call)
        self._arrived.pop(call, None)

    def emit(self, call: int, **body: Any) -> None:
        """Sends one event, whose only field beside the call is given by its name: `emit(7, text="a")`."""
        try:
            self._frames.send(pb.Event(call=call, **body))
        except OSError:
            os._exit(1)

    def fail(self, call: int, error: SmoloraError) -> None:
        """Ends a call with a failure."""
        violations = [pb.Violation(field=v.field, description=v.description) for v in error.violations]
        self.emit(call, failure=pb.Failure(reason=error.reason, message=error.message, violations=violations))

    def working(
        self,
        call: int = 0,
        *,
        adapters: Sequence[str] | None = None,
        tokens_per_second: float | None = None,
        cache_bytes: int | None = None,
        prefix_cache_bytes: int | None = None,
    ) -> None:
        """The working thread has just finished a step and begins another, of this call: what Pong reports."""
        self._busy_call, self._busy_since = call, time.monotonic()
        if adapters is not None:
            self._adapters = tuple(adapters)
        if tokens_per_second is not None:
            self._tokens_per_second = tokens_per_second
        if cache_bytes is not None:
            self._cache_bytes = cache_bytes
        if prefix_cache_bytes is not None:
            self._prefix_cache_bytes = prefix_cache_bytes

    def idle(self) -> None:
        """Notes that the working thread waits for commands."""
        self._busy_call, self._busy_since = 0, None

    def _read(self) -> None:
        while (command := self._frames.receive(pb.Command)) is not None:
            match command.WhichOneof("body"):
                case "ping":
                    self.emit(0, pong=self._pong(command.ping.nonce))
                case "cancel":
                    self._cancelled.add(command.call)
                case "pause":
                    self._paused.add(command.call)
                case "drain":
                    self.draining.set()
                    self._queue.put(command)
                case _:
                    self._arrived[command.call] = time.monotonic()
                    self._queue.put(command)
        os._exit(1)

    def _pong(self, nonce: int) -> pb.Pong:
        since = self._busy_since
        busy_s = 0.0 if since is None else time.monotonic() - since
        return pb.Pong(
            nonce=nonce,
            busy_s=busy_s,
            busy_call=self._busy_call,
            rss_bytes=self._process.memory_info().rss,
            adapters=self._adapters,
            tokens_per_second=self._tokens_per_second,
            cache_bytes=self._cache_bytes,
            prefix_cache_bytes=self._prefix_cache_bytes,
        )


def open_inbox(argv: Sequence[str]) -> Inbox:
    """The inbox over the socket whose number the daemon gave on the command line; to be called by the main thread.

    Ctrl-C in a terminal reaches the daemon's children too; it is the daemon that decides what follows, so they ignore it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="A child of smolorad; it is of no use by itself.")
    parser.add_argument(LINK_FD_FLAG, type=int, required=True, help="number of the inherited socket")
    return Inbox(Frames(socket.socket(fileno=parser.parse_args(argv).link_fd)))
