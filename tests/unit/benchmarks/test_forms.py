"""What the benchmark of response formats measures in its own process."""

from __future__ import annotations

import json

import numpy as np

from benchmarks.forms import ANSWER, held
from tests.tiny import tiny_tokenizer


def test_the_grammar_is_timed_with_the_arrays_that_the_engine_has() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(json.dumps(ANSWER, ensure_ascii=False), add_special_tokens=False)
    logits = np.random.default_rng(0).standard_normal(len(tokenizer), dtype=np.float32)
    assert all(seconds > 0 for seconds in held(tokenizer, ids, logits).values())
