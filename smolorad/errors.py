"""Every way a call can fail, once.

A class exists where a caller can do something different about it; `reason` is the contract's word for it
(`proto/smolora/v1/errors.proto`) and `services/grpc_errors.py` alone turns it into a gRPC status.

SmoloraError
├── InvalidRequest          a field out of bounds
│   └── PromptTooLong
├── BadData                 malformed rows, by file and line
├── NotFound
├── AlreadyExists
├── NoModel
├── WrongBase
├── UnsupportedModel
├── BadState
├── QueueFull
├── OutOfMemory
├── NoSpace
│   └── Unwritten           a job's state, before the daemon ended (jobs/run.py)
├── NoAccess                a file the daemon's user may not read or write
│   └── CannotWrite         the database, for now (store/database.py)
├── EngineUnavailable
├── ShuttingDown
├── Damaged
├── NotFinite
├── HubUnreachable
├── Cancelled
├── MergeMismatch
└── Internal                a bug in smolora
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Violation:
    """One invalid value: `field` is a request's field (`trainer.max_steps`) or a place in a file (`verses.jsonl:12`)."""

    field: str
    description: str


def sendable(text: str) -> str:
    """The text, with `?` for each half of a surrogate pair, which a path or a template may have and no message may."""
    return text.encode(errors="replace").decode()


class SmoloraError(Exception):
    """An error for the user: one sentence that says what happened, then what to do."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, violations: Iterable[Violation] = ()) -> None:
        self.message = sendable(message)
        super().__init__(self.message)
        self.violations = tuple(Violation(sendable(one.field), sendable(one.description)) for one in violations)


class InvalidRequest(SmoloraError):
    """A request's field is out of its bounds or malformed."""

    reason = "INVALID_REQUEST"

    @classmethod
    def field(cls, field: str, description: str) -> InvalidRequest:
        """An error about one field, with the description as its message."""
        return cls(f"{field}: {description}", [Violation(field, description)])


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the model's context."""

    reason = "PROMPT_TOO_LONG"


class BadData(SmoloraError):
    """Rows of a dataset are malformed."""

    reason = "BAD_DATA"


class NotFound(SmoloraError):
    """No such dataset, adapter, model, job or upload."""

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
    """The model cannot do this."""

    reason = "UNSUPPORTED_MODEL"


class BadState(SmoloraError):
    """The job's or the resource's state does not allow it now."""

    reason = "BAD_STATE"


class QueueFull(SmoloraError):
    """The queue is full."""

    reason = "QUEUE_FULL"


class OutOfMemory(SmoloraError):
    """Not enough memory."""

    reason = "OUT_OF_MEMORY"


class NoRoom(SmoloraError):
    """The disk has less space than what is about to be written needs; nothing was begun."""

    reason = "NO_ROOM"


class NoSpace(SmoloraError):
    """The disk is full."""

    reason = "NO_SPACE"


class NoAccess(SmoloraError):
    """The system does not let the daemon's user read or write a file."""

    reason = "NO_ACCESS"


class EngineUnavailable(SmoloraError):
    """The engine died or is restarting."""

    reason = "ENGINE_UNAVAILABLE"


class ShuttingDown(SmoloraError):
    """The daemon is shutting down."""

    reason = "SHUTTING_DOWN"


class Damaged(SmoloraError):
    """A file is damaged."""

    reason = "DAMAGED"


class NotFinite(SmoloraError):
    """A loss, a gradient or a logit is not finite."""

    reason = "NOT_FINITE"


class HubUnreachable(SmoloraError):
    """The model hub or the package index cannot be reached."""

    reason = "HUB_UNREACHABLE"


class Cancelled(SmoloraError):
    """The work was cancelled."""

    reason = "CANCELLED"


class MergeMismatch(SmoloraError):
    """A merged model does not answer as its adapter does."""

    reason = "MERGE_MISMATCH"


class Internal(SmoloraError):
    """A bug in smolora."""

    reason = "INTERNAL"


def _leaves(cls: type[SmoloraError]) -> Iterable[type[SmoloraError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _leaves(sub)


def by_reason(reason: str) -> type[SmoloraError]:
    """The class for a reason, as a child or a stored job names it; Internal for an unknown one."""
    return next((cls for cls in _leaves(SmoloraError) if cls.reason == reason), Internal)


_PATH_SHOWN = 200  # characters; a path may have thousands
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ)
_BROKEN = (errno.EIO, errno.ESTALE, errno.EBADMSG)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of any library means that the disk is full.

    Only `open` and `write` say so with OSError; safetensors, torch.save and sqlite3 each say it in other words.
    """
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    text = str(error).lower()
    return "no space left" in text or "disk is full" in text or "file too large" in text or "unexpected pos" in text


def of_system(error: BaseException, platform: str = sys.platform) -> SmoloraError | None:
    """What the operating system refused, in one sentence that names the file; None where it is something else."""
    if is_disk_full(error):
        return NoSpace("The disk is full; free some space and try again.")
    if not isinstance(error, OSError):
        return None
    error = _in_full(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return BadState(f"Too many files are open ({error.strerror}); end some calls and try again.")
    if error.filename is None:
        return None
    file = str(error.filename)
    file = file if len(file) <= _PATH_SHOWN else f"{file[:_PATH_SHOWN]}…"
    if error.errno in _NO_ACCESS:
        return NoAccess(f"{file} may not be used by the daemon ({error.strerror}); {_access_advice(platform)}.")
    if error.errno in _NO_PATH:
        return InvalidRequest(f"{file!r} is not a path that this system can use ({error.strerror}); give another one.")
    if error.errno in _BROKEN:
        return Damaged(f"{file} cannot be read or written ({error.strerror}); its disk may be failing.")
    if error.errno == errno.ENOENT:
        return NotFound(f"{file} does not exist; check the path.")
    return None


@contextmanager
def system_errors() -> Iterator[None]:
    """Raises what `of_system` makes of an OSError in the block; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if (known := of_system(error)) is None:
            raise
        raise known from error


def _in_full(error: OSError) -> OSError:
    """The error itself, or the one that safetensors hides: it reports every failure to open a file as "No such file"."""
    if error.errno is not None or not isinstance(error, FileNotFoundError):
        return error
    try:
        os.close(os.open(str(error).rpartition(": ")[2], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as real:
        return real
    except ValueError:  # no path
        pass
    return error


def _access_advice(platform: str) -> str:
    advice = "let this user read it, or copy it to a folder of yours"
    if platform != "darwin":
        return advice
    return (
        f"{advice}; macOS keeps background services out of Documents, Desktop and Downloads unless their program has Full Disk "
        "Access (System Settings, Privacy & Security)"
    )


def printable(text: str) -> str:
    """A text from a file as a part of a sentence, in one line."""
    return text[:80] if text[:80].isprintable() else repr(text[:80])


def first_line(error: BaseException) -> str:
    """The beginning of another library's message, fit for a sentence."""
    return next(iter(str(error).strip().splitlines()), "no message")[:300]


def of_system_or_bug(error: BaseException) -> SmoloraError:
    """What the operating system refused, or else Internal: an error that smolora does not expect is a bug."""
    cause = f"{type(error).__name__}: {first_line(error)}"
    return of_system(error) or Internal(f"This is a bug in smolora; the daemon's log has the details ({cause}).")


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust panicked: each has its own class for it, which is no Exception and not exported."""
    return type(error).__name__ == "PanicException"
