"""A folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow

from smolora.common.text.rows import Records, quoted
from smolorad.corpus.named_splits import TRAIN, VALIDATION, split_named
from smolorad.corpus.notes import rows_spoken
from smolorad.corpus.readers.tables import Select, parts_of, rows_of
from smolorad.corpus.unfit import Unfit
from smolorad.domain import Note
from smolorad.errors import BadData, first_line

_BATCH_ROWS = 1000
# What `datasets` raises for files that are not what it wrote: it checks nothing, and stumbles somewhere.
_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    pyarrow.ArrowException,
)


class Split(NamedTuple):
    """A split that is read: its name, its `datasets.Dataset`, memory-mapped, what it is taken as (`named_splits.py`)."""

    name: str
    dataset: Any
    split: str


def open_saved(folder: Path, emit: Callable[[Note], None], *, held_out: bool = True) -> list[Split]:
    """The split `train` of a folder, or the only one it has, and those that are `held_out`; says what it leaves out.

    Raises BadData where the folder is damaged, has other files in mind than its own, or has several splits but no `train`.
    """
    try:
        for state in folder.rglob("state.json"):
            _check_files(state)
        saved = datasets.load_from_disk(str(folder))
        for split in saved.values() if isinstance(saved, datasets.DatasetDict) else (saved,):
            split.data.table.validate(full=True)  # Arrow believes the places in a file
    except _ERRORS as error:
        raise BadData(
            f"The saved dataset {folder.name} cannot be read ({type(error).__name__}: {first_line(error)}); "
            "save it again with save_to_disk, and send the whole folder."
        ) from error
    if isinstance(saved, datasets.Dataset):
        return [Split(str(saved.split or TRAIN), saved, "")]
    return _splits(saved, emit, held_out=held_out)


def read_dataset(dataset: Any, name: str, select: Select) -> Records:
    """The rows of a `datasets.Dataset`; `name` names it in rows and problems, a line is a row from 1.

    `select` says which columns are read; raises BadData where it says why they will not do.
    """
    try:
        columns = select(dataset.column_names)
    except Unfit as unfit:
        raise BadData(f"{name} {unfit}.") from unfit
    # What is an image or a sound is read as it is stored, to see whether there is one.
    number = 1
    for batch in dataset.select_columns(columns).with_format("arrow").iter(_BATCH_ROWS):
        for part in parts_of(batch):
            yield from rows_of(part, name, number)
            number += part.num_rows


def _check_files(state: Path) -> None:
    """`state.json` names the data files; an uploaded one may name those beside it only."""
    for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]:
        data = state.parent / entry["filename"]
        if data.parent != state.parent or not data.is_file():
            raise ValueError(f"there is no file {entry['filename']!r} beside its state.json")


def _splits(saved: Any, emit: Callable[[Note], None], *, held_out: bool) -> list[Split]:
    if len(saved) == 1:
        ((name, only),) = saved.items()
        return [Split(name, only, "")]
    if TRAIN not in saved:
        raise BadData(f"The saved dataset has no split 'train': its splits are {quoted(list(saved))}; save the one you want.")
    held = [name for name in saved if held_out and split_named(name) == VALIDATION]
    others = [f"{name!r} ({rows_spoken(saved[name].num_rows)})" for name in saved if name not in (TRAIN, *held)]
    if held:
        emit(Note(f"The saved dataset's split {quoted(held)} is held out, so that --validation draws no others."))
    if others:
        emit(Note(f"Left out of the saved dataset, as only what is to train on or to hold out is read: {', '.join(others)}."))
    return [Split(TRAIN, saved[TRAIN], TRAIN), *(Split(name, saved[name], VALIDATION) for name in held)]
