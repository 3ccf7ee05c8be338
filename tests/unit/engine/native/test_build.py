"""The compiled step: built once, and done without where it cannot be built."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from smolorad.engine.native import build
from smolorad.engine.native.build import library, train_library
from smolorad.engine.native.library import Format


@pytest.fixture(autouse=True)
def _compiled_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    # To optimise takes seconds, and every other test runs what is optimised.
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-O0"))


def test_it_is_built_once(tmp_path: Path) -> None:
    assert library(tmp_path, 1) is not None
    (built,) = (tmp_path / "native").iterdir()
    before = built.stat()
    assert library(tmp_path, 1) is not None
    assert built.stat() == before


def test_what_trains_is_built_when_it_is_wanted(tmp_path: Path) -> None:
    assert library(tmp_path, 1) is not None
    for number, format in enumerate((Format.FP32, Format.BF16)):
        loaded = train_library(tmp_path, format)
        assert loaded is not None
        assert loaded.smolora_trains() in {0, 1}
        assert len(list((tmp_path / "native").iterdir())) == 2 + number


def test_without_a_compiler_torch_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert library(tmp_path, 1) is None
    assert "C compiler" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "bin" / "cc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'no such processor' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/bin:/usr/bin")
    assert library(tmp_path / "cache", 1) is None
    assert "no such processor" in caplog.text
    assert list((tmp_path / "cache" / "native").iterdir()) == []


def test_a_damaged_library_is_built_again(tmp_path: Path) -> None:
    assert library(tmp_path / "one", 1) is not None
    (built,) = (tmp_path / "one" / "native").iterdir()
    damaged = tmp_path / "other" / "native" / built.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no library")
    assert library(tmp_path / "other", 1) is not None
