"""`smolora-client jobs`: list, show, watch, cancel, pause, resume."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora._errors import Cancelled, by_reason
from smolora.cli.flags import Actions
from smolora.cli.output import Output, when
from smolora.cli.watch import follow

if TYPE_CHECKING:
    from smolora._sync.client import Client

_ID = "as `jobs list` shows it"
# What a running job does in answer to a request, when it has reached a place for it.
_LATER = {"pause": "pauses", "cancel": "ends"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = Actions(parser)
    actions.add("list", "list jobs, newest first")
    actions.add("show", "show one job", id=_ID)
    watch = actions.add("watch", "show a job's events, past and future, until it ends", id=_ID)
    watch.add_argument("--after", type=int, default=0, metavar="N", help="only events after this number")
    actions.add("cancel", "end a job", id=_ID)
    actions.add("pause", "pause a job until it is resumed; training writes a checkpoint first", id=_ID)
    actions.add("resume", "put a paused, failed, cancelled or interrupted job back into the queue", id=_ID)


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Does what the action names."""
    if args.action == "list":
        _list(client.jobs(), out)
    elif args.action == "watch":
        _watch(client, args.id, args.after, out)
    else:
        actions = {"show": client.job, "cancel": client.cancel, "pause": client.pause, "resume": client.resume}
        job = actions[args.action](args.id)
        if out.json:
            out.emit(job=job)
        else:
            show(job, out)
        if args.action in _LATER and job.state is values.JobState.RUNNING:
            out.note(
                f"It still runs, and {_LATER[args.action]} as soon as it can. See its state: smolora-client jobs show {job.id}"
            )
    return 0


def _list(jobs: list[values.Job], out: Output) -> None:
    if out.json:
        out.emit(jobs=jobs)
        return
    rows = [(job.id, job.kind, job.target, job.state, _progress_and_wait(job), when(job.create_time)) for job in jobs]
    out.table(("ID", "KIND", "TARGET", "STATE", "PROGRESS", "CREATED"), rows)


def _watch(client: Client, job_id: str, after: int, out: Output) -> None:
    """Raises the error of a job that failed, as the verb that started it would have."""
    job = follow(client.watch(job_id, after), out, "job")
    if not out.json:
        show(job, out)
    if job.error is not None:
        raise by_reason(job.error.reason)(job.error.message)
    if job.state is values.JobState.CANCELLED:
        raise Cancelled(f"Job {job.id} was cancelled; continue it with: smolora-client jobs resume {job.id}")


def _progress(job: values.Job) -> str:
    return f"{job.progress.step}/{job.progress.max_steps}" if job.progress else ""


def _progress_and_wait(job: values.Job) -> str:
    """How far it is, and what it waits for."""
    return ", ".join(part for part in (_progress(job), job.waiting_for) if part)


def show(job: values.Job, out: Output) -> None:
    """A job, below each other."""
    out.facts(
        [
            ("job", job.id),
            ("kind", job.kind),
            ("target", job.target),
            ("state", job.state),
            ("waits for", job.waiting_for),
            ("progress", _progress(job)),
            ("result", job.result),
            ("error", f"{job.error.reason}: {job.error.message}" if job.error else ""),
            ("started", f"{job.attempts} times" if job.attempts > 1 else ""),
            ("created", when(job.create_time)),
            ("began", when(job.start_time)),
            ("ended", when(job.end_time)),
        ]
    )
