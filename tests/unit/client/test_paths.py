"""Where the daemon and its clients look for each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import smolora
from smolora.common import paths
from smolorad.config import Settings
from smolorad.errors import InvalidRequest

UNKNOWN = "~nobody-of-that-name/place"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no XDG_RUNTIME_DIR")
@pytest.mark.parametrize("run", ["", "run", "./run"])
def test_a_runtime_folder_that_is_empty_or_relative_does_not_count(tmp_path: Path, run: str) -> None:
    assert paths.socket_path({"XDG_RUNTIME_DIR": run}) == paths.socket_path({})
    assert paths.socket_path({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "smolora" / "smolorad.sock"


@pytest.mark.parametrize("variable", ["SMOLORA_HOME", "SMOLORA_SOCKET"])
def test_a_home_folder_of_no_user_is_said(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("SMOLORA_SOCKET", raising=False)
    monkeypatch.setenv(variable, UNKNOWN)
    with pytest.raises(smolora.InvalidRequest, match=UNKNOWN):
        smolora.Client()
    with pytest.raises(InvalidRequest, match=UNKNOWN):
        Settings.resolve({}, os.environ)


def test_files_in_a_home_folder_of_no_user_are_not_there(tmp_path: Path) -> None:
    with smolora.Client(tmp_path / "no.sock") as client:
        for call in (lambda: client.upload(UNKNOWN), lambda: client.import_adapter(UNKNOWN, "a")):
            with pytest.raises(smolora.NotFound, match="nobody-of-that-name"):
                call()
        with pytest.raises(smolora.InvalidRequest, match="nobody-of-that-name"):
            client.load(UNKNOWN)
