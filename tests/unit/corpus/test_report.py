"""The counts, and the errors that are made of them."""

from __future__ import annotations

from smolora import RowProblem
from smolorad.corpus.report import MOST_PROBLEMS, Tally
from smolorad.domain import ProblemKind
from smolorad.errors import Violation


def tally_of(problems: int) -> Tally:
    """A tally with so many malformed rows."""
    tally = Tally(files=1, read=problems + 5, empty=5)
    for n in range(1, problems + 1):
        tally.add_problem(RowProblem("a.jsonl", n, f"is bad in way {n}; mend it"))
    return tally


def test_all_problems_are_counted_and_the_first_hundred_kept() -> None:
    report = tally_of(250).report("tokenizer", 1.0)
    assert report.rows_malformed == 250
    assert [problem.line for problem in report.problems] == list(range(1, MOST_PROBLEMS + 1))
    assert MOST_PROBLEMS == 100


def test_the_report_has_every_count() -> None:
    tally = Tally(files=1, read=10, kept=4, empty=3, words=40, tokens=50)
    tally.add_problem(RowProblem("f", 1, "why"))
    tally.count(ProblemKind.DUPLICATE, 2)
    report = tally.report("model", 1.0)
    assert (report.files, report.rows_read, report.rows_kept, report.rows_empty, report.rows_duplicate) == (1, 10, 4, 3, 2)
    assert (report.rows_malformed, report.words, report.tokens, report.tokenizer) == (1, 40, 50, "model")


def test_malformed_rows_are_one_sentence_and_a_violation_each() -> None:
    one = tally_of(1).malformed_rows()
    assert one.message == ("a.jsonl:1 is bad in way 1; mend it; correct the row, or leave out such rows with --on-error drop.")
    many = tally_of(1200).malformed_rows()
    assert "1,200 rows are malformed in all" in many.message
    assert len(many.violations) == MOST_PROBLEMS
    assert many.violations[1] == Violation("a.jsonl:2", "is bad in way 2; mend it")


def test_nothing_left_tells_what_became_of_the_rows() -> None:
    error = tally_of(2).nothing_left()
    assert "7 rows were read, 5 of them empty and 2 malformed" in error.message
    assert [violation.field for violation in error.violations] == ["a.jsonl:1", "a.jsonl:2"]
