"""A dataset's report, on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora.cli.output import Output, number, plural, safe, span

if TYPE_CHECKING:
    from smolora._sync.client import Client

# The contract's defaults for a training: an effective batch of 8 rows.
_ROWS_A_STEP = 8
_BAR_CHARACTERS = 40
_EXAMPLES = 3

Facts = list[tuple[str, str]]


def facts(dataset: values.Dataset, speed: float | None = None) -> Facts:
    """Names and values, an empty value where there is nothing to say; `speed` in tokens a second estimates the time."""
    report = dataset.report
    dropped = {
        "empty": report.rows_empty,
        "duplicate": report.rows_duplicate,
        "nearly duplicate": report.rows_near_duplicate,
        "filtered": report.rows_filtered,
        "malformed": report.rows_malformed,
    }
    return [
        ("dataset", f"{dataset.name}@{dataset.revision}"),
        ("shape", str(dataset.shape or "text").replace("_", " and ")),
        ("rows read", f"{number(report.rows_read)} from {plural(report.files, 'file')}"),
        ("rows kept", f"{number(report.rows_kept)} ({number(dataset.train_rows)} to train on, "
                      f"{number(dataset.validation_rows)} held out)"),
        ("rows dropped", ", ".join(f"{number(count)} {why}" for why, count in dropped.items() if count)),
        ("words", number(report.words)),
        ("tokens", f"{number(report.tokens)} (by {report.tokenizer})" if report.tokenizer else ""),
        *(_of_training(dataset, speed) if report.tokens_read else ()),
        ("path", dataset.path),
    ]  # fmt: skip


def _of_training(dataset: values.Dataset, speed: float | None) -> Iterator[tuple[str, str]]:
    """What the rows are for a training with its defaults."""
    report = dataset.report
    yield (
        "scored",
        f"{report.tokens_scored / report.tokens_read:.1%} of {number(report.tokens_read)} tokens read",
    )
    yield "longest row", f"{plural(report.longest, 'token')}"
    cut = f"{plural(report.rows_truncated, 'row')}, {plural(report.tokens_truncated, 'token')}"
    yield f"cut at {number(report.max_length)}", cut if report.rows_truncated else ""
    steps = math.ceil(dataset.train_rows / _ROWS_A_STEP)
    tokens = (report.tokens_read - report.tokens_truncated) * dataset.train_rows / report.rows_kept
    took = f", about {span(tokens / speed)} at {number(speed)} tokens/s" if speed else ""
    yield "one pass", f"{plural(steps, 'step')} of {_ROWS_A_STEP} rows{took}"


def show(dataset: values.Dataset, out: Output, speed: float | None = None) -> None:
    """The report on the terminal: facts, lengths, and what was found, each with its first rows."""
    report = dataset.report
    out.facts(facts(dataset, speed))
    most = max((one.rows for one in report.lengths), default=0)
    for one in report.lengths:
        bar = "#" * math.ceil(_BAR_CHARACTERS * one.rows / most)
        out.text(f"  {f'{number(one.least)} to {number(one.most)} tokens':>24}  {number(one.rows):>9}  {bar}".rstrip())
    for finding in report.findings:
        out.text(f"found  {finding.kind.replace('_', ' ')}: {plural(finding.rows, 'row')}")
        shown = finding.examples if finding.kind in _MALFORMED else finding.examples[:_EXAMPLES]
        for problem in shown:
            _show_problem(problem, out)
    if not report.findings:
        for problem in report.problems:
            _show_problem(problem, out)


def speed(client: Client) -> float | None:
    """Tokens a second of the newest training that reported them."""
    reported = (job.progress.tokens_per_second for job in client.jobs() if job.progress is not None)
    return next(filter(None, reported), None)


def _show_problem(problem: values.RowProblem, out: Output) -> None:
    out.text(f"  {place(problem)}: {problem.why}")
    if problem.excerpt:
        out.text(f"    {safe(problem.excerpt)}")


_MALFORMED = (
    values.ProblemKind.MALFORMED,
    values.ProblemKind.ENCODING,
    values.ProblemKind.MIXED_SHAPES,
    values.ProblemKind.EMPTY_COMPLETION,
)


def place(problem: values.RowProblem) -> str:
    """`file:line`, or the file alone where it has no lines."""
    return f"{problem.file}:{problem.line}" if problem.line else problem.file
