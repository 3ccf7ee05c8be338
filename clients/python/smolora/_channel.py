"""Which socket the daemon listens on, how a channel to it is set up, and the error where no daemon answers."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from smolora._errors import DaemonNotRunning, InvalidRequest
from smolora.common import paths

# sun_path holds 104 bytes on macOS, its closing zero included.
_SOCKET_PATH_LIMIT_BYTES = 103
_MESSAGE_LIMIT_BYTES = 16 * 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # gRPC would send the socket's path as the authority, which strict servers and proxies refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT_BYTES),
    # A daemon that restarts is back in a second or two; gRPC would wait up to two minutes between attempts.
    # Not min_reconnect_backoff: that is also how long a connection may take to come up, and a busy machine needs more.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A client of its own never shares a connection with another that was closed.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Address:
    """The daemon's socket, and whether the caller named it."""

    path: Path
    named: bool

    @classmethod
    def find(cls, given: str | os.PathLike[str] | None) -> Address:
        """The socket given, else the one the environment names, else the platform's place.

        Raises InvalidRequest for a path that no system can connect to.
        """
        named = given is not None
        try:
            path = paths.socket_path(os.environ) if given is None else paths.strip_scheme(os.fspath(given))
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        length = len(os.fsencode(path))
        if length > _SOCKET_PATH_LIMIT_BYTES:
            raise InvalidRequest(
                f"The socket's path is {length} bytes long, and {_SOCKET_PATH_LIMIT_BYTES} is the limit: {path}; "
                "choose a shorter one with SMOLORA_SOCKET, for the daemon too."
            )
        return cls(path, named)

    @property
    def target(self) -> str:
        """The address as gRPC names it."""
        return paths.grpc_target(self.path)

    def answers(self) -> bool:
        """Whether anybody listens, now. A Unix socket accepts or refuses at once."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(os.fspath(self.path))
            except BlockingIOError:  # its queue of connections is full, so a daemon has it
                return True
            except OSError:
                return False
        return True

    def not_running(self) -> DaemonNotRunning:
        """The error that says how to start a daemon here."""
        line = f"SMOLORA_SOCKET={self.path} smolorad serve" if self.named else "smolorad serve"
        return DaemonNotRunning(f"No daemon answers at {self.path}; start one with:\n  {line}")
