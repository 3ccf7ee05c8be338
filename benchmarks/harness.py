"""What the benchmarks share: arguments, the machine, a daemon in a temporary home, peers, interleaved rounds, the one line."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.models import NAMES, model_folder
from benchmarks.peers import Figures
from smolora import Client

REPOSITORY = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
_DEAD = b"DEAD=1"
_LIBRARIES = ("smolora", "torch", "transformers", "peft", "trl", "datasets", "llguidance", "grpcio", "protobuf")


class PeerMissing(Exception):
    """A peer is not available; the message says why."""


def report(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def list_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """An argument that is a list of known names, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(known)}")
        return names

    return parse


@dataclass(frozen=True, slots=True)
class Bench:
    """What was asked for on the command line."""

    name: str
    quick: bool
    rounds: int
    threads: int
    model: Path
    given: argparse.Namespace

    @classmethod
    def from_command_line(
        cls, name: str, add_arguments: Callable[[argparse.ArgumentParser], None] | None = None, *, rounds: int = 5
    ) -> Bench:
        """Reads the arguments, and makes the model where it is not there. `rounds` is how many there are by default."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
        parser.add_argument("--quick", action="store_true", help="one round and less work: a rough answer in under a minute")
        parser.add_argument("--rounds", type=int, help=f"interleaved rounds; default: {rounds}, quick: 1")
        parser.add_argument("--threads", type=int, default=2, help="for the project and each peer alike; default: 2")
        parser.add_argument("--model", metavar="NAME", help=f"{', '.join(NAMES)}, or a model folder; default: starter")
        if add_arguments is not None:
            add_arguments(parser)
        given = parser.parse_args()
        os.environ |= {"OMP_NUM_THREADS": str(given.threads), "MKL_NUM_THREADS": str(given.threads)}
        os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        model = model_folder(given.model)
        return cls(name, given.quick, given.rounds or (1 if given.quick else rounds), given.threads, model, given)


# --- the daemon --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Daemon:
    """A daemon in a temporary home, as a user would have it."""

    root: Path
    process: subprocess.Popen[bytes]
    started_at: float  # time.perf_counter() at its exec
    serving_s: float  # from exec to health's SERVING

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.root / "d.sock"

    @property
    def environ(self) -> dict[str, str]:
        """What a client's process needs to find it."""
        return {**os.environ, "SMOLORA_SOCKET": str(self.socket)}

    def since_start_s(self) -> float:
        """Seconds since its exec."""
        return time.perf_counter() - self.started_at

    def client(self) -> Client:
        """A client of it."""
        return Client(self.socket)


