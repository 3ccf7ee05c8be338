"""`python -m smolorad.corpus`: the worker that reads the user's text, away from daemon and engine: Prepare, Preview, Diff."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from smolora.v1 import datasets_pb2, jobs_pb2
from smolorad.domain import Note, PhaseProgress, PrepareSpec
from smolorad.errors import Cancelled, Internal, OutOfMemory, ShuttingDown, SmoloraError, of_system_or_bug
from smolorad.link.child import Inbox, open_inbox
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb

log = logging.getLogger(__name__)
_NICE = 10
# Progress is stored with its job, so it comes no faster than a person can read it.
_TELL_EVERY_S = 0.25


def main(argv: Sequence[str]) -> None:
    """Takes commands until the daemon closes the socket."""
    os.nice(_NICE)
    inbox = open_inbox(argv)
    inbox.start()
    while (command := inbox.take(block=True)) is not None and command.WhichOneof("body") != "drain":
        inbox.working()
        _answer(command, inbox)
        inbox.idle()


def _answer(command: pb.Command, inbox: Inbox) -> None:
    try:
        match command.WhichOneof("body"):
            case "prepare":
                inbox.emit(command.call, prepared=_prepare(command.prepare, _Call(inbox, command.call)))
            case "preview":
                inbox.emit(command.call, preview=_preview(command.preview))
            case "diff":
                inbox.emit(command.call, diff=_diff(command.diff, _Call(inbox, command.call)))
            case other:
                raise Internal(f"The corpus worker does not know the command {other}.")
    except SmoloraError as error:
        inbox.fail(command.call, error)
    except Exception as error:
        log.exception("%s failed", command.WhichOneof("body"))
        inbox.fail(command.call, _to_smolora_error(error))
    finally:
        inbox.forget(command.call)


class _Call:
    """The host of one preparation: hears whether to end, and passes progress on now and then."""

    def __init__(self, inbox: Inbox, call: int) -> None:
        self._inbox = inbox
        self._call = call
        self._phase = ""
        self._told_at = 0.0

    def check(self) -> None:
        if self._inbox.cancelled(self._call):
            raise Cancelled("The preparation was cancelled; nothing was written.")
        if self._inbox.draining.is_set():
            raise ShuttingDown("The daemon is shutting down; the preparation starts again with it.")

    def emit(self, event: PhaseProgress | Note) -> None:
        self._inbox.working()
        if isinstance(event, Note):
            self._inbox.emit(self._call, note=to_message(jobs_pb2.Note, event))
            return
        now = time.monotonic()
        begins_or_ends = event.phase != self._phase or event.done == event.total
        if begins_or_ends or now - self._told_at >= _TELL_EVERY_S:
            self._inbox.emit(self._call, phase=to_message(jobs_pb2.PhaseProgress, event))
            self._phase, self._told_at = event.phase, now


def _prepare(command: pb.Prepare, call: _Call) -> pb.Prepared:
    from smolorad.corpus.prepare import prepare

    prepared = prepare(
        Path(command.files_path) if command.files_path else None,
        from_message(PrepareSpec, command.request),
        Path(command.tokenizer_path) if command.tokenizer_path else None,
        Path(command.output_path),
        call,
    )
    return to_message(pb.Prepared, prepared)


def _preview(command: pb.Preview) -> datasets_pb2.PreviewDatasetResponse:
    from smolorad.corpus.preview import preview

    request = command.request
    tokenizer = Path(command.tokenizer_path) if command.tokenizer_path else None
    shown = preview(Path(command.dataset_path), request.split, request.offset, request.limit, tokenizer)
    return to_message(datasets_pb2.PreviewDatasetResponse, shown)


def _diff(command: pb.Diff, call: _Call) -> datasets_pb2.DiffDatasetsResponse:
    from smolorad.corpus.diff import diff

    found = diff(Path(command.before_path), Path(command.after_path), command.limit, call)
    return to_message(datasets_pb2.DiffDatasetsResponse, found)


def _to_smolora_error(error: Exception) -> SmoloraError:
    if isinstance(error, MemoryError):
        return OutOfMemory("Not enough memory to read this; break long rows into shorter ones.")
    return of_system_or_bug(error)


if __name__ == "__main__":
    main(sys.argv[1:])
