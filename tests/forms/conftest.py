"""The tiny models that answer by forms, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.model.base_model import BaseModel
from tests.tiny import tiny_model
from tests.unit.engine.kit import fp32_base, make_adapter


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), max_position_embeddings=2048)


@pytest.fixture(scope="session")
def base(folder: Path) -> BaseModel:
    return fp32_base(folder)


@pytest.fixture(scope="session")
def adapter(base: BaseModel, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    return AdapterRegistry(base).attach("tuned@1", make_adapter(folder, tmp_path_factory.mktemp("adapters") / "tuned"))
