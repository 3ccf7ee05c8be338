"""One training from a file, without the daemon: `python -m smolorad.engine.job_file FILE`, which `smolorad train-job` becomes.

Under `accelerate launch` or `torchrun` several processes share it: each takes its part of every optimiser step's rows, and the
gradients are averaged, so that the losses are those of one process. The file is JSON:

    {"model": FOLDER, "dataset": FOLDER, "output": FOLDER, "dtype": NAME, "lora": {...}, "trainer": {...}, "parent": FOLDER}

`lora` and `trainer` have the contract's settings by name, and `dtype` is the base's in memory (float32, bfloat16, float16);
all three and `parent` may be left out. Checkpoints are kept beside the output, in `OUTPUT.job`, so the same command goes on
after an interruption. The first process writes one line of JSON for each event, and the result as the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from smolora.v1 import settings_pb2
from smolorad.domain import Dtype, LoraSettings, TrainerSettings
from smolorad.engine.load import load
from smolorad.engine.train import train
from smolorad.errors import InvalidRequest, SmoloraError
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb

M = TypeVar("M", bound=Message)

_PATHS, _SETTINGS = ("model", "dataset", "output"), ("lora", "trainer")


class Console:
    """The `Host` of a training that has a process to itself: nobody else is served, events are printed."""

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def breathe(self, call: int) -> None:
        """Nobody waits."""

    def stopping(self, call: int) -> bool:
        """Whether SIGTERM has come."""
        return self._stopping

    def offer(self, call: int, snapshot: Callable[[], Any] | None) -> None:
        """Nobody asks."""

    def emit(self, call: int, **body: Message) -> None:
        """One line for each event."""
        if self._speaks:
            for kind, message in body.items():
                told = json_format.MessageToDict(message, preserving_proto_field_name=True)
                print(json.dumps({kind: told}, ensure_ascii=False), flush=True)

    def _stop(self, *_: Any) -> None:
        self._stopping = True


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a file asks for."""

    model: Path
    dtype: Dtype | None  # None: chosen
    command: pb.Train


def read(path: Path) -> JobFile:
    """What a file asks for; raises InvalidRequest that names what is wrong in it."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as JSON ({error}); see `smolorad train-job --help`.") from error
    known = {*_PATHS, *_SETTINGS, "dtype", "parent"}
    if not isinstance(given, dict) or (strange := sorted(set(given) - known)):
        raise InvalidRequest(f"{path} may have {', '.join(sorted(known))}, and nothing else such as {strange[:1]}.")
    if missing := [name for name in _PATHS if not isinstance(given.get(name), str)]:
        raise InvalidRequest(f"{path} names no {missing[0]}; give it as a path.")
    folder = path.resolve().parent
    output = folder / given["output"]
    job = output.with_name(f"{output.name}.job")
    command = pb.Train(
        job_id=output.name,
        dataset_path=str(folder / given["dataset"]),
        lora=_settings(given, "lora", LoraSettings, settings_pb2.LoraSettings),
        trainer=_settings(given, "trainer", TrainerSettings, settings_pb2.TrainerSettings),
        checkpoints_path=str(job / "checkpoints"),
        stage_path=str(job / "stage"),
        output_path=str(output),
        parent_path=str(folder / given["parent"]) if given.get("parent") else "",
        tensorboard_path=str(job / "tensorboard"),
    )
    return JobFile(folder / given["model"], _dtype(given.get("dtype")), command)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Trains; the exit status."""
    try:
        job = read(Path(argv[0]))
        host = Console(speaks=environ.get("RANK", "0") == "0")
        base = load(job.model, job.model.name, dtype=job.dtype)
        host.emit(1, trained=train(job.command, 1, base, host, int(environ.get("WORLD_SIZE", "1"))))
    except SmoloraError as error:
        print(f"smolorad: {error.message}", file=sys.stderr)
        return 1
    return 0


def _dtype(given: Any) -> Dtype | None:
    if given is None:
        return None
    try:
        return Dtype(given)
    except ValueError as error:
        raise InvalidRequest.field("dtype", f"is one of {', '.join(Dtype)}") from error


def _settings(given: Mapping[str, Any], name: str, kind: type[Any], message: type[M]) -> M:
    """The settings of a file, every default filled in."""
    try:
        return to_message(message, from_message(kind, json_format.ParseDict(given.get(name) or {}, message())))
    except json_format.ParseError as error:
        raise InvalidRequest.field(name, str(error).splitlines()[0]) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
