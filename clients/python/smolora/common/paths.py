"""Where the daemon keeps its state and listens: the one rule that both it and its clients follow.

`SMOLORA_HOME` names the state folder, `SMOLORA_SOCKET` the socket (`unix:///path` and `unix:path` are understood too).
Without them the platform's own places are used: ~/Library on macOS, XDG on Linux.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from platformdirs import PlatformDirs

_DIRS = PlatformDirs("smolora", appauthor=False)
SOCKET_NAME = "smolorad.sock"


def home_path(environ: Mapping[str, str]) -> Path:
    """The state folder; absolute. Raises ValueError as `absolute` does, and so do the others."""
    if given := environ.get("SMOLORA_HOME"):
        return absolute(given)
    return Path(_DIRS.user_data_dir)


def socket_path(environ: Mapping[str, str], home: Path | None = None) -> Path:
    """The socket; absolute. `home` is what overrides the environment's state folder, if anything does."""
    if given := environ.get("SMOLORA_SOCKET"):
        return strip_scheme(given)
    if home is not None:
        return home / "run" / SOCKET_NAME
    run = Path(environ.get("XDG_RUNTIME_DIR", ""))
    # One that is empty or relative does not count, as the XDG specification says.
    if "SMOLORA_HOME" in environ or sys.platform == "darwin" or not run.is_absolute():
        return home_path(environ) / "run" / SOCKET_NAME
    return run / "smolora" / SOCKET_NAME


def strip_scheme(target: str) -> Path:
    """The path in `unix:///path`, `unix:path` or a plain path; absolute."""
    for scheme in ("unix://", "unix:"):
        if target.startswith(scheme):
            target = target.removeprefix(scheme)
            break
    return absolute(target)


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path from the root on, `~` and `~user` replaced; raises ValueError with one sentence where that cannot be known."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{os.fspath(path)}: there is no home folder of that user; give the whole path.") from None
    except OSError:
        raise ValueError(f"{os.fspath(path)} is relative to a folder that is gone; change into another one.") from None


def grpc_target(path: Path) -> str:
    """What gRPC calls the socket, to bind it and to reach it. Percent-encoded, as gRPC decodes it: `Application%20Support`."""
    return f"unix:{quote(os.fsencode(path))}"


def cache_path() -> Path:
    """What may be thrown away and made again: downloads, the converted starter model."""
    return Path(_DIRS.user_cache_dir)


def config_path() -> Path:
    """The daemon's TOML file, where none is named."""
    return Path(_DIRS.user_config_dir) / "smolorad.toml"


def log_path() -> Path:
    """The folder of log files that a service manager writes."""
    return Path(_DIRS.user_log_dir)
