"""Any rows of a prepared dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.corpus.preview import preview
from smolorad.corpus.write import data_file, split_writer
from smolorad.errors import Damaged, NotFound

ROWS = [f"row {n}" for n in range(2500)]  # more than two batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    with split_writer(folder, "train") as writer:
        for text in ROWS:
            writer.append(text)
    return folder


def test_rows_of_any_batch_are_found(dataset: Path) -> None:
    @settings(deadline=None)
    @given(st.integers(0, 3000), st.integers(1, 1500))
    def agrees(offset: int, limit: int) -> None:
        assert preview(dataset, "train", offset, limit) == (ROWS[offset : offset + limit], len(ROWS))

    agrees()


def test_long_rows_are_cut(tmp_path: Path) -> None:
    with split_writer(tmp_path, "validation") as writer:
        writer.append("ä" * 5000)
    assert preview(tmp_path, "validation", 0, 5) == (["ä" * 4096], 1)


def test_a_missing_split_and_a_torn_file_are_told(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(NotFound, match=r"no split validation; .* read the split train"):
        preview(dataset, "validation", 0, 1)
    torn = data_file(tmp_path, "train")
    torn.parent.mkdir()
    content = data_file(dataset, "train").read_bytes()
    for kept in (0, 100, len(content) // 2):
        torn.write_bytes(content[:kept])
        with pytest.raises(Damaged, match="prepare the dataset again"):
            preview(tmp_path, "train", 0, 1)