@contextlib.contextmanager
def daemon() -> Iterator[Daemon]:
    """Starts a daemon, yields it when its health says SERVING, and ends it and its home."""
    # Not the system's own temporary folder, whose path may be too long for a socket.
    root = Path(tempfile.mkdtemp(prefix="smolora-bench-", dir="/tmp"))
    log = (root / "log").open("wb")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        stack.enter_context(log)
        notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.bind(str(root / "notify"))
        notify.settimeout(START_TIMEOUT_S)
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "smolorad.cli", "serve", "--home", str(root / "home"), "--socket", str(root / "d.sock")],
            env={**os.environ, "NOTIFY_SOCKET": str(root / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(_end, process)
        threading.Thread(target=_report_exit, args=(process, root / "notify"), daemon=True).start()
        try:
            while b"READY=1" not in (said := notify.recv(4096)):
                if said == _DEAD:
                    raise ChildProcessError(process.returncode)
            _check_health(root / "d.sock")
        except (TimeoutError, ChildProcessError, grpc.RpcError) as error:
            raise SystemExit(f"the daemon did not start:\n{(root / 'log').read_text()}") from error
        yield Daemon(root, process, begin, time.perf_counter() - begin)


def _report_exit(process: subprocess.Popen[bytes], notify: Path) -> None:
    """So that one wait is enough for both ends a start can have."""
    process.wait()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(_DEAD, str(notify))


def _check_health(path: Path) -> None:
    with grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")]) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise SystemExit(f"the daemon's health is {answer.status}, not SERVING")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- peers -------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer(module: str, *args: object, python: Path = Path(sys.executable)) -> Iterator[Callable[[], Figures]]:
    """A peer in a process of its own, ready; calling it measures once. Raises PeerMissing."""
    with subprocess.Popen(
        [python, "-m", f"benchmarks.peers.{module}", *map(str, args)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def answer() -> dict[str, Any]:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise PeerMissing(f"{module} ended with status {process.wait()}; run it by hand to see why")
            found: dict[str, Any] = json.loads(line)
            return found

        def measure() -> Figures:
            assert process.stdin is not None
            process.stdin.write("\n")
            return answer()

        if reason := answer().get("missing"):
            raise PeerMissing(reason)
        yield measure


# --- rounds and the line -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """Measurements by who was measured, and why some could not be."""

    bench: Bench
    measured: dict[str, list[Figures]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def run(self, contenders: Mapping[str, Callable[[], Figures]]) -> None:
        """Measures each in turn, as many times as there are rounds. A peer that ends on the way takes no part."""
        for number in range(self.bench.rounds):
            for name, measure in contenders.items():
                if name in self.reasons:
                    continue
                report(f"round {number + 1} of {self.bench.rounds}")
                try:
                    self.add(name, measure())
                except PeerMissing as why:
                    self.leave_out(name, str(why))

    def leave_out(self, name: str, why: str) -> None:
        """Who was not measured, and why."""
        self.measured.pop(name, None)
        self.reasons[name] = why
        report(f"{name}: left out: {why}")

    def add(self, name: str, figures: Figures) -> None:
        """Keeps one measurement, and reports it."""
        self.measured.setdefault(name, []).append(figures)
        report(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))

    def median(self, name: str, figure: str) -> float | None:
        """The median of one figure; None where it was not measured."""
        values = [figures[figure] for figures in self.measured.get(name, ()) if figure in figures]
        return statistics.median(values) if values else None

    def ratio(self, better: tuple[str, str], worse: tuple[str, str]) -> float | None:
        """The quotient of two medians, such that more is better for the project; None where one is missing."""
        over, under = self.median(*better), self.median(*worse)
        return over / under if over and under else None

    def line(self, ratios: Mapping[str, float | None], **project: object) -> str:
        """The one JSON line; `project` gives further facts, such as the dtype."""
        medians = {name: self._medians(name) for name in self.measured}
        for name in [name for name in medians if name.startswith("project_")]:
            project = {**project, name.removeprefix("project_"): medians.pop(name)}
        content = {
            "benchmark": self.bench.name,
            "model": self.bench.model.name,
            "quick": self.bench.quick,
            "rounds": self.bench.rounds,
            "threads": self.bench.threads,
            "machine": machine(self.bench.threads),
            "versions": versions(),
            "project": {**medians.pop("project", {}), **project},
            "peers": {**medians, **dict.fromkeys(self.reasons)},
            "spread": {name: self._spreads(name) for name in self.measured},
            "ratios": {name: None if ratio is None else _rounded(ratio) for name, ratio in ratios.items()},
            "reasons": self.reasons,
        }
        return json.dumps(content)

    def _medians(self, name: str) -> dict[str, float]:
        return {key: _rounded(statistics.median(values)) for key, values in self._columns(name)}

    def _spreads(self, name: str) -> dict[str, float]:
        """How far apart the rounds were: (most - least) / median."""
        return {
            key: _rounded((max(values) - min(values)) / statistics.median(values))
            for key, values in self._columns(name)
            if statistics.median(values)
        }

    def _columns(self, name: str) -> Iterator[tuple[str, list[float]]]:
        rows = self.measured[name]
        for key in rows[0]:
            yield key, [row[key] for row in rows]


@functools.cache
def machine(threads: int) -> dict[str, float]:
    """What this machine gives, measured once: the bound of every figure."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.machine", "--threads", str(threads)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return {"cores": os.cpu_count() or 1} | {name: _rounded(value) for name, value in json.loads(done.stdout).items()}


def versions() -> dict[str, str]:
    """The versions that were measured."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
