"""`python -m smolorad.engine.worker`: Fetch, Merge, CheckAdapter and EstimateLoad, which must not disturb the engine.

torch is imported only where it is needed, so that a download begins at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smolora.common.paths import cache_path
from smolora.v1 import jobs_pb2, models_pb2
from smolorad.domain import Dtype, PhaseProgress
from smolorad.engine.model.blueprint_cache import prebuild
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.worker.progress import Report
from smolorad.errors import Cancelled, Internal, ShuttingDown, SmoloraError
from smolorad.link.child import Inbox, open_inbox
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb

if TYPE_CHECKING:
    from smolorad.engine.worker.merge_prefetch import MergePrefetch

log = logging.getLogger(__name__)
_NICE = 10
# Progress is stored with its job, so it is not reported faster than a person can read it.
_REPORT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How to save a merged model."""

    dtype: Dtype | None


def main(argv: Sequence[str]) -> None:
    """Reports that it listens, and takes commands."""
    inbox = open_worker_inbox(argv)
    inbox.start()
    serve(inbox)


def open_worker_inbox(argv: Sequence[str]) -> Inbox:
    """The inbox of a process with low priority: generation goes first."""
    os.nice(_NICE)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too; standard error is the log
    return open_inbox(argv)


def serve(inbox: Inbox, prefetched: MergePrefetch | None = None) -> None:
    """Takes commands until the daemon drains it; it ends with the daemon in any case. `prefetched` is for a merge."""
    while (command := inbox.take(block=True)) is not None and command.WhichOneof("body") != "drain":
        inbox.working()
        _answer(command, inbox, prefetched)
        inbox.idle()


def _answer(command: pb.Command, inbox: Inbox, prefetched: MergePrefetch | None) -> None:
    report = _report_to(inbox, command.call)
    try:
        match command.WhichOneof("body"):
            case "fetch":
                inbox.emit(command.call, fetched=_fetch(command.fetch, report))
            case "merge":
                inbox.emit(command.call, merged=_merge(command.merge, report, prefetched))
            case "estimate_load":
                inbox.emit(command.call, load_estimate=_estimate_load(command.estimate_load, report))
            case "check_adapter":
                inbox.emit(command.call, attached=_check_adapter(command.check_adapter))
            case other:
                raise Internal(f"The weights worker does not know the command {other}.")
    except SmoloraError as error:
        inbox.fail(command.call, error)
    except Exception as error:
        log.exception("%s failed", command.WhichOneof("body"))
        from smolorad.engine.runtime.errors import to_smolora_error

        inbox.fail(command.call, to_smolora_error(error))
    finally:
        inbox.forget(command.call)


def _report_to(inbox: Inbox, call: int) -> Report:
    last: PhaseProgress | None = None
    reported_at = 0.0

    def report(progress: PhaseProgress) -> None:
        nonlocal last, reported_at
        if inbox.cancelled(call):
            raise Cancelled("It was cancelled; nothing was written.")
        if inbox.draining.is_set():
            raise ShuttingDown("The daemon is shutting down; the work starts again with it.")
        inbox.working()
        now = time.monotonic()
        begins_or_ends = last is None or last.phase != progress.phase or progress.done == progress.total
        if begins_or_ends or now - reported_at >= _REPORT_EVERY_S:
            inbox.emit(call, phase=to_message(jobs_pb2.PhaseProgress, progress))
            last, reported_at = progress, now

    return report


def _fetch(command: pb.Fetch, report: Report) -> pb.Fetched:
    with gc_paused():
        from smolorad.engine.worker.fetch import fetch

    fetched = fetch(
        command.source,
        revision=command.revision,
        output=Path(command.output_path) if command.output_path else None,
        cache=Path(command.cache_path),
        report=report,
        trust_remote_code=command.trust_remote_code,
    )
    prebuild(Path(fetched.path), cache_path())
    return to_message(pb.Fetched, fetched)


def _merge(command: pb.Merge, report: Report, prefetched: MergePrefetch | None) -> pb.Merged:
    with gc_paused():
        from smolorad.engine.worker.merge import merge

    merged = merge(
        Path(command.base_path),
        Path(command.adapter_path),
        Path(command.output_path),
        dtype=from_message(_Wanted, command).dtype,
        prompts=command.prompts,
        trust_remote_code=command.trust_remote_code,
        report=report,
        prefetched=prefetched,
    )
    return to_message(pb.Merged, merged)


def _estimate_load(command: pb.EstimateLoad, report: Report) -> models_pb2.LoadEstimate:
    from smolorad.engine.runtime.device import default_threads
    from smolorad.engine.worker.estimate import estimate_not_loaded

    found = estimate_not_loaded(command, report, default_threads(os.environ))
    return to_message(models_pb2.LoadEstimate, found)


def _check_adapter(command: pb.CheckAdapter) -> pb.Attached:
    with gc_paused():
        from smolorad.engine.worker.adapter_check import check_adapter

    base, adapter = Path(command.base_path), Path(command.adapter_path)
    parameters = check_adapter(base, command.base_name, adapter, trust_remote_code=command.trust_remote_code)
    return pb.Attached(parameters=parameters)
