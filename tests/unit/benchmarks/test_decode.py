"""The decode benchmark's task, its peers and what becomes of those that are missing."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path

import pytest

from benchmarks import contenders
from benchmarks.contenders import Contender, ready
from benchmarks.decode import ratios, rooflines
from benchmarks.harness import Bench, PeerMissing, Result
from benchmarks.peers import environments
from benchmarks.peers.generation import common_length, fresh
from benchmarks.task import TINY, make_task
from benchmarks.train import of_length
from tests.tiny import tiny_tokenizer


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    given = argparse.Namespace(precisions=("exact",), peers=contenders.PEERS)
    return Bench("decode", quick=True, rounds=1, threads=1, model=tmp_path, given=given)


def words(text: str) -> list[int]:
    return [hash(word) % 1000 for word in text.split()]


def test_texts_are_as_long_as_asked_and_no_longer_than_the_context(tmp_path: Path) -> None:
    only = frozenset({"decode", "prefill", "streams", "context"})
    task = make_task(only, TINY, words, 100)
    assert 64 - 25 < len(words(task.prefill[64])) <= 64
    assert task.context == {}  # 128 tokens are more than the model has
    content = json.loads(task.write(words, tmp_path / "task.json").read_text())
    assert [len(prompts) for prompts in content["streams"].values()] == [2]
    assert content["new_tokens"] == TINY.new_tokens
    assert content["context_length"] >= len(content["prefill"]["64"]) + TINY.new_tokens
    assert "prefix" not in content
    assert make_task(frozenset({"memory"}), TINY, words, 100).prefill == {}


def test_a_fresh_prompt_shares_its_first_token_alone() -> None:
    ids = list(range(10))
    assert all(common_length(fresh(ids, number), fresh(ids, number + 1)) == 1 for number in range(20))
    assert len(fresh(ids, 3)) == len(ids)


def test_peers_without_an_environment_or_memory_are_missing_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)
    with contextlib.ExitStack() as stack:
        with pytest.raises(PeerMissing, match=r"no \.venv-bench-llama-cpp; type .*environments llama_cpp"):
            ready(stack, Contender("llama_cpp_f16", "llama_cpp", "exact"), bench, tmp_path / "task.json")
        monkeypatch.setattr(contenders, "_LEAST_FREE", 2**60)
        with pytest.raises(PeerMissing, match="not enough memory"):
            ready(stack, Contender("transformers", "transformers", "exact"), bench, tmp_path / "task.json")


def test_a_peer_that_ends_on_the_way_is_left_out_and_the_others_continue(bench: Bench) -> None:
    result = Result(bench)

    def ends() -> dict[str, float]:
        raise PeerMissing("it ended")

    result.run({"openvino_f16": ends, "project": lambda: {"decode_tok_s": 2.0}})
    assert result.reasons == {"openvino_f16": "it ended"}
    assert result.median("project", "decode_tok_s") == 2.0


def test_each_figure_is_compared_with_each_peer_of_the_same_bits(bench: Bench) -> None:
    result = Result(bench)
    result.add("project", {"decode_tok_s": 30.0, "streams8_tok_s": 90.0, "rss_bytes": 1e9})
    result.add("project_int8", {"decode_tok_s": 60.0, "rss_bytes": 5e8})
    result.add("llama_cpp_f16", {"decode_tok_s": 20.0, "streams8_tok_s": 30.0, "rss_bytes": 2e9})
    result.add("ctranslate2_int8", {"decode_tok_s": 30.0, "rss_bytes": 1e9})
    found = ratios(result)
    assert found["decode_bf16_vs_llama_cpp_f16"] == 1.5
    assert found["streams8_bf16_vs_llama_cpp_f16"] == 3.0
    assert found["memory_bf16_vs_llama_cpp_f16"] == 2.0
    assert found["decode_int8_vs_ctranslate2_int8"] == 2.0
    assert "decode_int8_vs_llama_cpp_q8_0" not in found


def test_the_roofline_is_the_share_of_the_memorys_speed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.decode.machine", lambda threads: {"read_gb_s": 10.0})
    result = Result(bench)
    result.add("project", {"decode_tok_s": 50.0, "token_bytes": 1e8})
    assert rooflines(bench, result) == {"exact": 0.5}


def test_rows_have_the_length_that_was_asked_for() -> None:
    tokenizer = tiny_tokenizer()
    texts = [f"The keeper wrote entry {number} by lamplight." for number in range(60)]
    rows = list(of_length(texts, 40, 12, tokenizer))
    lengths = [len(tokenizer(row)["input_ids"]) for row in rows]
    assert len(set(rows)) == 12
    assert all(36 <= length <= 44 for length in lengths)
