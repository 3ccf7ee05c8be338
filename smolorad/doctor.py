"""`smolorad doctor`: checks this machine, one line for each thing that smolora needs.

It changes nothing. A child process runs what needs torch, as in the daemon.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smolorad.errors import InvalidRequest
from smolorad.paths import check_socket_path

LEAST_FREE_BYTES = 2 * 10**9
DEVICE_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 3.0
# A line of constraints.txt, some of which are for one system alone.
_PIN = re.compile(r'(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: *; *sys_platform *(?P<is>[!=]=) *"(?P<platform>\w+)")?')
_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "tokenizers",
    "safetensors",
    "llguidance",
    "grpcio",
    "protobuf",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, whether it is good, and a few words."""

    what: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'}  {self.what:<12}  {self.text}"


def examine(home: Path, socket: Path) -> Iterator[Finding]:
    """Runs every check; yields each finding at once, the slow ones last."""
    yield python()
    yield from libraries(tested_versions())
    yield socket_path(socket)
    yield permissions(home)
    yield disk(home)
    yield device()
    yield health(socket)


def python() -> Finding:
    """The interpreter."""
    return Finding("python", sys.version_info >= (3, 11), f"{platform.python_version()} at {sys.executable}")


def tested_versions() -> Mapping[str, str]:
    """The versions of constraints.txt by name; it stands in the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    found = next(path for path in (package / "constraints.txt", package.parent / "constraints.txt") if path.is_file())
    pins = filter(None, map(_PIN.fullmatch, found.read_text(encoding="utf-8").splitlines()))
    here = (pin for pin in pins if pin["platform"] is None or (pin["platform"] == sys.platform) == (pin["is"] == "=="))
    return {_normal(pin["name"]): pin["version"] for pin in here}


def libraries(tested: Mapping[str, str], version_of: Callable[[str], str] = importlib.metadata.version) -> Iterator[Finding]:
    """Each library that smolora needs: notes a version that was not tested; a missing library is bad."""
    for name in _LIBRARIES:
        try:
            version = version_of(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "is missing; pip install 'smolora[daemon]'")
            continue
        known = tested.get(_normal(name), "")
        # A local label, as in 2.13.0+cpu, names a build of the same version.
        differs = version.partition("+")[0] != known
        yield Finding(name, True, f"{version} (tested with {known})" if differs else version)


def socket_path(path: Path) -> Finding:
    """Whether the system can bind the socket's path."""
    try:
        check_socket_path(path)
    except InvalidRequest as error:
        return Finding("socket", False, error.message)
    return Finding("socket", True, f"{path} ({len(os.fsencode(path))} bytes)")


def permissions(home: Path) -> Finding:
    """Whether the state folder is its owner's alone."""
    try:
        found = home.lstat()
    except FileNotFoundError:
        return Finding("home", True, f"{home} is created when the daemon starts")
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return Finding("home", False, f"{home} is a link or a file, not a folder; remove it")
    if found.st_uid != os.getuid():
        return Finding("home", False, f"{home} belongs to uid {found.st_uid}; choose another place with SMOLORA_HOME")
    if mode & 0o077:
        return Finding("home", False, f"{home} lets others in (mode {mode:o}); chmod 700 '{home}'")
    return Finding("home", True, f"{home} is yours alone")


def disk(home: Path) -> Finding:
    """Whether there is room for a model."""
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    text = f"{free / 1e9:.1f} GB free at {nearest}"
    return Finding("disk", free >= LEAST_FREE_BYTES, text if free >= LEAST_FREE_BYTES else f"{text}; a model needs 2 GB")


def device() -> Finding:
    """Where models would compute: torch is asked in a child."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "smolorad.engine.runtime.doctor"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEVICE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("device", False, f"torch did not answer within {DEVICE_TIMEOUT_S:.0f} s")
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        return Finding("device", False, f"torch does not work here: {last}")
    return Finding("device", True, asked.stdout.strip())


def health(socket: Path, wait_s: float = 0.0) -> Finding:
    """Whether a daemon answers on the socket; `wait_s` is how long it may take to come up."""
    try:
        check_socket_path(socket)
    except InvalidRequest as error:
        return Finding("daemon", False, error.message)
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=wait_s or ANSWER_TIMEOUT_S, wait_for_ready=wait_s > 0)
        except grpc.RpcError:
            return Finding(
                "daemon", False, f"does not answer on {socket}; start it with `smolorad serve` or `smolorad install`"
            )
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Finding("daemon", answer.status == health_pb2.HealthCheckResponse.SERVING, f"answers {state} on {socket}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
