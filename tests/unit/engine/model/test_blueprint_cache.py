"""A blueprint that is not of the files in the folder is neither kept nor used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from smolora.common.paths import cache_path
from smolorad.domain import Dtype
from smolorad.engine.model import blueprint_builder, blueprint_cache
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.runtime.device import Hardware
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, spec

pytestmark = pytest.mark.usefixtures("own_cache")


def light(folder: Path) -> BaseModel:
    """A model as it is loaded where nobody has imported torch yet, if it can be."""
    return load(folder, dtype=Dtype.FLOAT32, hardware=Hardware())


def answer(base: BaseModel) -> str:
    return finish(begin(base, spec("The quick brown", max_tokens=8)))[0]


def test_files_that_change_while_a_blueprint_is_made_leave_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model")
    config = folder / "config.json"
    before = config.read_text()
    write = blueprint_builder.write

    def late(*arguments: Any) -> None:
        config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 1.0}))
        write(ModelFolder.open(folder), *arguments[1:])

    with monkeypatch.context() as patched:
        patched.setattr(blueprint_builder, "write", late)
        light(folder)
    config.write_text(before)
    assert answer(light(folder)) == answer(load(folder, dtype=Dtype.FLOAT32))


@pytest.mark.parametrize(
    "change",
    [
        {"end_ids": [-1]},
        {"sources": {}},
        {"sources": {"model.embed_tokens.weight": ["nowhere"]}},
        {"sources": {"model.embed_tokens.weight": ["model.norm.weight"]}},
    ],
)
def test_a_blueprint_of_other_files_is_no_obstacle(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "model")
    light(folder)
    found = blueprint_cache.find(ModelFolder.open(folder), Dtype.FLOAT32, cache_path())
    assert found is not None
    blueprint, cached = found
    if change.get("sources"):
        change = {"sources": {**blueprint.sources, **change["sources"]}}
    changed = dataclasses.replace(blueprint, **change), cached
    monkeypatch.setattr(blueprint_cache, "find", lambda *_: changed)
    assert light(folder).runner is not None


def test_other_code_has_other_blueprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = ModelFolder.open(tiny_model(tmp_path / "model")), tmp_path / "describe.py"
    key = blueprint_cache.key_of(folder, Dtype.FLOAT32)
    other.write_text("")
    monkeypatch.setattr(blueprint_cache, "_WRITERS", (other, *blueprint_cache._WRITERS[1:]))
    assert blueprint_cache.key_of(folder, Dtype.FLOAT32) != key
