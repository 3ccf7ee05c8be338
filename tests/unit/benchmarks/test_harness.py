"""The benchmarks' bookkeeping: turns, medians, ratios, and peers that cannot be had."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Bench, PeerMissing, Result, peer


@pytest.fixture
def bench() -> Bench:
    return Bench("decode", quick=False, rounds=3, threads=1, model=Path("/model"), given=argparse.Namespace())


def test_contenders_are_measured_in_turn(bench: Bench) -> None:
    turns: list[str] = []

    def measure(name: str) -> dict[str, float]:
        turns.append(name)
        return {"tok_s": 1.0}

    Result(bench).run({"project": lambda: measure("project"), "peer": lambda: measure("peer")})
    assert turns == ["project", "peer"] * 3


def test_the_line_has_medians_spreads_ratios_and_null_with_its_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "machine", lambda threads: {"cores": 2})
    ours, theirs = iter([10.0, 30.0, 20.0]), iter([5.0, 5.0, 6.0])
    result = Result(bench)
    result.run({"project": lambda: {"tok_s": next(ours)}, "transformers": lambda: {"tok_s": next(theirs)}})
    result.reasons["llama_cpp_f16"] = "not here"
    ratios = {
        "won": result.ratio(("project", "tok_s"), ("transformers", "tok_s")),
        "unknown": result.ratio(("project", "tok_s"), ("llama_cpp_f16", "tok_s")),
    }
    line = json.loads(result.line(ratios, dtype="bfloat16"))
    assert line["project"] == {"tok_s": 20.0, "dtype": "bfloat16"}
    assert line["peers"] == {"transformers": {"tok_s": 5.0}, "llama_cpp_f16": None}
    assert line["reasons"] == {"llama_cpp_f16": "not here"}
    assert line["spread"] == {"project": {"tok_s": 1.0}, "transformers": {"tok_s": 0.2}}
    assert line["ratios"] == {"won": 4.0, "unknown": None}
    assert line["machine"] == {"cores": 2}
    assert line["versions"]["torch"]


def test_a_peer_that_is_not_installed_says_so() -> None:
    arguments = ("no.gguf", "no.json", "--threads", 1)
    with pytest.raises(PeerMissing, match="llama-cpp-python"), peer("llama_cpp_generate", *arguments):
        pass


def test_a_peer_that_dies_is_no_measurement() -> None:
    with pytest.raises(PeerMissing, match="prepare_corpus ended with status 2"), peer("prepare_corpus", "--no-such-flag"):
        pass
