"""One training from a file, without the daemon: `python -m smolorad.engine.train_job FILE`, which `smolorad train-job` becomes.

Under `accelerate launch` or `torchrun` several processes share it: each takes its part of every optimiser step's rows, and the
gradients are averaged, so that the losses are those of one process. The file is JSON:

    {"model": FOLDER, "dataset": FOLDER, "output": FOLDER, "dtype": NAME, "lora": {...}, "trainer": {...}, "parent": FOLDER}

`lora` and `trainer` have the contract's settings by name, and `dtype` is the base's in memory (float32, bfloat16, float16);
all three and `parent` may be left out. Checkpoints and what is not finished are kept beside the output, in `OUTPUT.job`, so the
same command continues after an interruption. `OUTPUT` itself appears when it is whole; an earlier result there is replaced, any
other folder refused. The first process writes one line of JSON for each event, and the result as the last.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from smolora.common.json_file import NotAnObject, read_object
from smolora.v1 import jobs_pb2, settings_pb2
from smolorad import publish
from smolorad.domain import Dtype, LoraSettings, Note, TrainerSettings
from smolorad.errors import Damaged, InvalidRequest, NoSpace, ShuttingDown, SmoloraError, is_disk_full, sendable, system_errors
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb
from smolorad.paths import user_path

M = TypeVar("M", bound=Message)

_PATHS, _SETTINGS = ("model", "dataset", "output"), ("lora", "trainer")
_ABOUT = {"made_by": "smolorad train-job"}  # marks a result, so that it may be replaced


class Console:
    """The `Host` of a training that has a process to itself: there are no requests, and events are printed."""

    def __init__(self, *, prints: bool) -> None:
        self.prints = prints
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def yield_to_requests(self, call: int) -> None:
        """There are no requests."""

    def stopping(self, call: int) -> bool:
        """Whether SIGTERM has come."""
        return self._stopping

    def offer(self, call: int, snapshot: Callable[[], Any] | None, between: str = "") -> None:
        """There are no requests."""

    def emit(self, call: int, **body: Message) -> None:
        """One line for each event."""
        if self.prints:
            for kind, message in body.items():
                printed = json_format.MessageToDict(message, preserving_proto_field_name=True)
                print(json.dumps({kind: printed}, ensure_ascii=False), flush=True)

    def _stop(self, *_: Any) -> None:
        self._stopping = True


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a file asks for."""

    model: Path
    dtype: Dtype | None  # None: chosen
    output: Path  # where the finished adapter goes
    command: pb.Train  # makes it in a stage


