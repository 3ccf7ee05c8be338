"""What the keys and values on disk depend on besides tokens and adapter: the weights, this program, this processor."""

from __future__ import annotations

import hashlib
import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import smolorad.engine
from smolorad.engine.generate.prefix_store import PrefixStore
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeModel

log = logging.getLogger("smolorad.engine")

_LIBRARIES = ("numpy", "torch", "transformers")  # torch fills the native cache where the native step takes no long prompts


def open_store(base: BaseModel, folder: Path, limit_bytes: int) -> PrefixStore | None:
    """The prefixes on disk of a model, below `folder`; None where none are wanted or can be kept. The log says why."""
    if limit_bytes <= 0:
        return None
    if base.native is None:
        log.info("prefix cache: nothing is kept on disk of %s, which torch computes", base.name)
        return None
    try:
        store = PrefixStore(folder, limit_bytes, identity(base.fingerprint, base.native))
    except OSError as error:
        log.warning("prefix cache: nothing is kept on disk: %s", error)
        return None
    log.info("prefix cache: %.1f of %.1f MB on disk, in %s", store.nbytes / 1e6, limit_bytes / 1e6, folder)
    return store


def identity(fingerprint: str, native: NativeModel) -> str:
    """A sum over everything that a model's keys and values depend on; `fingerprint` is that of its weights.

    All of the engine's code is in it: whatever an update changes, what was computed before is not used.
    """
    digest = hashlib.sha256("\0".join([fingerprint, native.fingerprint, platform.platform(), *_versions()]).encode())
    package = Path(smolorad.engine.__file__).parent
    for source in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c", ".h")):
        digest.update(f"\0{source.relative_to(package)}\0".encode() + source.read_bytes())
    return digest.hexdigest()


def _versions() -> list[str]:
    return [f"{name} {_version(name)}" for name in _LIBRARIES]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
