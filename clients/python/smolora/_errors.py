"""What a call raises: never an error of gRPC, always one of these, with one sentence that says what to do.

SmoloraError                 carries reason, message, violations, retry_after
├── InvalidRequest           a field is out of its bounds or malformed
│   └── PromptTooLong        the prompt does not fit the model's context
├── BadData                  malformed rows; `violations` name file and line
├── NotFound                 no such dataset, adapter, model, job or upload
├── AlreadyExists            the name is taken
├── NoModel                  no model is loaded
├── WrongBase                the adapter belongs to another base model
├── UnsupportedModel         the model cannot do this
├── BadState                 the job's or the resource's state does not allow it now
├── QueueFull                try again after `retry_after` seconds
├── OutOfMemory
├── NoRoom                   the disk has less space than what was to be written
├── NoSpace                  the disk is full
├── NoAccess                 the system does not let the daemon's user read or write a file
├── EngineUnavailable        the engine died or restarts; try again after `retry_after` seconds
├── ShuttingDown             the daemon is shutting down
├── Damaged                  a file is damaged
├── NotFinite                a loss, a gradient or a logit is not finite
├── HubUnreachable           the model hub or the package index
├── Cancelled                the job was cancelled
├── MergeMismatch            a merged model does not answer as its adapter does
├── Internal                 a bug in smolora
├── Unreachable              found by the client itself: no answer from the daemon
│   ├── DaemonNotRunning     no daemon listens; the message has the line that starts one
│   └── ConnectionLost       the connection broke during the call
└── TimedOut                 found by the client itself: no answer in time
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing at fault: `field` is a request's field (`trainer.max_steps`) or a place in a file (`verses.jsonl:12`)."""

    field: str
    description: str


class SmoloraError(Exception):
    """Something went wrong.

    `reason` is the contract's word for it (`NO_MODEL`), `message` one sentence that says what to do, `violations` what exactly
    is at fault, and `retry_after` the seconds after which to try again, where the daemon names them.
    """

    reason: ClassVar[str] = ""

    def __init__(self, message: str, violations: Iterable[Violation] = (), retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after = retry_after


class InvalidRequest(SmoloraError):
    """A request's field is out of its bounds or malformed; `violations` name it."""

    reason = "INVALID_REQUEST"


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the model's context."""

    reason = "PROMPT_TOO_LONG"


class BadData(SmoloraError):
    """Rows of a dataset are malformed; `violations` name file and line."""

    reason = "BAD_DATA"


class NotFound(SmoloraError):
    """No such dataset, adapter, model, job or upload; also a local file that is not there."""

    reason = "NOT_FOUND"


class AlreadyExists(SmoloraError):
    """The name is taken."""

    reason = "ALREADY_EXISTS"


class NoModel(SmoloraError):
    """No model is loaded."""

    reason = "NO_MODEL"


class WrongBase(SmoloraError):
    """The adapter belongs to another base model."""

    reason = "WRONG_BASE"


class UnsupportedModel(SmoloraError):
    """The model cannot do this: no chat template, remote code, no safetensors, not a causal language model."""

    reason = "UNSUPPORTED_MODEL"


class BadState(SmoloraError):
    """The job's or the resource's state does not allow it now."""

    reason = "BAD_STATE"


class QueueFull(SmoloraError):
    """The queue is full; try again after `retry_after` seconds."""

    reason = "QUEUE_FULL"


class OutOfMemory(SmoloraError):
    """Memory does not suffice."""

    reason = "OUT_OF_MEMORY"


class NoRoom(SmoloraError):
    """The disk has less space than what was to be written; nothing was begun."""

    reason = "NO_ROOM"


class NoSpace(SmoloraError):
    """The disk is full."""

    reason = "NO_SPACE"


class NoAccess(SmoloraError):
    """The system does not let the daemon's user read or write a file; the message names it."""

    reason = "NO_ACCESS"


class EngineUnavailable(SmoloraError):
    """The engine died or is restarting; try again after `retry_after` seconds."""

    reason = "ENGINE_UNAVAILABLE"


class ShuttingDown(SmoloraError):
    """The daemon is shutting down."""

    reason = "SHUTTING_DOWN"


class Damaged(SmoloraError):
    """A file is damaged: its checksum or its structure is wrong."""

    reason = "DAMAGED"


class NotFinite(SmoloraError):
    """The numbers went wrong: a loss, a gradient or a logit is not finite."""

    reason = "NOT_FINITE"


class HubUnreachable(SmoloraError):
    """The model hub or the package index cannot be reached."""

    reason = "HUB_UNREACHABLE"


class Cancelled(SmoloraError):
    """The job was cancelled."""

    reason = "CANCELLED"


class MergeMismatch(SmoloraError):
    """A merged model does not answer as its adapter does."""

    reason = "MERGE_MISMATCH"


class Internal(SmoloraError):
    """A bug of ours: please report it with the daemon's log."""

    reason = "INTERNAL"


class Unreachable(SmoloraError):
    """The daemon gave no answer. Its two kinds say why; the daemon never sends their reasons."""

    reason = "UNREACHABLE"


class DaemonNotRunning(Unreachable):
    """No daemon listens on the socket; the message has the line that starts a daemon."""

    reason = "DAEMON_NOT_RUNNING"


class ConnectionLost(Unreachable):
    """The connection broke during the call."""

    reason = "CONNECTION_LOST"


class TimedOut(SmoloraError):
    """No answer came in time."""

    reason = "TIMED_OUT"


def _descendants(cls: type[SmoloraError]) -> Iterable[type[SmoloraError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


BY_REASON: Mapping[str, type[SmoloraError]] = {cls.reason: cls for cls in _descendants(SmoloraError)}


def by_reason(reason: str) -> type[SmoloraError]:
    """The class for a reason of the contract; SmoloraError for one that a newer daemon added."""
    return BY_REASON.get(reason, SmoloraError)


for _cls in (SmoloraError, *BY_REASON.values()):
    _cls.__module__ = "smolora"  # the name that a traceback shows is the one to import
