"""Prompts that an engine has seen are there for the next one, after it was drained or killed, and after another model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smolora.common.paths import cache_path
from smolora.v1 import common_pb2, generation_pb2
from smolorad.engine.generate.prefix_store import FOLDER
from smolorad.link.child import PREFIX_CACHE_FLAG
from smolorad.link.v1 import link_pb2 as pb
from tests.engine_process import EngineProcess, engine_process
from tests.tiny import tiny_model
from tests.unit.engine.kit import make_adapter

FP32 = {"device": common_pb2.DEVICE_CPU, "dtype": common_pb2.DTYPE_FLOAT32}
PROMPT = "A daemon keeps the model in memory; an adapter is trained on it and answers at once. " * 11
LIMIT = (PREFIX_CACHE_FLAG, str(2**27))


@pytest.fixture
def prefixes(own_cache: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of prefixes in a cache of the test's own, which has the user's blueprints."""
    with monkeypatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        (own_cache / "blueprints").symlink_to(cache_path() / "blueprints")
    return own_cache / FOLDER


def ask(engine: EngineProcess, prompt: str = PROMPT, adapter: Path | None = None) -> tuple[list[int], int]:
    """The tokens of an answer, and how much of its prompt was not computed."""
    sampling = generation_pb2.Sampling(temperature=0.0, max_tokens=6)
    command = pb.Generate(request=generation_pb2.GenerateRequest(prompt=prompt, sampling=sampling))
    if adapter is not None:
        command.adapter.CopyFrom(pb.AdapterFolder(key="a@1", path=str(adapter)))
    outcome = engine.call(generate=command).outcome
    return list(outcome.token_ids), outcome.usage.remembered_tokens


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_after_a_drain_a_kill_and_another_model(prefixes: Path, llama_folder: Path, tmp_path: Path) -> None:
    other, adapter = tiny_model(tmp_path / "other", seed=1), make_adapter(llama_folder, tmp_path / "adapter")
    with engine_process(*LIMIT) as engine:
        engine.load(llama_folder, **FP32)
        tokens, remembered = ask(engine)
        assert remembered == 0
        until(lambda: len(list(prefixes.glob("*/*.kv"))) == 3)  # while it has nothing else to do
        engine.load(other, **FP32)
        assert ask(engine)[1] == 0
        engine.load(llama_folder, **FP32)
        again, seen = ask(engine)
        assert (again, seen) == (tokens, 307)
        adapted = ask(engine, adapter=adapter)[0]
        engine.drain()
        assert engine.process.wait(30) == 0
    with engine_process(*LIMIT) as engine, engine_process(*LIMIT) as second:
        for one in (engine, second):
            one.load(llama_folder, **FP32)
            assert ask(one) == (tokens, 307)
            assert ask(one, adapter=adapter) == (adapted, 307)
        ask(engine, "Another " + PROMPT)
        until(lambda: len(list(prefixes.glob("*/*.kv"))) >= 12)
        engine.process.kill()
        assert ask(second, "Another " + PROMPT)[1] > 250


def test_without_the_setting_nothing_is_written(prefixes: Path, llama_folder: Path) -> None:
    with engine_process() as engine:
        engine.load(llama_folder, **FP32)
        ask(engine)
        engine.drain()
        assert engine.process.wait(30) == 0
    assert not prefixes.exists()
