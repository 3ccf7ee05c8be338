"""What a training imports is there before anybody waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smolora.v1 import common_pb2
from smolorad.engine.early import EarlyImports
from smolorad.link.v1 import link_pb2 as pb
from tests.engine_process import engine_process


def test_modules_are_imported_once_in_the_background(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("print('imported', flush=True)")
    code = (
        "from smolorad.engine.early import EarlyImports\n"
        "early = EarlyImports('slow')\nearly.wait()\nearly.start()\nearly.start()\nearly.wait()\n"
        "import sys, gc; assert 'slow' in sys.modules and gc.isenabled()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_what_cannot_be_imported_is_told_by_who_needs_it(caplog: pytest.LogCaptureFixture) -> None:
    early = EarlyImports("smolorad.engine.nowhere")
    early.start()
    early.wait()
    assert "nowhere" in caplog.text


def test_the_engine_answers_at_once_and_while_it_imports(llama_folder: Path) -> None:
    with engine_process() as engine:
        fp32 = {"device": common_pb2.DEVICE_CPU, "dtype": common_pb2.DTYPE_FLOAT32}
        assert engine.load(llama_folder, **fp32).WhichOneof("body") == "resident"
        assert engine.call(expect_training=pb.ExpectTraining()).WhichOneof("body") == "done"
        assert engine.call(expect_training=pb.ExpectTraining()).WhichOneof("body") == "done"
        *_, last = engine.events(engine.send(generate=pb.Generate(request={"prompt": "A"})))
        assert last.WhichOneof("body") == "outcome"
