"""A prompt that a daemon has seen is not computed again: after an unloading, a time without requests and a restart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import smolora
from smolora.common.paths import cache_path
from tests.daemon_process import daemon_process
from tests.tiny import tiny_model

PROMPT = "A daemon keeps the model in memory; an adapter is trained on it and answers at once. " * 11


def ask(client: smolora.Client, **more: object) -> tuple[str, int]:
    """The answer, and how much of the prompt was not computed."""
    generation = client.generate(PROMPT, max_tokens=6, temperature=0.0, **more)  # type: ignore[arg-type]
    text = generation.text()
    assert generation.outcome is not None
    return text, generation.outcome.usage.remembered_tokens


def test_a_prompt_outlives_the_engine_and_the_daemon(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        (own_cache / "blueprints").symlink_to(cache_path() / "blueprints")
    settings = {"SMOLORA_DTYPE": "float32", "SMOLORA_DEVICE": "cpu", "SMOLORA_PREFIX_CACHE_DISK_BYTES": str(2**27)}
    model = tiny_model(tmp_path / "model")
    with daemon_process(**settings) as daemon:
        with smolora.Client(daemon.socket) as client:
            client.load(model).result()
            first, seen = ask(client)
            assert seen == 0
            client.unload()
            assert ask(client) == (first, 307)
            ask(client, keep_alive=0.0)  # then the model is not needed any more
            end = time.monotonic() + 30
            while "unloading idle model" not in daemon.log.read_text():
                assert time.monotonic() < end
                time.sleep(0.02)
            assert ask(client) == (first, 307)
        daemon.stop()
        daemon.start()
        with smolora.Client(daemon.socket) as client:
            assert ask(client) == (first, 307)
        assert "MB on disk" in daemon.tail(200)
    assert len(list((own_cache / "prefixes").glob("*/*.kv"))) == 3
