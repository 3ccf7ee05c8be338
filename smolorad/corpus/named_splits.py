"""Which split files are named as: `train.jsonl`, `data/validation-00000-of-00002.parquet`, `test/a.csv`.

A word that stands by itself in the name of a file, or else of a folder, names a split. Such words stand in other names as well
(`my-test-data.jsonl`, `dev.md`). So the name of a validation or test file counts where another file is named train, or, where
none is, if nothing but the word is its name, or a file that is otherwise called the same goes with it (`squad.csv` and
`squad_test.csv`). Of prose it counts only beside a train file that is otherwise called the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from smolora.common.text.compressed import bare_name

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLITS: Mapping[str, str] = (
    dict.fromkeys(("train", "training", "trainset"), TRAIN)
    | dict.fromkeys(("valid", "validation", "val", "dev", "eval", "evaluation"), VALIDATION)
    | dict.fromkeys(("validset", "validationset", "valset", "devset", "evalset"), VALIDATION)
    | dict.fromkeys(("test", "testing", "testset"), TEST)
)
_WORD = re.compile(r"[^\W\d_]+")
_HASH = re.compile(r"(?<![^\W_])[0-9a-f]{16}(?![^\W_])")  # as the hub's files have it
_OF = re.compile(r"\d+-of-\d+")


class _Name(NamedTuple):
    """The split that a name says, what else stands in it, and whether it is a folder's."""

    split: str
    rest: tuple[str, ...]
    is_folder: bool


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """What files are taken as: by path the split, for those that are named as one; and which names did not count."""

    splits: Mapping[str, str] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()
    all_ignored: bool = False  # as there would be nothing to train on


def split_named(word: str) -> str:
    """The split that a single name says, of a saved dataset's split or in a row: `dev` is the validation split; else empty."""
    return _SPLITS.get(word.strip().lower(), "")


def named_files(files: Mapping[str, bool]) -> NamedFiles:
    """What these files are taken as; each with whether it is prose, where any word may be a title."""
    names = {file: name for file in files if (name := _name(file)) is not None}
    trains = {name.rest for name in names.values() if name.split == TRAIN}
    plain = {tuple(_words(_stem(file))) for file in files if file not in names}
    counted = {}
    for file, name in names.items():
        with_train = name.rest in trains if files[file] else bool(trains)
        by_itself = not (files[file] or name.is_folder) and (not name.rest or name.rest in plain)
        if name.split == TRAIN or with_train or by_itself:
            counted[file] = name.split
    others = [file for file in files if counted.get(file, TRAIN) == TRAIN]
    not_train = tuple(file for file, name in names.items() if name.split != TRAIN)
    if not others or len(not_train) == len(files):
        return NamedFiles({}, not_train, all_ignored=True)
    return NamedFiles(counted, tuple(file for file in not_train if file not in counted))


def _name(file: str) -> _Name | None:
    """What a file's own name says, or else the nearest folder's."""
    folders = PurePosixPath(file).parts[:-1]
    for part, is_folder in ((_stem(file), False), *((folder.lower(), True) for folder in reversed(folders))):
        words = _words(part)
        said = {_SPLITS[word] for word in words if word in _SPLITS}
        if len(said) == 1:
            return _Name(said.pop(), tuple(word for word in words if word not in _SPLITS), is_folder)
        if said:
            return None
    return None


def _stem(file: str) -> str:
    return PurePosixPath(bare_name(PurePosixPath(file).name)).stem.lower()


def _words(name: str) -> list[str]:
    return _WORD.findall(_OF.sub(" ", _HASH.sub(" ", name)))
