"""Compiles the C of this folder with the machine's own compiler, once, and keeps the library in the user's cache."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from smolorad.engine.native.library import Library

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-std=gnu11", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
# The code is for this machine alone. Compilers are shy of 512-bit registers, which waste half of them here.
_OWN_MACHINE = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "arm64": ("-mcpu=native",)}
_TIMEOUT_S = 120.0


def library(cache: Path, threads: int) -> Library | None:
    """The compiled library on that many threads, built below `cache` where it is not there yet.

    None where it cannot be, and the log says why.
    """
    compiler = _compiler()
    if compiler is None:
        log.info("no C compiler, so torch decodes; install one for several times the speed")
        return None
    command = [compiler, *_FLAGS, *_OWN_MACHINE.get(platform.machine(), ())]
    path = cache / "native" / f"step-{_key(command)}.so"
    try:
        return _open(path, threads) or _open(_build(command, path), threads)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        log.warning("the native step cannot be built, so torch decodes: %s", told.strip()[-500:])
        return None


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def _key(command: list[str]) -> str:
    """What the library depends on: the sources, the command, and the processor, as a home may be shared by several machines."""
    digest = hashlib.sha256()
    for source in _sources("*.[ch]"):
        digest.update(Path(source).read_bytes())
    digest.update("\0".join([*command, platform.platform(), _processor()]).encode())
    return digest.hexdigest()[:16]


def _sources(pattern: str) -> list[str]:
    return sorted(map(str, _FOLDER.glob(pattern)))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _open(path: Path, threads: int) -> Library | None:
    """None where it is not there, or damaged."""
    try:
        return Library(str(path), threads)
    except OSError as error:
        if path.exists():
            log.warning("the native step is damaged (%s)", error)
        return None


def _build(command: list[str], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, "step.so")
        subprocess.run(
            [*command, "-o", str(made), *_sources("*.c"), "-lm"], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        made.replace(path)
    return path
