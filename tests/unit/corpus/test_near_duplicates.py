"""Near duplicates are found by what they share, and exact ones always."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from smolorad.corpus.near_duplicates import Near, sequences
from smolorad.corpus.prepare import prepare
from smolorad.domain import PrepareSpec, ProblemKind
from tests.unit.corpus.kit import Recorder, fill

WORDS = [f"word{n}" for n in range(2000)]


def text(seed: int, words: int = 120) -> str:
    """Words drawn at random."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def changed(original: str, places: int) -> str:
    """The text with some words changed, far from each other."""
    words = original.split()
    for number in range(places):
        words[number * len(words) // places] = "changed"
    return " ".join(words)


def jaccard(one: str, other: str) -> float:
    a, b = set(sequences(one)), set(sequences(other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8])
def test_what_is_clearly_above_the_threshold_is_found(threshold: float) -> None:
    for seed in range(20):
        known = Near(threshold)
        original = text(seed)
        assert known.add(original)
        close = [
            version for places in (1, 2, 4, 8) if jaccard(original, version := changed(original, places)) > threshold + 0.15
        ]
        assert close
        assert not any([known.add(version) for version in close])


def test_texts_that_share_nothing_are_kept() -> None:
    known = Near(0.5)
    assert all(known.add(text(seed)) for seed in range(300))


def test_case_and_space_do_not_count_and_short_texts_are_compared_whole() -> None:
    known = Near(0.9)
    assert known.add("Two words")
    assert not known.add("two  WORDS")
    assert known.add("two other")


def test_near_duplicates_are_dropped_on_request_alone_and_told(tmp_path: Path) -> None:
    files = fill(tmp_path / "in", {"a.txt": f"{text(1)}\n{changed(text(1), 1)}\n{text(2)}\n"})
    spec = PrepareSpec("d", upload_id="u", validation=0.0)
    assert prepare(files, spec, None, tmp_path / "all", Recorder()).train_rows == 3
    made = prepare(files, replace(spec, near_duplicates=0.8), None, tmp_path / "few", Recorder())
    assert (made.train_rows, made.report.rows_near_duplicate) == (2, 1)
    (finding,) = made.report.findings
    assert (finding.kind, finding.rows, finding.examples[0].line) == (ProblemKind.NEAR_DUPLICATE, 1, 2)
