"""Any rows of a prepared dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolorad.corpus.prepare import prepare
from smolorad.corpus.preview import preview
from smolorad.corpus.write import data_file
from smolorad.domain import PrepareSpec, Preview, PreviewRow, RowSpan
from smolorad.errors import Damaged, NotFound
from tests.unit.corpus.kit import Recorder, fill

SPEC = PrepareSpec("d", upload_id="u", validation=0.0)

ROWS = [f"row {n}" for n in range(2500)]  # more than two batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    written(folder, ROWS)
    return folder


def written(folder: Path, texts: list[str]) -> None:
    """A prepared dataset of these texts."""
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    prepare(fill(folder / "in", {"a.jsonl": content}), SPEC, None, folder / "out", Recorder())


def test_rows_of_any_batch_are_found(dataset: Path) -> None:
    @settings(deadline=None)
    @given(st.integers(0, 3000), st.integers(1, 1500))
    def agrees(offset: int, limit: int) -> None:
        shown = preview(dataset / "out", "train", offset, limit)
        assert (list(shown.rows), shown.total_rows) == (ROWS[offset : offset + limit], len(ROWS))
        assert ["".join(span.text for span in row.spans) for row in shown.shown] == list(shown.rows)

    agrees()


def test_long_rows_are_cut(tmp_path: Path) -> None:
    written(tmp_path, ["ä" * 5000])
    shown = preview(tmp_path / "out", "train", 0, 5)
    assert shown == Preview(("ä" * 4096,), 1, (PreviewRow((RowSpan("ä" * 4096, True),)),))


def test_a_missing_split_and_a_torn_file_are_told(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(NotFound, match=r"no split validation; .* read the split train"):
        preview(dataset / "out", "validation", 0, 1)
    torn = data_file(tmp_path, "train")
    torn.parent.mkdir()
    content = data_file(dataset / "out", "train").read_bytes()
    for kept in (0, 100, len(content) // 2):
        torn.write_bytes(content[:kept])
        with pytest.raises(Damaged, match="prepare the dataset again"):
            preview(tmp_path, "train", 0, 1)
