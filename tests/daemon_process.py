"""A real daemon in a process of its own, for tests that need the whole house."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 60.0


class DaemonProcess:
    """`smolorad serve` over a home of its own. `start` returns when it says READY on its notify socket.

    `prefix` is what the command begins with.
    """

    def __init__(self, root: Path, environ: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self.root = root
        self.home = root / "home"
        self.socket = root / "d.sock"
        self.log = root / "daemon.log"
        self._environ = dict(environ)
        self._prefix = tuple(prefix)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running daemon's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def environ(self) -> dict[str, str]:
        """What a client of this daemon needs in its environment."""
        return {**os.environ, **self._environ, "SMOLORA_HOME": str(self.home), "SMOLORA_SOCKET": str(self.socket)}

    def start(self) -> DaemonProcess:
        """Starts the daemon, also again after it was killed."""
        notify_path = self.root / "notify.sock"
        notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            notify.bind(str(notify_path))
            notify.settimeout(START_TIMEOUT_S)
            self.process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "smolorad.cli", "serve"],
                env={**self.environ, "NOTIFY_SOCKET": str(notify_path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError:
                self.kill()
                raise AssertionError(f"the daemon did not get ready:\n{self.tail()}") from None
        return self

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def daemon_process(
    fill: Callable[[Path], object] | None = None, /, *, prefix: Sequence[str] = (), **environ: str
) -> Iterator[DaemonProcess]:
    """A started daemon in a folder with a short path, removed afterwards; `fill` writes its home before it starts."""
    root = Path(tempfile.mkdtemp(prefix="smolora-", dir="/tmp"))
    daemon = DaemonProcess(root, environ, prefix)
    try:
        if fill is not None:
            fill(daemon.home)
        yield daemon.start()
    finally:
        daemon.kill()
        shutil.rmtree(root, ignore_errors=True)
