"""Tiny models, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from smolorad.engine.base import Base
from tests.tiny import tiny_model
from tests.unit.engine.kit import fp32_base


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a chat template."""
    return tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Base:
    """The same, resident in fp32 on the CPU."""
    return fp32_base(llama_folder)
