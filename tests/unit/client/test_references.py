"""What a client sends for a model: names and hub ids as they are, paths made absolute."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolora._references import model_reference


def test_a_gguf_file_in_a_folder_below_is_a_path_also_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.gguf").touch()
    assert model_reference("models/mistyped.gguf") == str(tmp_path / "models" / "mistyped.gguf")
    assert model_reference("here.gguf") == str(tmp_path / "here.gguf")
    for name in ("mine.gguf", "owner/name", "owner/name-GGUF", "https://host/model.gguf"):
        assert model_reference(name) == name
