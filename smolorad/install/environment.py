"""The values of this machine for a service file."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from smolora.common.paths import log_path, strip_scheme

# What the installing shell set and a service manager would not know. Tokens are left out: service files can be read by anybody.
_CARRIED = ("HF_HOME", "HF_ENDPOINT", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
# Made absolute: the service has another working folder.
_PATHS = {"SMOLORA_HOME", "SMOLORA_SOCKET", "SMOLORA_CONFIG", "SMOLORA_LOG_FILE"}


@dataclass(frozen=True, slots=True)
class Place:
    """Every path is absolute."""

    python: Path  # of the environment that has the daemon
    user_home: Path
    home: Path  # the state folder
    logs: Path
    uid: int
    environ: Mapping[str, str]  # for the service, besides what its template sets
    log_file: Path | None = None  # the daemon's setting

    @classmethod
    def here(cls, environ: Mapping[str, str], home: Path, log_file: Path | None = None) -> Place:
        """This machine, this user, this interpreter; `home` is the daemon's state folder, `log_file` its setting."""
        carried = {name: environ[name] for name in sorted(environ) if name.startswith("SMOLORA_") or name in _CARRIED}
        for name in _PATHS & carried.keys():
            carried[name] = str(strip_scheme(carried[name]))
        return cls(
            # Not resolved: the link in a virtual environment's bin folder is what makes it one.
            python=Path(sys.executable).absolute(),
            # Not $HOME: under service managers it has been found unset.
            user_home=Path(pwd.getpwuid(os.getuid()).pw_dir),
            home=home,
            logs=log_path(),
            uid=os.getuid(),
            environ=carried,
            log_file=log_file,
        )


def template(name: str) -> bytes:
    """A file of launchd/: beside the package in a wheel, beside the repository's folders in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "launchd", package.parent / "launchd"):
        if (found := folder / name).is_file():
            return found.read_bytes()
    raise FileNotFoundError(name)
