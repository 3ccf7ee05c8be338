"""What `SmoLoRA` does around the daemon: starts one, finds names and places, puts folders in the place of others."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import smolora
from smolora import SmoLoRA, lora
from smolora._channel import Address
from smolora._spawn_daemon import launch
from tests.house.repository import run


@pytest.fixture
def ended(home: Path) -> Iterator[Path]:
    """A home whose daemon, if one was started there, is ended."""
    yield home
    if Address.find(None).answers():
        with smolora.Client() as client:
            process = psutil.Process(client.status().pid)
            client.shutdown(grace=1.0)
        assert process.wait(30) in (0, None)


def test_a_daemon_is_started_where_none_runs_and_its_start_is_told(
    ended: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(smolora.NotFound, match=r"gone is not a model's folder"):
        SmoLoRA(tmp_path / "gone", ["a text"], output_dir=tmp_path / "out")
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    with smolora.Client() as client:
        pid = client.status().pid
    assert f"end it with `kill {pid}`" in told.getMessage()
    assert str(ended / "smolorad.log") in told.getMessage()
    assert (ended / "smolorad.log").read_text()
    assert os.getsid(pid) == pid, "Ctrl-C in this terminal is not meant for it"
    caplog.clear()
    with pytest.raises(smolora.NotFound):
        SmoLoRA(tmp_path / "gone", ["a text"], output_dir=tmp_path / "out")
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == [], "the second finds it there"
    with smolora.Client() as client:
        assert client.status().pid == pid


def test_a_daemon_is_started_at_a_socket_of_ones_own(home: Path, short_path: Path) -> None:
    process, _ = launch(Address.find(short_path / "own.sock"))
    with smolora.Client(short_path / "own.sock") as client:
        assert client.status().pid == process
        client.shutdown(grace=1.0)
    psutil.Process(process).wait(30)


def test_no_daemon_is_started_where_that_is_forbidden(home: Path) -> None:
    with pytest.raises(smolora.DaemonNotRunning, match="smolorad serve"):
        SmoLoRA("starter", ["a text"], start_daemon=False)
    assert not home.exists()


def test_a_daemon_that_does_not_come_up_tells_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOLORA_DTYPE", "float7")
    with pytest.raises(smolora.DaemonNotRunning, match=r"The daemon did not start: .*float7.* Its log is .*smolorad\.log\."):
        SmoLoRA("starter", ["a text"])


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("fine_tuned_model", "fine_tuned_model"),
        ("My Model, 2nd try", "my-model-2nd-try"),
        ("_.-x", "x"),
        ("日本", "smolora"),
        ("a" * 80, "a" * 64),
    ],
)
def test_the_output_folder_gives_the_names_in_the_daemon(folder: str, name: str) -> None:
    assert lora._daemon_name(Path("/some") / folder) == name


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    for content in ("one", "two"):
        with lora._replaced(final) as new:
            new.mkdir()
            (new / content).write_text(content)
        assert [path.name for path in final.iterdir()] == [content]
    with pytest.raises(OSError, match="full"), lora._replaced(final) as new:  # noqa: PT012 - it fails half-way
        new.mkdir()
        raise OSError("full")
    assert [path.name for path in final.iterdir()] == ["two"]
    assert [path.name for path in final.parent.iterdir()] == ["final"]


def test_what_stood_in_the_folder_s_place_goes_whatever_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "final").symlink_to(tmp_path / "kept")
    with lora._replaced(tmp_path / "final") as new:
        new.mkdir()
    assert not (tmp_path / "final").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "kept"]


def test_a_name_stays_a_name_and_a_folder_becomes_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    for name in ("starter", "owner/name", "my-model"):
        assert lora._model_reference(name) == name
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "config.json").write_text("{}")
    assert lora._model_reference("owner/name") == str(tmp_path / "owner" / "name")


def test_the_end_of_a_phase_is_logged_also_where_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(smolora.BadState), lora._phase("Saving"):
        raise smolora.BadState("There is nothing to save.")
    begins, ends = (record.getMessage() for record in caplog.records)
    assert begins == "Saving begins."
    assert ends.startswith("Saving failed after ")


def test_an_empty_prompt_is_told_as_that() -> None:
    trainer = SmoLoRA.__new__(SmoLoRA)  # what it is made with is not asked for
    trainer._closed = False
    with pytest.raises(smolora.InvalidRequest, match="The prompt is empty; give at least one character"):
        trainer.inference("")


def test_importing_stays_light() -> None:
    heavy = ("grpc", "google.protobuf", "rich", "torch", "datasets", "pyarrow", "numpy", "asyncio")
    code = f"import sys, smolora, smolora.datasets; sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    assert run([sys.executable, "-c", code]).returncode == 0
    code = (
        code.replace("smolora.datasets;", "smolora.lora;").replace("'grpc', 'google.protobuf', ", "").replace(", 'asyncio'", "")
    )
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stdout) == (0, "")
