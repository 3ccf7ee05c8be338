"""An adapter's folder that is damaged in any way is attached as it was, or refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.domain import Dtype
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.worker.adapter_check import check_adapter
from smolorad.engine.worker.merge import merge
from smolorad.errors import Damaged
from smolorad.jobs.peft_folder import copy_adapter, read_lora
from smolorad.portable import Source
from smolorad.publish import MANIFEST, publish
from tests.mutations import Mutation, contained, copied, damage, mutations
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, make_adapter, spec

FILES = ("adapter_config.json", "adapter_model.safetensors")

# Libraries warn of what they find strange, each in its own words.
pytestmark = [
    pytest.mark.hypothesis,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's folder."""
    return tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def bases(model: Path, shared_cache: Path) -> Iterator[tuple[BaseModel, BaseModel]]:
    """The base without torch, and by transformers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared_cache))
        light = load(model, "tiny", dtype=Dtype.FLOAT32, hardware=Hardware(cpu_bfloat16=True))
        yield light, load(model, "tiny", dtype=Dtype.FLOAT32)


@pytest.fixture(scope="module", params=[{}, {"use_dora": True, "rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj"]}])
def adapter(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that the native step reads, or PEFT alone; published."""
    stage = make_adapter(model, tmp_path_factory.mktemp("adapter") / "stage", **request.param)
    shutil.rmtree(stage / "README.md", ignore_errors=True)
    (stage / "README.md").unlink(missing_ok=True)
    publish(stage, stage.parent / "1", {"base_fingerprint": "", "name": "a"})
    return stage.parent / "1"


def attached(base: BaseModel, folder: Path) -> object:
    adapter = AdapterRegistry(base).attach("a@1", folder)
    return finish(begin(base, spec("The quick brown fox", max_tokens=2), adapter))


def test_one_of_the_users_own(
    adapter: Path, bases: tuple[BaseModel, BaseModel], where: Path, model: Path, tmp_path: Path
) -> None:
    def work(copy: Path, use: str) -> object:
        match use:
            case "light" | "whole":
                return attached(bases[use == "whole"], copy)
            case "merge":
                return merge(model, copy, tmp_path / "merged", prompts=["The quick"])
            case "check":
                return check_adapter(model, "tiny", copy)
        shutil.rmtree(tmp_path / "imported", ignore_errors=True)
        read_lora(copy)
        return copy_adapter(copy, tmp_path / "imported", Source("owner/name"))

    @damage(120)
    @given(mutations(adapter, FILES), st.sampled_from(["light", "light", "whole", "whole", "check", "import", "merge"]))
    def run(mutation: Mutation, use: str) -> None:
        with copied(adapter, where) as copy:
            (copy / MANIFEST).unlink()
            mutation.apply(copy)
            contained(lambda: work(copy, use))

    run()


def test_one_that_was_published_here(adapter: Path, bases: tuple[BaseModel, BaseModel], where: Path) -> None:
    whole = {name: (adapter / name).read_bytes() for name in FILES}

    @damage(60)
    @given(mutations(adapter))
    def run(mutation: Mutation) -> None:
        with copied(adapter, where) as copy:
            mutation.apply(copy)
            refused = contained(lambda: attached(bases[0], copy))
            if mutation.file in whole and mutation.content != whole[mutation.file]:
                assert refused is not None, mutation
            if (
                mutation.file in whole
                and mutation.content
                and not mutation.as_folder
                and mutation.content != whole[mutation.file]
            ):
                assert isinstance(refused, Damaged), mutation

    run()
