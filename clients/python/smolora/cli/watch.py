"""What the verbs that start or watch a job share: its events as they come, its result, and Ctrl-C that only detaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from smolora.cli.output import Output
from smolora.cli.progress import Progress

if TYPE_CHECKING:
    from smolora._sync.streams import JobRun

T = TypeVar("T")


def follow(run: JobRun[T], out: Output, result_name: str, progress: Progress | None = None) -> T:
    """Shows a job's events until it ends, and returns its result; with JSON it writes both, the result as `result_name`.

    Ctrl-C leaves the job alone, says how to watch it again, and raises KeyboardInterrupt again.
    """
    try:
        with progress or Progress(out) as shown:
            for event in run:
                if out.json:
                    out.emit(job_event=event)
                else:
                    shown.event(event)
            result = run.result()
    except KeyboardInterrupt:
        out.note(
            f"\nDetached; the job continues. Watch it again: smolora-client jobs watch {run.job_id}\n"
            f"End it: smolora-client jobs cancel {run.job_id}"
        )
        raise
    if out.json:
        out.emit(**{result_name: result})
    return result
