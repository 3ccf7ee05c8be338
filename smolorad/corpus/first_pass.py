"""The first pass: rows are cut, measured, and compared with those before them; what stays goes into a draft."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from smolora.common.problems import RowProblem as ClientProblem
from smolora.common.text.dedup import Seen
from smolorad.corpus.arrow_file import DraftWriter
from smolorad.corpus.chunk import Cut
from smolorad.corpus.groups import Prompts
from smolorad.corpus.named_splits import TEST, TRAIN
from smolorad.corpus.report import Host, Tally
from smolorad.corpus.shapes import Sample, key_of, prompt_of
from smolorad.domain import OnError, PhaseProgress, PrepareSpec, ProblemKind, RowProblem, Shape

if TYPE_CHECKING:
    from smolorad.corpus.near_duplicates import Near

_TELL_EVERY_ROWS = 1000
# Some milliseconds of work, so that a cancel is heard at once.
_CHECK_EVERY_ROWS = 64


def _near(similarity: float) -> Near | None:
    if not similarity:
        return None
    # Imported where it is used: few ask for it.
    from smolorad.corpus.near_duplicates import Near

    return Near(similarity)


class Gatherer:
    """Writes rows to a draft, and drops those that must not be trained on, or not twice."""

    def __init__(self, spec: PrepareSpec, tally: Tally, host: Host, cut: Cut | None) -> None:
        self._strict = spec.on_error is OnError.FAIL
        self._tally = tally
        self._host = host
        self._cut = cut
        self._least, self._most = spec.min_characters, spec.max_characters
        self._seen: dict[str, Seen] = {}  # by the split that rows are named as
        self.late = Seen()  # rows of a test split that stood before in another one
        self.prompts = Prompts() if spec.validation else None  # of the rows kept, where they are not text
        self._near = _near(spec.near_duplicates)
        self._since_check = 0

    def gather(self, rows: Iterable[Sample | ClientProblem], writer: DraftWriter) -> None:
        """Reads every row. After one that fails a strict preparation it only looks for more of them."""
        tally, host, cut, text = self._tally, self._host, self._cut, Shape.TEXT
        host.check()
        for row in rows:
            self._check_host()
            if isinstance(row, ClientProblem):
                tally.add_problem(row)
            elif row.split == TEST:
                self._leave_out(row)
                continue
            elif row.shape is text and not row.values[0]:
                tally.empty += 1
                self._drop(row, ProblemKind.EMPTY, "has no text, and was left out; write it or remove the row")
            elif tally.malformed and self._strict:
                pass
            elif cut is None or row.shape is not text:
                self._take(row, writer)
            else:
                for piece in self._pieces(row):
                    self._take(piece, writer)
            tally.read += 1
            if tally.read % _TELL_EVERY_ROWS == 0:
                host.emit(PhaseProgress("read", tally.read, 0, "rows"))
        host.emit(PhaseProgress("read", tally.read, tally.read, "rows"))

    def _take(self, row: Sample, writer: DraftWriter) -> None:
        """Appends a row, unless it is one to be dropped."""
        if (self._least or self._most) and self._is_filtered(row):
            return
        if (kind := self._repeated(row)) is not None:
            self._tally.repeated(row, kind)
        elif self._near is not None and not self._near.add(row.text()):
            self._drop(row, ProblemKind.NEAR_DUPLICATE, "is very like a row before it, and was left out")
        else:
            self._tally.kept += 1
            if self.prompts is not None and row.shape is not Shape.TEXT:
                self.prompts.add(key_of((prompt_of(row.shape, row.values),)))
            writer.append(row)

    def _leave_out(self, row: Sample) -> None:
        """Remembers a row of a test split, so that it is not trained on where it stands in another file as well."""
        self._tally.test_rows[row.file] += 1
        tests = self._seen_in(TEST)
        for piece in self._pieces(row):
            key = key_of(piece.values)
            if any(key in seen for seen in self._seen.values() if seen is not tests):
                self.late.add(key)
            tests.add(key)

    def _seen_in(self, split: str) -> Seen:
        if (seen := self._seen.get(split)) is None:
            seen = self._seen[split] = Seen()
        return seen

    def _check_host(self) -> None:
        self._since_check += 1
        if self._since_check >= _CHECK_EVERY_ROWS:
            self._since_check = 0
            self._host.check()

    def _pieces(self, row: Sample) -> Iterable[Sample]:
        text = row.values[0]
        if self._cut is None or row.shape is not Shape.TEXT or not isinstance(text, str):
            return (row,)
        return self._cut_up(row, self._cut(text))

    def _cut_up(self, row: Sample, pieces: Iterable[str]) -> Iterator[Sample]:
        for piece in pieces:
            self._check_host()
            yield row._replace(values=(piece,))

    def _is_filtered(self, row: Sample) -> bool:
        length = row.characters()
        short = length < self._least
        if not short and not 0 < self._most < length:
            return False
        limit = f"fewer than {self._least:,}" if short else f"more than {self._most:,}"
        self._drop(row, ProblemKind.FILTERED, f"has {length:,} characters, {limit}, and was left out")
        return True

    def _repeated(self, row: Sample) -> ProblemKind | None:
        """The kind of problem of an exact copy."""
        key, split = key_of(row.values), row.split or TRAIN
        here = self._seen_in(split)
        if len(self._seen) > 1 and any(other != split and key in seen for other, seen in self._seen.items()):
            return ProblemKind.IN_TWO_SPLITS
        return None if here.add(key) else ProblemKind.DUPLICATE

    def _drop(self, row: Sample, kind: ProblemKind, why: str) -> None:
        if self._tally.wants(kind):
            self._tally.find(RowProblem(row.file, row.line, why, kind, row.excerpt()))
        else:
            self._tally.count(kind)
