"""Names of models that mean none: the message says how a name, a folder and a file are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolorad.errors import InvalidRequest, NotFound
from tests.unit.residency.conftest import Desk

_AS_PATH = r"; a folder or a GGUF file is given as \./NAME or by its absolute path"


async def test_a_name_that_is_not_in_the_home_may_have_been_meant_as_a_path(desk: Desk) -> None:
    with pytest.raises(NotFound, match=r"There is no model 'folder', nor any other yet; .*" + _AS_PATH + r"\.$"):
        await desk.resolver.check("folder")


@pytest.mark.parametrize("given", ["Model-Q4_0", "Model.Q4_0.gguf", "a/b/c"])
async def test_what_is_neither_a_name_nor_a_hub_id_may_have_been_meant_as_a_path(given: str, desk: Desk) -> None:
    with pytest.raises(InvalidRequest, match=f"{given!r} is no name of a model, and no hub id" + _AS_PATH) as raised:
        await desk.resolver.check(given)
    assert [violation.field for violation in raised.value.violations] == ["model"]


async def test_a_folder_without_a_model_and_a_file_that_is_none(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(NotFound, match=r"has neither config\.json nor a GGUF file"):
        await desk.resolver.check(str(tmp_path / "empty"))
    with pytest.raises(NotFound, match=r"name a \*\.gguf file, or the folder that has config\.json"):
        await desk.resolver.check(str(tmp_path / "rows.jsonl"))
