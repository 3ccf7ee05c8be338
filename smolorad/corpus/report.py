"""Tally: counts the rows that are read, kept and dropped, and the problems found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from smolora.common.problems import RowProblem as ClientProblem
from smolorad.chat.turns import Value
from smolorad.corpus.shapes import Sample, key_of
from smolorad.domain import DatasetReport, Finding, LengthBin, Note, PhaseProgress, ProblemKind, RowProblem
from smolorad.errors import BadData, Violation

MOST_PROBLEMS = 100  # that the report and the error name
MOST_EXAMPLES = 20  # of each kind


# What is said of a row that stood before, with its place between.
_REPEATED: Mapping[ProblemKind, tuple[str, str]] = {
    ProblemKind.DUPLICATE: ("stood before, word for word", "and was left out; remove it"),
    ProblemKind.IN_TWO_SPLITS: (
        "stood before, word for word, in a file of another split",
        "and was left out; remove it from one of them, or the held-out loss measures rows that were trained on",
    ),
}


class Host(Protocol):
    """The caller of the work: receives its events, and may end it early."""

    def check(self) -> None:
        """Called regularly; raises an error to end the work early."""

    def emit(self, event: PhaseProgress | Note) -> None:
        """Receives progress and notes."""


@dataclass(slots=True)
class Lengths:
    """How many tokens rows have, as training reads them."""

    max_length: int
    bins: list[int] = field(default_factory=list)  # at place n: rows of 2^(n-1) to 2^n - 1 tokens
    read: int = 0
    scored: int = 0
    longest: int = 0
    rows_cut: int = 0
    tokens_cut: int = 0

    def add(self, tokens: Sequence[int], scored: int) -> None:
        """More rows: the tokens of each, and how many are scored in all."""
        for place, rows in Counter(map(int.bit_length, tokens)).items():
            self.bins += [0] * (place + 1 - len(self.bins))
            self.bins[place] += rows
        self.read += sum(tokens)
        self.scored += scored
        self.longest = max(self.longest, max(tokens, default=0))
        if self.longest > self.max_length:
            cut = [count - self.max_length for count in tokens if count > self.max_length]
            self.rows_cut += len(cut)
            self.tokens_cut += sum(cut)

    def histogram(self) -> tuple[LengthBin, ...]:
        """The histogram, from the shortest rows to the longest, without empty ends."""
        first = next((place for place, rows in enumerate(self.bins) if rows), 0)
        bins = enumerate(self.bins[first:], first)
        return tuple(LengthBin(2 ** (place - 1) if place else 0, 2**place - 1, rows) for place, rows in bins)


@dataclass(slots=True)
class Tally:
    """The counts of a DatasetReport as they grow."""

    max_length: int = 1024
    files: int = 0
    read: int = 0
    kept: int = 0
    empty: int = 0
    malformed: int = 0
    words: int = 0
    characters: int = 0
    tokens: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    found: dict[ProblemKind, int] = field(default_factory=dict)
    examples: dict[ProblemKind, list[RowProblem]] = field(default_factory=dict)
    lengths: Lengths = field(init=False)
    test_rows: Counter[str] = field(default_factory=Counter)  # rows of test splits by their file, which are left out
    # By the hash of a row's key the problems of its repetitions, until the row itself is written.
    repetitions: dict[int, list[RowProblem]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lengths = Lengths(self.max_length)

    def add_problem(self, problem: ClientProblem) -> None:
        """Counts a row that cannot be used, and keeps the first ones."""
        kind = problem.kind or ProblemKind.MALFORMED
        kept = RowProblem(problem.file, problem.line, problem.why, kind, problem.excerpt)
        self.malformed += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(kept)
        self.find(kept)

    def find(self, problem: RowProblem) -> None:
        """Counts a row of its kind, and keeps the first ones."""
        if self.wants(problem.kind):
            self.examples.setdefault(problem.kind, []).append(problem)
        self.count(problem.kind)

    def repeated(self, row: Sample, kind: ProblemKind) -> None:
        """Counts a row that stood before, and keeps the first ones; `stands` adds where."""
        if not self.wants(kind):
            self.count(kind)
            return
        what, end = _REPEATED[kind]
        problem = RowProblem(row.file, row.line, f"{what}, {end}", kind, row.excerpt())
        self.repetitions.setdefault(hash(row.key()), []).append(problem)
        self.find(problem)

    def stands(self, values: tuple[Value, ...], file: str, line: int) -> None:
        """Adds the place of a row to the problems of its repetitions."""
        for problem in self.repetitions.pop(hash(key_of(values)), ()):
            what, end = _REPEATED[problem.kind]
            examples = self.examples[problem.kind]
            why = f"{what}, at {f'{file}:{line}' if line else file}, {end}"
            examples[examples.index(problem)] = replace(problem, why=why)

    def count(self, kind: ProblemKind, rows: int = 1) -> None:
        """Counts rows of a kind, without examples."""
        self.found[kind] = self.found.get(kind, 0) + rows

    def wants(self, kind: ProblemKind) -> bool:
        """Whether another example of this kind is kept."""
        return len(self.examples.get(kind, ())) < MOST_EXAMPLES

    def malformed_rows(self) -> BadData:
        """The error for rows that may not be dropped."""
        first = self.problems[0]
        rest = "correct the row" if self.malformed == 1 else f"{self.malformed:,} rows are malformed in all; correct them"
        return BadData(
            f"{place(first)} {first.why}; {rest}, or leave out such rows with --on-error drop.", _violations(self.problems)
        )

    def nothing_left(self) -> BadData:
        """The error for files without text."""
        counts = f"{self.read:,} rows were read, {self.empty:,} of them empty and {self.malformed:,} malformed"
        if test := self.test_rows.total():
            counts += f", and {test:,} more of a test split were left out (--splits ignore reads them)"
        return BadData(
            f"There is no text to train on: {counts}; check the files, and --text-field and --file-type.",
            _violations(self.problems),
        )

    def nothing_to_train_on(self) -> BadData:
        """The error for rows that are all held out."""
        return BadData(
            f"There is no row to train on: all {self.kept:,} that are left are of a validation split; give rows of a training "
            "split as well, or read all rows alike with --splits ignore."
        )

    def nothing_shown(self) -> BadData:
        """The error where the chat template can render no row."""
        first = self.examples[ProblemKind.TEMPLATE][0]
        return BadData(f"No row is left to train on: {place(first)} {first.why}, and so are the others.")

    def report(self, tokenizer: str, seconds: float) -> DatasetReport:
        """The report; `tokenizer` names the model that counted tokens."""
        lengths = self.lengths
        return DatasetReport(
            files=self.files,
            rows_read=self.read,
            rows_kept=self.kept,
            rows_empty=self.empty,
            rows_duplicate=sum(self.found.get(kind, 0) for kind in _REPEATED),
            rows_malformed=self.malformed,
            problems=tuple(self.problems),
            words=self.words,
            tokens=self.tokens,
            tokenizer=tokenizer,
            rows_near_duplicate=self.found.get(ProblemKind.NEAR_DUPLICATE, 0),
            rows_filtered=self.found.get(ProblemKind.FILTERED, 0),
            findings=self._findings(),
            lengths=lengths.histogram(),
            tokens_scored=lengths.scored,
            tokens_read=lengths.read,
            longest=lengths.longest,
            max_length=self.max_length,
            rows_truncated=lengths.rows_cut,
            tokens_truncated=lengths.tokens_cut,
            characters=self.characters,
            seconds=seconds,
        )

    def _findings(self) -> tuple[Finding, ...]:
        kinds = sorted(self.found, key=lambda kind: -self.found[kind])
        return tuple(Finding(kind, self.found[kind], tuple(self.examples.get(kind, ()))) for kind in kinds)


def place(problem: RowProblem) -> str:
    """`file:line`, or the file alone where it has no lines."""
    return f"{problem.file}:{problem.line}" if problem.line else problem.file


def _violations(problems: Sequence[RowProblem]) -> Iterable[Violation]:
    return [Violation(place(problem), problem.why) for problem in problems]
