"""Starts a daemon that outlives the process that started it."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from smolora._channel import Address
from smolora._errors import DaemonNotRunning
from smolora.common.paths import home_path

_TIMEOUT_S = 60.0
_READY, _DEAD = b"READY=1", b"DEAD=1"


def launch(address: Address) -> tuple[int, Path]:
    """Runs `smolorad serve` for this address; returns its process id and its log when it listens.

    Its settings are those of this environment. Raises DaemonNotRunning, with the last line it said, where it does not come up.
    """
    home = home_path(os.environ)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = home / "smolorad.log"
    where = ("--socket", str(address.path)) if address.named else ()
    # Not the system's own temporary folder, whose path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="smolora-", dir="/tmp") as folder, log.open("ab") as sink:
        notify = Path(folder, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(str(notify))
            heard.settimeout(_TIMEOUT_S)
            daemon = subprocess.Popen(
                [sys.executable, "-m", "smolorad.cli", "serve", *where],
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            )
            threading.Thread(target=_report_exit, args=(daemon, notify), name="smolora-daemon", daemon=True).start()
            if not _becomes_ready(heard):
                daemon.terminate()
                raise DaemonNotRunning(f"The daemon did not start: {_last_line(log)} Its log is {shlex.quote(str(log))}.")
    return daemon.pid, log


def _becomes_ready(heard: socket.socket) -> bool:
    try:
        while _READY not in (said := heard.recv(4096)):
            if said == _DEAD:
                return False
    except TimeoutError:
        return False
    return True


def _report_exit(daemon: subprocess.Popen[bytes], notify: Path) -> None:
    """So that one wait is enough for both ends a start can have; also takes the exit status of a daemon that ends later."""
    daemon.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(_DEAD, str(notify))


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "It wrote nothing.")
