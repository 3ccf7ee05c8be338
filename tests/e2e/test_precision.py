"""A precision chosen at loading, through the daemon, on the starter model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import daemon_process

PROMPT = "The capital of France is"
pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def client() -> Iterator[smolora.Client]:
    with daemon_process(SMOLORA_DTYPE="bfloat16") as daemon, smolora.Client(daemon.socket) as client:
        yield client


def test_each_precision_answers_and_is_told(client: smolora.Client, starter_model: Path) -> None:
    told = {}
    for precision in ("exact", "int8", "int4"):
        resident = client.load(starter_model, precision=precision, keep_alive=-1).result()
        generation = client.generate(PROMPT, max_tokens=12, temperature=0)
        text = generation.text()
        status = client.status()
        assert status.resident == resident
        assert status.tokens_per_second > 0
        assert resident.precision == precision
        assert resident.memory_bytes == (resident.weight_bytes if precision == "exact" else resident.token_bytes)
        told[precision] = (text, resident.token_bytes, resident.weight_bytes)
    assert told["exact"][1] == pytest.approx(told["exact"][2], rel=0.001)  # the norms are not among them
    assert told["int8"][1] < 0.54 * told["exact"][1]
    assert told["int4"][1] < 0.37 * told["exact"][1]
    assert "Paris" in told["exact"][0]
    assert "Paris" in told["int8"][0]
