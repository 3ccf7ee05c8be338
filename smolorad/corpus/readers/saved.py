"""A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow

from smolora._text.rows import Records, quoted
from smolorad.corpus.foreign import first_line
from smolorad.corpus.readers.tables import rows_of
from smolorad.domain import Note
from smolorad.errors import BadData

_BATCH_ROWS = 1000


def open_saved(folder: Path, tell: Callable[[Note], None]) -> Any:
    """The `datasets.Dataset` in a folder, memory-mapped: its split `train`, or the only one it has; tells what it leaves out.

    Raises BadData where the folder is damaged, has other files in mind than its own, or has several splits but no `train`.
    """
    try:
        for state in folder.rglob("state.json"):
            _check_files(state)
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        raise BadData(
            f"The saved dataset {folder.name} cannot be read ({type(error).__name__}: {first_line(error)}); "
            "save it again with save_to_disk, and send the whole folder."
        ) from error
    return saved if isinstance(saved, datasets.Dataset) else _only_split(saved, tell)


def read_dataset(dataset: Any, name: str, check: Callable[[Sequence[str]], str | None]) -> Records:
    """The rows of a `datasets.Dataset`; `name` names it in rows and problems, a line is a row from 1.

    `check` tells why columns will not do; raises BadData for that.
    """
    if (why := check(dataset.column_names)) is not None:
        raise BadData(f"{name} {why}.")
    number = 1
    plain = [column for column, kind in dataset.features.items() if not hasattr(kind, "decode_example")]
    for batch in dataset.select_columns(plain).with_format("arrow").iter(_BATCH_ROWS):
        yield from rows_of(batch, name, number)
        number += batch.num_rows


def _check_files(state: Path) -> None:
    """`state.json` names the data files; an uploaded one may name those beside it only."""
    for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]:
        data = state.parent / entry["filename"]
        if data.parent != state.parent or not data.is_file():
            raise ValueError(f"there is no file {entry['filename']!r} beside its state.json")


def _only_split(saved: Any, tell: Callable[[Note], None]) -> Any:
    if "train" in saved:
        if others := [split for split in saved if split != "train"]:
            tell(Note(f"Left out, as only the split 'train' is read: {quoted(others)}."))
        return saved["train"]
    if len(saved) == 1:
        return next(iter(saved.values()))
    raise BadData(f"The saved dataset has no split 'train': its splits are {quoted(list(saved))}; save the one you want.")
