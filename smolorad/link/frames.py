"""Length-framed protobuf over a socketpair: four bytes of length, big-endian, then the message.

The daemon's end is asyncio, the child's end is plain blocking sockets; both refuse a frame above `MAX_FRAME_BYTES`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TypeVar

from google.protobuf.message import Message

from smolorad.errors import EngineUnavailable, Internal

MAX_FRAME_BYTES = 64 * 2**20
_LENGTH = struct.Struct("!I")

M = TypeVar("M", bound=Message)


def _frame(message: Message) -> bytes:
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise Internal(f"A message of {len(body):,} bytes is more than the {MAX_FRAME_BYTES:,} that a frame may have.")
    return _LENGTH.pack(len(body)) + body


def _length(header: bytes) -> int:
    size: int = _LENGTH.unpack(header)[0]
    if size > MAX_FRAME_BYTES:
        raise Internal(f"A frame announces {size:,} bytes, more than the {MAX_FRAME_BYTES:,} that it may have.")
    return size


class Frames:
    """The child's end. `send` may be called from several threads, `receive` from one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb", buffering=65536)
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Writes one message; raises OSError when the other end is gone."""
        data = _frame(message)
        with self._sending:
            self._sock.sendall(data)

    def receive(self, kind: type[M]) -> M | None:
        """The next message, or None when the other end is gone, also in the middle of a frame."""
        try:
            header = self._reader.read(_LENGTH.size)
            if len(header) < _LENGTH.size:
                return None
            body = self._reader.read(size := _length(header))
        except ConnectionError:  # it ended with something of ours unread
            return None
        return kind.FromString(body) if len(body) == size else None

    def close(self) -> None:
        """Closes this end, which the other sees."""
        self._reader.close()
        self._sock.close()


class AsyncFrames:
    """The daemon's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> AsyncFrames:
        """Wraps one end of a socketpair."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def send(self, message: Message) -> None:
        """Writes one message; raises EngineUnavailable when the other end is gone."""
        try:
            self._writer.write(_frame(message))
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise EngineUnavailable("The process that does this has just ended; try again.") from error

    def post(self, message: Message) -> None:
        """Writes one message without waiting; of no consequence when the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(_frame(message))

    async def receive(self, kind: type[M]) -> M | None:
        """The next message, or None when the other end is gone, also in the middle of a frame."""
        try:
            header = await self._reader.readexactly(_LENGTH.size)
            return kind.FromString(await self._reader.readexactly(_length(header)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Closes this end; the child sees it and exits."""
        self._writer.close()
