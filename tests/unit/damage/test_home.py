"""A home with damaged files opens: what cannot be read is passed over or refused in one sentence, and the rest is there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file

from smolorad import publish
from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.engine.train.checkpoint import Checkpoints, Identity, RunState
from smolorad.errors import Damaged
from smolorad.jobs.peft_folder import name_base
from smolorad.paths import Home
from smolorad.portable import Source, remove_paths, source_of
from smolorad.store.database import Database
from smolorad.store.library import Library
from smolorad.store.recover import adopt
from tests.mutations import Mutation, contained, copied, damage, mutations
from tests.unit.store.test_library import adapter, dataset, model

pytestmark = pytest.mark.hypothesis


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one folder of each kind."""
    root = tmp_path_factory.mktemp("home") / "home"
    for place, item in (
        ("datasets/d/1", dataset("d", 1)),
        ("adapters/a/1", adapter("a", 1)),
        ("models/m", model("m")),
    ):
        stage = root.with_name("stage")
        stage.mkdir()
        (stage / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/somewhere/m", "r": 4}))
        about = {name: value for name, value in msgspec.to_builtins(item).items() if name != "path"}
        publish.publish(stage, root / place, about)
    return root


async def adopted(folder: Path) -> int:
    home = Home(folder)
    async with Database.open(folder / "smolora.db") as database:
        return await adopt(home, Library(database))


def test_any_manifest(home: Path, where: Path) -> None:
    @damage(80)
    @given(mutations(home))
    def run(mutation: Mutation) -> None:
        with copied(home, where) as copy:
            mutation.apply(copy)
            found: list[int] = []
            assert contained(lambda: found.append(asyncio.run(adopted(copy)))) is None
            assert found[0] >= 2
            for folder in (copy / "datasets/d/1", copy / "adapters/a/1", copy / "models/m"):
                contained(lambda folder=folder: publish.verify(folder))  # type: ignore[misc]
                source_of("/somewhere/m", folder)
                remove_paths(folder)
                if (folder / "adapter_config.json").is_file():
                    name_base(folder, Source("owner/name"))

    run()


def test_any_file_of_a_checkpoint(tmp_path: Path, where: Path) -> None:
    identity = Identity("s", "d", "b")
    whole = tmp_path / "whole"
    checkpoints = Checkpoints(whole, identity, {"torch": "1"})
    for step in (1, 2):
        stage = tmp_path / "stage"
        stage.mkdir()
        save_file({"a": torch.ones(2)}, stage / "adapter_model.safetensors")
        (stage / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        checkpoints.publish(stage, step, RunState(loss_sum=1.0))
    names = [f"2/{path.name}" for path in (whole / "2").iterdir()]

    @damage(80)
    @given(mutations(whole, names))
    def run(mutation: Mutation) -> None:
        with copied(whole, where) as copy:
            mutation.apply(copy)
            steps: list[int] = []

            def work() -> None:
                found = Checkpoints(copy, identity, {}).newest()
                steps.append(found.step if found is not None else 0)

            if contained(work) is None:
                assert steps[0] in (1, 2)
                publish.verify(copy / str(steps[0]))

    run()


def test_a_parent_or_a_dataset_that_is_damaged(home: Path, where: Path) -> None:
    """A run that continues from other files than were published would be another run."""
    whole = home / "adapters/a/1"

    @damage(40)
    @given(mutations(whole))
    def run(mutation: Mutation) -> None:
        with copied(whole, where) as copy:
            mutation.apply(copy)
            refused = contained(lambda: Identity.of(LoraSettings(), TrainerSettings(), copy, "", copy))
        if mutation.file != publish.MANIFEST and mutation.content != (whole / mutation.file).read_bytes():
            assert isinstance(refused, Damaged)

    run()
