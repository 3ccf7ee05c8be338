"""Answers of a given form: what it costs to hold tokens to a JSON schema, against outlines-core on the same vocabulary.

The project's `mask_us` is the whole cost of a token, its mask laid over the logits included; the peer's is without that.
`formed_vs_free` is what a form leaves of the speed of an answer, through the daemon.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.harness import Bench, PeerMissing, Result, daemon, peer
from benchmarks.peers import Figures, environments
from smolora import Client
from smolorad.domain import ResponseFormat
from smolorad.engine.runtime.dtypes import Scores
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary

PROMPT = "Explain how tides work in simple terms."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["sailor", "baker", "keeper of the light"]}, "maxItems": 4},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
ANSWER = {
    "name": "Ann-Kristin Sørensen",
    "age": 33,
    "tags": ["keeper of the light", "baker"],
    "address": {"street": "Fyrgata 12, below the old lighthouse", "city": "Tromsø"},
}
# So long that every answer is cut off at the same number of tokens.
STORY = {"type": "object", "properties": {"story": {"type": "string", "minLength": 5000}}, "required": ["story"]}


def held(tokenizer: Any, ids: list[int], logits: Scores) -> Figures:
    """One schema from nothing, and the median token of one answer."""
    begin = time.perf_counter()
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    assert vocabulary.ll_tokenizer
    built = time.perf_counter()
    grammar = GrammarCache(vocabulary).get(ResponseFormat(json_schema=json.dumps(SCHEMA)))
    compiled = time.perf_counter()
    times, before = [], np.empty(0, dtype=np.int64)
    for token in ids:
        at = time.perf_counter()
        scores = grammar(before, logits)
        grammar.advance(token)
        times.append(time.perf_counter() - at)
        assert scores[token] > -np.inf
    assert grammar.complete
    return {
        "vocabulary_s": built - begin,
        "compile_s": compiled - built,
        "mask_us": 1e6 * statistics.median(times),
        "worst_mask_us": 1e6 * max(times),
    }


def speed(client: Client, tokens: int, **form: Any) -> float:
    """Tokens a second of one answer, by the engine's clock."""
    question = [{"role": "user", "content": PROMPT}]
    answer = client.generate(messages=question, temperature=0, max_tokens=tokens, **form)
    answer.text()
    assert answer.outcome is not None
    assert answer.outcome.usage.completion_tokens == tokens
    return (tokens - 1) / answer.outcome.timings.decode_s


def main() -> None:
    """Prints the line."""
    bench = Bench.from_command_line("forms")
    torch.set_num_threads(bench.threads)
    tokens = 32 if bench.quick else 128
    result = Result(bench)
    tokenizer = AutoTokenizer.from_pretrained(bench.model, local_files_only=True)
    ids = tokenizer.encode(json.dumps(ANSWER, ensure_ascii=False))
    logits = np.random.default_rng(0).standard_normal(len(tokenizer), dtype=np.float32)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(daemon())
        client = stack.enter_context(served.client())
        client.load(bench.model, dtype="bfloat16", keep_alive=-1).result()

        def project() -> Figures:
            free, formed = speed(client, tokens), speed(client, tokens, json_schema=STORY)
            return {**held(tokenizer, ids, logits), "free_tok_s": free, "formed_tok_s": formed}

        contenders = {"project": project}
        task = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "task.json"
        task.write_text(json.dumps(_task(tokenizer, ids)), encoding="utf-8")
        python = environments.python("outlines_core")
        try:
            if reason := environments.reason_missing("outlines_core"):
                raise PeerMissing(reason)
            contenders["outlines_core"] = stack.enter_context(peer("outlines_core_forms", task, python=python))
        except PeerMissing as why:
            result.reasons["outlines_core"] = str(why)
        project()
        result.run(contenders)
    ratios = {
        "formed_vs_free": result.ratio(("project", "formed_tok_s"), ("project", "free_tok_s")),
        "compile_vs_outlines_core": result.ratio(("outlines_core", "compile_s"), ("project", "compile_s")),
        "mask_vs_outlines_core": result.ratio(("outlines_core", "mask_us"), ("project", "mask_us")),
    }
    print(result.line(ratios, tokens=tokens, answer_tokens=len(ids), vocabulary=len(tokenizer)))


def _task(tokenizer: Any, ids: list[int]) -> dict[str, Any]:
    """What the peer needs: it has neither transformers nor the model."""
    end = tokenizer.eos_token_id
    vocabulary = Vocabulary(tokenizer, [end])
    tokens = {str(id): vocabulary.bytes_of(id).hex() for id in range(len(tokenizer)) if id != end}
    return {"tokens": tokens, "end": end, "schema": SCHEMA, "ids": ids}


if __name__ == "__main__":
    main()
