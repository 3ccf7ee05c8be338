"""Compiles the C of this folder with the machine's own compiler, once, and keeps the library in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from smolorad.engine.native.library import Format, Library
from smolorad.engine.native.structs import TRAIN_STRUCTS, check_structs
from smolorad.engine.runtime.cache_folder import read_or_make
from smolorad.errors import Damaged

log = logging.getLogger(__name__)

_Opened = TypeVar("_Opened")

_FOLDER = Path(__file__).parent
_LIBRARY = "library.so"
_FLAGS = ("-O3", "-std=gnu11", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
# The code is for this machine alone. Compilers are shy of 512-bit registers, which waste half of them here.
_OWN_MACHINE = {"x86_64": ("-march=native", "-mprefer-vector-width=512"), "arm64": ("-mcpu=native",)}
_TIMEOUT_S = 120.0


def library(cache: Path, threads: int) -> Library | None:
    """The compiled library on that many threads, built below `cache` where it is not there yet.

    None where it cannot be, and the log says why.
    """
    return _opened(cache, "decode", "decodes", lambda path: Library(path, threads))


def train_library(cache: Path, format: Format) -> ctypes.CDLL | None:
    """What is compiled for training in one format, FP32 or BF16, and no sooner than it is wanted; otherwise as `library`."""
    return _opened(cache, "train", "trains", _train_library, ("-DTRAIN_FP32",) if format is Format.FP32 else ())


def _train_library(path: str) -> ctypes.CDLL:
    loaded = ctypes.CDLL(path)
    check_structs(loaded, TRAIN_STRUCTS)
    return loaded


def _opened(cache: Path, name: str, work: str, opened: Callable[[str], _Opened], more: Sequence[str] = ()) -> _Opened | None:
    compiler = _compiler()
    if compiler is None:
        log.info("no C compiler, so torch %s; install one for several times the speed", work)
        return None
    source = _FOLDER / f"{name}.c"
    command = [compiler, *_FLAGS, *_OWN_MACHINE.get(platform.machine(), ()), *more]
    folder = cache / "native" / f"{name}-{_key(command)}"
    try:
        # With its sum compared: to open one that is cut short can end the process.
        return read_or_make(folder, lambda stage: _build(command, source, stage), lambda whole: opened(str(whole / _LIBRARY)))
    except (OSError, subprocess.SubprocessError, Damaged) as error:
        reason = getattr(error, "stderr", None) or str(error)
        log.warning("the native %s cannot be built, so torch %s: %s", name, work, reason.strip()[-500:])
        return None


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def _key(command: list[str]) -> str:
    """What the library depends on: the sources, the command, and the processor, as a home may be shared by several machines."""
    digest = hashlib.sha256()
    for source in sorted(_FOLDER.glob("*.[ch]")):
        digest.update(source.read_bytes())
    digest.update("\0".join([*command, platform.platform(), _processor()]).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _build(command: list[str], source: Path, folder: Path) -> None:
    whole = [*command, "-o", str(folder / _LIBRARY), str(source), "-lm"]
    subprocess.run(whole, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
