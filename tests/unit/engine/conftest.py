"""Tiny models, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smolorad.engine.model.base_model import BaseModel
from tests.tiny import tiny_model
from tests.unit.engine.kit import fp32_base


@pytest.fixture(autouse=True)
def _one_thread_for_tiny_models(request: pytest.FixtureRequest) -> Iterator[None]:
    """Two threads that share a tiny product spend their time waiting for each other, the more so on a busy machine."""
    threads = torch.get_num_threads()
    if request.node.get_closest_marker("model") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a chat template."""
    return tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> BaseModel:
    """The same, resident in fp32 on the CPU."""
    return fp32_base(llama_folder)
