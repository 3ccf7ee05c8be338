"""What a client sends for a model: names and hub ids as they are, paths made absolute."""

from __future__ import annotations

from pathlib import Path

import pytest

import smolora
from smolora._references import model_reference
from smolora._settings import enum_name
from smolora.v1 import common_pb2


def test_a_gguf_file_in_a_folder_below_is_a_path_also_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.gguf").touch()
    assert model_reference("models/mistyped.gguf") == str(tmp_path / "models" / "mistyped.gguf")
    assert model_reference("here.gguf") == str(tmp_path / "here.gguf")
    for name in ("mine.gguf", "owner/name", "owner/name-GGUF", "https://host/model.gguf"):
        assert model_reference(name) == name


def test_a_choice_that_is_not_known_is_named_by_its_keyword() -> None:
    with pytest.raises(smolora.InvalidRequest, match=r"^kv_dtype 'int3' is not known; choose one of bfloat16, int8"):
        enum_name(common_pb2.KvDtype, "int3")
