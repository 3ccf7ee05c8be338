"""A dataset as a folder that plain `datasets.load_from_disk` reads: a DatasetDict with one column, `text`.

The few small files beside the Arrow data are written here, not by `datasets`: its import takes longer than most preparations,
and `save_to_disk` wants a dataset that stands in a file or in memory already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smolorad.corpus.arrow import FEATURES, TextWriter

TRAIN, VALIDATION = "train", "validation"
_DATA = "data-00000-of-00001.arrow"


@contextmanager
def split_writer(dataset: Path, split: str) -> Iterator[TextWriter]:
    """A writer of one split's rows; the split can be loaded when the block has ended."""
    folder = dataset / split
    folder.mkdir()
    with TextWriter(folder / _DATA) as writer:
        yield writer
    with (folder / _DATA).open("rb") as data:
        # `datasets` keys its caches by it, so the same rows get the same one.
        fingerprint = hashlib.file_digest(data, "sha256").hexdigest()[:16]
    state: dict[str, Any] = {
        "_data_files": [{"filename": _DATA}],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    _write_json(folder / "state.json", state)
    _write_json(
        folder / "dataset_info.json", {"citation": "", "description": "", "features": FEATURES, "homepage": "", "license": ""}
    )


def write_splits(dataset: Path, splits: list[str]) -> None:
    """Names the splits; the last file of a dataset."""
    _write_json(dataset / "dataset_dict.json", {"splits": splits})


def data_file(dataset: Path, split: str) -> Path:
    """Where a split's rows stand."""
    return dataset / split / _DATA


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
