"""What a training imports is there before anybody waits for it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from smolora.v1 import common_pb2
from smolorad.engine.train.warmup import WarmUp
from smolorad.link.v1 import link_pb2 as pb
from tests.engine_process import engine_process


def test_it_is_done_once_and_waited_for() -> None:
    done: list[str] = []
    early = WarmUp(lambda: done.append(threading.current_thread().name))
    early.wait()
    assert done == []
    early.start()
    early.start()
    early.wait()
    assert done == ["warm-up"]


def test_what_cannot_be_imported_is_told_by_who_needs_it(caplog: pytest.LogCaptureFixture) -> None:
    early = WarmUp(lambda: importlib.import_module("smolorad.engine.nowhere") and None)
    early.start()
    early.wait()
    assert "nowhere" in caplog.text


def test_a_training_finds_everything_there() -> None:
    code = (
        "import gc, sys\nfrom smolorad.domain import Dtype\nfrom smolorad.engine.train.warmup import prepare_training\n"
        "prepare_training(Dtype.FLOAT32)\nbefore = set(sys.modules)\n"
        "import smolorad.engine.train.run, smolorad.engine.model.to_transformers, smolorad.engine.adapters.peft\n"
        "assert set(sys.modules) == before and gc.isenabled()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_engine_answers_at_once_and_while_it_imports(llama_folder: Path) -> None:
    with engine_process() as engine:
        fp32 = {"device": common_pb2.DEVICE_CPU, "dtype": common_pb2.DTYPE_FLOAT32}
        assert engine.load(llama_folder, **fp32).WhichOneof("body") == "resident"
        assert engine.call(expect_training=pb.ExpectTraining()).WhichOneof("body") == "done"
        assert engine.call(expect_training=pb.ExpectTraining()).WhichOneof("body") == "done"
        *_, last = engine.events(engine.send(generate=pb.Generate(request={"prompt": "A"})))
        assert last.WhichOneof("body") == "outcome"