def read(path: Path) -> JobFile:
    """What a file asks for; raises InvalidRequest that names what is wrong in it."""
    try:
        given = read_object(path)
    except FileNotFoundError as error:
        raise InvalidRequest(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}); see `smolorad train-job --help`.") from error
    except NotAnObject as error:
        raise InvalidRequest(f"{path} {error}; see `smolorad train-job --help`.") from error
    known = {*_PATHS, *_SETTINGS, "dtype", "parent"}
    if strange := sorted(set(given) - known):
        raise InvalidRequest(f"{path} may have {', '.join(sorted(known))}, and nothing else such as {strange[:1]}.")
    if missing := [name for name in _PATHS if given.get(name) is None]:
        raise InvalidRequest(f"{path} names no {missing[0]}; give it as a path.")
    model, dataset, output = (_place(path, given[name], name) for name in _PATHS)
    output = _resolved(output, "output")
    parent = None if given.get("parent") in (None, "") else _resolved(_place(path, given["parent"], "parent"), "parent")
    if output == parent or not _is_free(output):
        raise InvalidRequest(f"{output} has something other than an earlier result, which would be lost; name another output.")
    job = output.with_name(f"{output.name}.job")
    command = pb.Train(
        job_id=output.name,
        dataset_path=str(dataset),
        lora=_settings(given, "lora", LoraSettings, settings_pb2.LoraSettings),
        trainer=_settings(given, "trainer", TrainerSettings, settings_pb2.TrainerSettings),
        checkpoints_path=str(job / "checkpoints"),
        stage_path=str(job / "stage"),
        output_path=str(job / "stage" / "output"),
        parent_path=str(parent or ""),
        tensorboard_path=str(job / "tensorboard"),
    )
    return JobFile(model, _dtype(given.get("dtype")), output, command)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Trains; the exit status."""
    if len(argv) != 1:
        print("smolorad: Give one file; see `smolorad train-job --help`.", file=sys.stderr)
        return 2
    try:
        with system_errors():
            _run(Path(argv[0]), environ)
    except ShuttingDown:
        print(
            "smolorad: The training was stopped; run the same command again, and it continues from its checkpoint.",
            file=sys.stderr,
        )
        return 1
    except SmoloraError as error:
        print(f"smolorad: {error.message}", file=sys.stderr)
        return 1
    return 0


def _run(file: Path, environ: Mapping[str, str]) -> None:
    """Trains as a file asks, and publishes the result."""
    job = read(file)
    # After the file is read: these take seconds to import, and what is wrong in it is said at once.
    from smolorad.engine.device_check import compare_with_cpu
    from smolorad.engine.model.load import load
    from smolorad.engine.model.load_options import LoadOptions
    from smolorad.engine.train.run import train

    host = Console(prints=environ.get("RANK", "0") == "0")
    base = load(job.model, job.model.name, LoadOptions(dtype=job.dtype), compare_with_cpu)
    if job.command.trainer.tensorboard:
        curves = job.command.tensorboard_path
        host.emit(1, note=to_message(jobs_pb2.Note, Note(f"The curves are in {curves}; type `tensorboard --logdir {curves}`.")))
    trained = train(job.command, 1, base, host, int(environ.get("WORLD_SIZE", "1")))
    if host.prints:
        _publish(job)
    host.emit(1, trained=trained)


def _place(file: Path, given: Any, name: str) -> Path:
    """A path of the file, which is relative to it."""
    if not isinstance(given, str) or not given:
        raise InvalidRequest.field(name, f"is no path in {file}; give one as text")
    whole = str(file.resolve().parent / given)
    if whole != sendable(whole):
        raise InvalidRequest.field(name, f"is not UTF-8 as a whole path ({whole!r}); choose another place")
    return user_path(whole, name)


def _resolved(path: Path, name: str) -> Path:
    try:
        return path.resolve()
    except RuntimeError as error:  # pathlib's word for it until Python 3.13
        raise InvalidRequest.field(name, f"{path} is a link that leads back to itself; give another path") from error


def _is_free(output: Path) -> bool:
    """Whether nothing of the user's is lost when a folder is replaced: it has only what was published there, or nothing."""
    if not output.exists():
        return True
    mine: set[str] = set()
    with suppress(Damaged):
        if (manifest := publish.read_manifest(output)).get("about") == _ABOUT:
            mine = {publish.MANIFEST, *manifest["files"]}
    files = (path for path in output.rglob("*") if not path.is_dir())
    return output.is_dir() and all(path.relative_to(output).as_posix() in mine for path in files)


def _publish(job: JobFile) -> None:
    """Puts the finished adapter where it was asked for, in place of an earlier one."""
    try:
        publish.remove(job.output)
        publish.publish(Path(job.command.output_path), job.output, _ABOUT)
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace("The disk is full; free some space, then run the same command again.") from error
        raise


def _dtype(given: Any) -> Dtype | None:
    if given is None:
        return None
    try:
        return Dtype(given)
    except ValueError as error:
        raise InvalidRequest.field("dtype", f"must be one of {', '.join(Dtype)}") from error


def _settings(given: Mapping[str, Any], name: str, kind: type[Any], message: type[M]) -> M:
    """The settings of a file, every default filled in."""
    settings = given.get(name)
    if not isinstance(settings, dict | None):
        raise InvalidRequest.field(name, "is no object of settings by name")
    text = json.dumps(settings, ensure_ascii=False)
    if text != sendable(text):  # protobuf ends with a SystemError where a name has it
        raise InvalidRequest.field(name, "has half of a surrogate pair, which is no text; correct it")
    try:
        return to_message(message, from_message(kind, json_format.ParseDict(settings or {}, message())))
    except json_format.ParseError as error:
        raise InvalidRequest.field(name, str(error).splitlines()[0]) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
