"""`smolorad install`: the daemon as a service of its user, kept by launchd on macOS and by systemd on Linux.

The service file is written whole or not at all. Every command goes through one runner, so that a dry run can print what would
happen, and tests can answer in the service manager's place.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from smolorad.install import commands
from smolorad.install.commands import Runner
from smolorad.install.environment import Place
from smolorad.install.launchd import Launchd
from smolorad.install.systemd import Systemd
from smolorad.paths import private_folder

__all__ = ["Launchd", "Manager", "Place", "Systemd", "install", "manager", "rehearse", "uninstall"]


class Manager(Protocol):
    """A service manager, as far as it concerns one service."""

    place: Place
    path: Path  # of the service file

    def render(self) -> bytes: ...
    def start(self, changed: bool) -> None: ...
    def verify(self) -> None: ...
    def stop(self) -> None: ...
    def advice(self) -> str: ...


def manager(
    environ: Mapping[str, str],
    home: Path,
    run: Runner = commands.run,
    platform: str = sys.platform,
    *,
    log_file: Path | None = None,
) -> Manager:
    """This platform's service manager; `home` is the daemon's state folder, `log_file` its setting."""
    place = Place.here(environ, home, log_file)
    return Launchd(place, run) if platform == "darwin" else Systemd(place, run)


def install(service: Manager) -> None:
    """Writes the service file and has the service run; doing it again renews both.

    Raises BadState where the service manager refuses, InvalidRequest where the state folder is not the user's own.
    """
    private_folder(service.place.home)
    service.place.logs.mkdir(parents=True, exist_ok=True)
    changed = _write(service.path, service.render())
    service.start(changed)
    service.verify()


def uninstall(service: Manager) -> bool:
    """Ends the service and removes its file; False where there was none. State and models stay."""
    service.stop()
    found = service.path.exists()
    service.path.unlink(missing_ok=True)
    return found


def rehearse(
    environ: Mapping[str, str],
    home: Path,
    say: Callable[[str], None],
    *,
    remove: bool = False,
    platform: str = sys.platform,
    log_file: Path | None = None,
) -> None:
    """Prints the file and the commands of an installation, or of its removal; changes nothing."""
    service = manager(environ, home, commands.rehearsal(say), platform, log_file=log_file)
    if remove:
        service.stop()
        say(f"rm {service.path}")
        return
    say(f"# {service.path}")
    say(service.render().decode())
    service.start(changed=True)


def _write(path: Path, content: bytes) -> bool:
    """Writes a service file, readable by all but written by its owner alone; False where it stood there already."""
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        fresh = Path(file.name)
        try:
            file.write(content)
            file.flush()
            fresh.chmod(0o644)
            fresh.rename(path)
        finally:
            fresh.unlink(missing_ok=True)
    return True
