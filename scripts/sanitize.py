"""Runs the tests of the native code under AddressSanitizer and UBSan: `make sanitize`, some minutes.

First it plants an overrun and a conversion that means nothing, each in a copy of the C, and makes sure that each is caught.
Where the processor has no AVX-512, the tests run a second time, with its instructions in plain C (`scripts/avx512`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "smolorad" / "engine" / "native"
TESTS = (
    "tests/unit/engine/native",
    *(
        f"tests/unit/engine/train/fast/test_{name}.py"
        for name in ("kernels", "attention", "loss", "layers", "lora", "batching")
    ),
)
# Undefined behaviour ends the process. A conversion of NaN to a whole number is in no group of gcc's.
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"
_USED = ("AVX512F", "AVX512BW", "AVX512VNNI", "AVX512BF16")
# No AVX2: the header in the place of the compiler's has AVX-512 alone, and where that is, AVX2 has no code of its own.
EMULATION = " ".join([f"-I{ROOT / 'scripts' / 'avx512'}", *(f"-D__{name}__" for name in _USED), "-U__AVX2__"])
MAC = sys.platform == "darwin"


@dataclass(frozen=True)
class Compiler:
    """One that has the sanitizers, and what must be in the process before Python is."""

    path: str
    preload: tuple[str, ...]


@dataclass(frozen=True)
class Planted:
    """A fault in the C, the test that runs into it, and what is said then."""

    file: str
    right: str
    wrong: str
    test: str
    said: str


PLANTED = (
    Planted(
        "decode_attention.h",
        "store_cache_row(m->cache_format, (char *)s->values[l] + at, value_of(e, r, kv), d);",
        "store_cache_row(m->cache_format, (char *)s->values[l] + at, value_of(e, r, kv), d + 1);",
        "tests/unit/engine/native/test_decoder.py::test_every_known_architecture[llama]",
        "heap-buffer-overflow",
    ),
    Planted(
        "packed_product.h",
        "float whole = usable ? x[i] * steps : 0",
        "float whole = x[i] * steps",
        "tests/unit/engine/native/test_matrix.py::test_what_is_not_finite_is_not_hidden",
        "outside the range of representable values",
    ),
)


def main() -> int:
    """0 where nothing is found; one sentence where the sanitizers are not there."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        compiler = _compiler(work)
        if compiler is None:
            print(
                "make sanitize needs gcc or clang with the libraries of its sanitizers; install them "
                "(Debian: gcc; Fedora: libasan and libubsan; macOS: the command line tools).",
                file=sys.stderr,
            )
            return 1
        environment = _environment(work / "own", compiler)
        for planted in PLANTED:
            if not _is_caught(planted, work, environment):
                print(
                    f"{planted.wrong!r} in {planted.file} was not caught, so a clean run would show nothing.", file=sys.stderr
                )
                return 1
        passes = [environment]
        if _lacks_avx512(compiler):
            passes.append(_environment(work / "avx512", compiler, EMULATION))
        return max(subprocess.run(_pytest(*TESTS), cwd=ROOT, env=one).returncode for one in passes)


def _compiler(work: Path) -> Compiler | None:
    source = work / "probe.c"
    source.write_text("int probe(int x) { return x + 1; }\n")
    for name in ("gcc", "clang", "cc"):
        path = shutil.which(name)
        if path is None:
            continue
        command = [path, *FLAGS.split(), "-shared-libasan"] if _is_clang(path) else [path, *FLAGS.split()]
        made = subprocess.run([*command, "-shared", "-fPIC", "-o", work / "probe.so", source], capture_output=True)
        preload = _preload(path)
        if made.returncode or not preload:
            continue
        loads = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(work / 'probe.so')!r})"]
        if subprocess.run(loads, capture_output=True, env=os.environ | _preloading(preload)).returncode == 0:
            return Compiler(path, preload)
    return None


def _is_clang(path: str) -> bool:
    return b"clang" in subprocess.run([path, "--version"], capture_output=True).stdout


def _preload(path: str) -> tuple[str, ...]:
    """The sanitizer's library, and that of C++, whose exceptions it watches."""
    names = ["libclang_rt.asan_osx_dynamic.dylib"] if MAC else ["libasan.so", "libstdc++.so.6"]
    if _is_clang(path) and not MAC:
        names = [f"libclang_rt.asan-{os.uname().machine}.so", "libclang_rt.asan.so", "libstdc++.so.6"]
    found = [
        subprocess.run([path, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip() for name in names
    ]
    there = tuple(os.path.realpath(one) for one in found if os.path.isabs(one) and Path(one).is_file())
    return there if any("asan" in one for one in there) else ()


def _preloading(preload: tuple[str, ...]) -> dict[str, str]:
    options = "detect_leaks=0:allocator_may_return_null=1"  # Python keeps much to its end
    return {
        "DYLD_INSERT_LIBRARIES" if MAC else "LD_PRELOAD": ":".join(preload),
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _lacks_avx512(compiler: Compiler) -> bool:
    """Whether this is an x86 processor without these instructions, so that their code is not in what was tested."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    macros = subprocess.run([compiler.path, "-march=native", "-dM", "-E", "-"], input=b"", capture_output=True).stdout.decode()
    return any(f"__{name}__" not in macros for name in _USED)


def _environment(work: Path, compiler: Compiler, flags: str = "") -> dict[str, str]:
    """With a `cc` that sanitizes before all others, and caches of its own."""
    folder = work / "bin"
    folder.mkdir(parents=True)
    more = " -shared-libasan" if _is_clang(compiler.path) else ""
    wrapper = folder / "cc"
    wrapper.write_text(f'#!/bin/sh\nunset LD_PRELOAD DYLD_INSERT_LIBRARIES\nexec {compiler.path} "$@" {FLAGS}{more} {flags}\n')
    wrapper.chmod(0o755)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(work / "cache"), "PYTHONMALLOC": "malloc"}
    return os.environ | own | _preloading(compiler.preload)


def _pytest(*arguments: str) -> list[str]:
    # The sanitizers write to the process's own stderr, and then it ends: pytest must not have put it aside.
    plain = ["-p", "tests.sanitized", "-p", "no:cacheprovider", "--capture=sys", "-q", "-n", "0", "--timeout=0"]
    return [sys.executable, "-m", "pytest", *plain, *arguments]


def _is_caught(planted: Planted, work: Path, environment: dict[str, str]) -> bool:
    sources = Path(tempfile.mkdtemp(dir=work))
    for path in NATIVE.glob("*.[ch]"):
        shutil.copy(path, sources)
    text = (sources / planted.file).read_text()
    if text.count(planted.right) != 1:
        raise SystemExit(f"{planted.file} has no longer one {planted.right!r}; name another place in {Path(__file__).name}.")
    (sources / planted.file).write_text(text.replace(planted.right, planted.wrong))
    ran = subprocess.run(
        _pytest("--native-sources", str(sources), planted.test), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return ran.returncode != 0 and planted.said in ran.stdout + ran.stderr


if __name__ == "__main__":
    sys.exit(main())
