"""Calls for threads. Its twin for asyncio is `smolora._transport.aio`; both have the same names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from smolora._channel import CHANNEL_OPTIONS, Address
from smolora._errors import SmoloraError, TimedOut
from smolora._transport.status import to_error


class Transport:
    """One channel to the daemon, opened at the first call."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel: grpc.Channel | None = None
        self._stubs: dict[type, Any] = {}
        self._closed = False
        self._missed = False
        self._lock = threading.Lock()

    def stub(self, kind: type) -> Any:
        """A service's methods."""
        with self._lock:
            if self._closed:
                raise RuntimeError("This client is closed; make a new one.")
            if self._channel is None:
                self._channel = grpc.insecure_channel(self.address.target, options=CHANNEL_OPTIONS)
            if kind not in self._stubs:
                self._stubs[kind] = kind(self._channel)
            return self._stubs[kind]

    def call(self, method: Any, request: Any, timeout: float | None) -> Any:
        """One request, one answer."""
        try:
            return method(request, timeout=timeout, wait_for_ready=self._is_back())
        except grpc.RpcError as failure:
            raise self.error(failure) from None

    def send(self, stub: type, method: str, requests: Iterator[Any], timeout: float) -> Any:
        """A stream of requests, one answer. The requests are made in a thread."""
        made = Made(requests)
        try:
            return self.call(getattr(self.stub(stub), method), made, timeout)
        except SmoloraError:
            made.check()
            raise

    def stream(self, method: Any, request: Any, *, idle: float | None, timeout: float | None = None) -> Stream:
        """One request, a stream of answers. `idle`: seconds without an answer after which TimedOut is raised."""
        return Stream(method(request, timeout=timeout, wait_for_ready=self._is_back()), self, idle)

    def error(self, failure: Any) -> SmoloraError:
        """The error to raise for a failed call."""
        self._missed = failure.code() is grpc.StatusCode.UNAVAILABLE
        return to_error(failure, self.address)

    def _is_back(self) -> bool:
        """Whether the daemon, not there at the last call, is there now; gRPC fails calls until its next attempt is due."""
        return self._missed and self.address.answers()

    def pause(self, seconds: float) -> None:
        """Waits before another attempt."""
        time.sleep(seconds)

    def close(self) -> None:
        """Ends every call and the connection."""
        with self._lock:
            self._closed = True
            if self._channel is not None:
                self._channel.close()


class Made:
    """Requests as they are made, and the error that ended that: gRPC only reports that there was one."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self._error = error
            raise

    def check(self) -> None:
        """Raises that error, if there was one."""
        if self._error is not None:
            raise self._error from None


class Stream:
    """The answers of one call. One that is dropped unfinished is cancelled."""

    def __init__(self, call: Any, transport: Transport, idle: float | None) -> None:
        self._call = call
        self._transport = transport
        self._idle = idle
        self._cancelled = False
        self._watchdog = None if idle is None else _Watchdog(call, idle)

    def read(self) -> Any:
        """The next answer; None at the end, and after `cancel`."""
        watchdog = self._watchdog
        if watchdog is not None:
            watchdog.listen()
        try:
            message = next(self._call, None)
        except grpc.RpcError as failure:
            if watchdog is not None and watchdog.barked:
                raise TimedOut(f"The daemon sent nothing for {self._idle:g} seconds; see its log.") from None
            if self._cancelled:
                return None
            raise self._transport.error(failure) from None
        except BaseException:  # an interrupt: the daemon must see the caller go
            self.cancel()
            raise
        if watchdog is not None:
            watchdog.heard()
        return message

    def cancel(self) -> None:
        """Ends the call, so that the daemon sees the caller go. Does nothing after the end."""
        self._cancelled = True
        if self._watchdog is not None:
            self._watchdog.stop()
        self._call.cancel()

    def __del__(self) -> None:
        self.cancel()


class _Watchdog:
    """Cancels a call in which a reader waits for too long; gRPC's blocking read has no timeout of its own."""

    def __init__(self, call: Any, idle: float) -> None:
        self.barked = False
        self._call = call
        self._idle = idle
        self._deadline: float | None = None  # None: no reader waits
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="smolora-watchdog", daemon=True).start()

    def listen(self) -> None:
        """A reader begins to wait."""
        self._deadline = time.monotonic() + self._idle

    def heard(self) -> None:
        """The reader has its answer."""
        self._deadline = None

    def stop(self) -> None:
        """Nothing more is expected."""
        self._stopped.set()

    def _watch(self) -> None:
        left = self._idle
        # A deadline that is set while we wait lies at least as far off as our own waking.
        while not self._stopped.wait(left):
            deadline = self._deadline
            left = self._idle if deadline is None else deadline - time.monotonic()
            if left <= 0:
                self.barked = True
                self._call.cancel()
                return
