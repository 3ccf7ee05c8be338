"""What was read, kept and dropped, counted while it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import smolora
from smolorad.domain import DatasetReport, Note, PhaseProgress, RowProblem
from smolorad.errors import BadData, Violation

MOST_PROBLEMS = 100  # the report and the error name so many


class Host(Protocol):
    """Whom the work is done for."""

    def check(self) -> None:
        """Called between rows; raises what ends the work early."""

    def tell(self, event: PhaseProgress | Note) -> None:
        """How far the work is, or something worth telling."""


@dataclass(slots=True)
class Tally:
    """The counts of a DatasetReport as they grow."""

    files: int = 0
    read: int = 0
    kept: int = 0
    empty: int = 0
    duplicate: int = 0
    malformed: int = 0
    words: int = 0
    tokens: int = 0
    problems: list[RowProblem] = field(default_factory=list)

    def add_problem(self, problem: smolora.RowProblem) -> None:
        """Counts a malformed row, and keeps the first ones."""
        self.malformed += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(RowProblem(problem.file, problem.line, problem.why))

    def malformed_rows(self) -> BadData:
        """The error for malformed rows that may not be dropped."""
        first = self.problems[0]
        rest = "mend the row" if self.malformed == 1 else f"{self.malformed:,} rows are malformed in all; mend them"
        violations = [Violation(f"{problem.file}:{problem.line}", problem.why) for problem in self.problems]
        return BadData(
            f"{first.file}:{first.line} {first.why}; {rest}, or leave out such rows with --on-error drop.", violations
        )

    def nothing_left(self) -> BadData:
        """The error for files that hold no text."""
        counts = f"{self.read:,} rows were read, {self.empty:,} of them empty and {self.malformed:,} malformed"
        return BadData(
            f"There is no text to train on: {counts}; check the files, and --text-field and --file-type.",
            [Violation(f"{problem.file}:{problem.line}", problem.why) for problem in self.problems],
        )

    def report(self, tokenizer: str) -> DatasetReport:
        """The report; `tokenizer` names the model that counted tokens."""
        return DatasetReport(
            files=self.files,
            rows_read=self.read,
            rows_kept=self.kept,
            rows_empty=self.empty,
            rows_duplicate=self.duplicate,
            rows_malformed=self.malformed,
            problems=tuple(self.problems),
            words=self.words,
            tokens=self.tokens,
            tokenizer=tokenizer,
        )
