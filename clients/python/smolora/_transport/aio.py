"""Calls for asyncio. Its twin for threads is `smolora._transport.threads`; both have the same names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from smolora._channel import CHANNEL_OPTIONS, Address
from smolora._errors import SmoloraError, TimedOut
from smolora._transport.status import to_error
from smolora._transport.threads import Made, Transport


class AsyncTransport:
    """One channel to the daemon, opened at the first call."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[type, Any] = {}
        self._closed = False
        self._missed = False
        self._sender: Transport | None = None

    def stub(self, kind: type) -> Any:
        """A service's methods; the channel is opened here because it belongs to the running event loop."""
        if self._closed:
            raise RuntimeError("This client is closed; make a new one.")
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address.target, options=CHANNEL_OPTIONS)
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        return self._stubs[kind]

    async def call(self, method: Any, request: Any, timeout: float | None) -> Any:
        """One request, one answer."""
        try:
            return await method(request, timeout=timeout, wait_for_ready=self._is_back())
        except grpc.RpcError as failure:
            raise self.error(failure) from None

    async def send(self, stub: type, method: str, requests: Iterator[Any], timeout: float) -> Any:
        """A stream of requests, one answer. The requests are made in a thread."""
        # grpc.aio loses the status of a call that the server ends while requests are still sent: INTERNAL stands in its place,
        # in one of seven refused uploads. gRPC's other stack keeps it.
        if self._sender is None:
            self._sender = Transport(self.address)
        made = Made(requests)
        call = getattr(self._sender.stub(stub), method).future(made, timeout=timeout)
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def end(_call: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so no reader waits
                loop.call_soon_threadsafe(ended.set)

        call.add_done_callback(end)
        try:
            await ended.wait()
        finally:
            call.cancel()
        try:
            return call.result()
        except grpc.RpcError as failure:
            made.check()
            raise self.error(failure) from None

    def stream(self, method: Any, request: Any, *, idle: float | None, timeout: float | None = None) -> AsyncStream:
        """One request, a stream of answers. `idle`: seconds without an answer after which TimedOut is raised."""
        return AsyncStream(method(request, timeout=timeout, wait_for_ready=self._is_back()), self, idle)

    def error(self, failure: Any) -> SmoloraError:
        """The error to raise for a failed call."""
        self._missed = failure.code() is grpc.StatusCode.UNAVAILABLE
        return to_error(failure, self.address)

    def _is_back(self) -> bool:
        """Whether the daemon, not there at the last call, is there now; gRPC fails calls until its next attempt is due."""
        return self._missed and self.address.answers()

    async def pause(self, seconds: float) -> None:
        """Waits before another attempt."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Ends every call and the connection."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
        if self._sender is not None:
            self._sender.close()


class AsyncStream:
    """The answers of one call. One that is dropped unfinished is cancelled."""

    def __init__(self, call: Any, transport: AsyncTransport, idle: float | None) -> None:
        self._call = call
        self._transport = transport
        self._idle = idle
        self._cancelled = False

    async def read(self) -> Any:
        """The next answer; None at the end, and after `cancel`."""
        try:
            async with asyncio.timeout(self._idle):
                message = await self._call.read()
        except grpc.RpcError as failure:
            if self._cancelled:
                return None
            raise self._transport.error(failure) from None
        except TimeoutError:
            self.cancel()
            raise TimedOut(f"The daemon sent nothing for {self._idle:g} seconds; see its log.") from None
        except asyncio.CancelledError:
            # gRPC reports our own cancel() this way too; only the caller's task may be cancelled by it.
            if self._cancelled and not _task_is_cancelled():
                return None
            self.cancel()
            raise
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        """Ends the call, so that the daemon sees the caller go. Does nothing after the end."""
        self._cancelled = True
        self._call.cancel()

    def __del__(self) -> None:
        if not self._call.done():
            with contextlib.suppress(RuntimeError):  # the event loop is closed, and the call with it
                self._call.cancel()


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
