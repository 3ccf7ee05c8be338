"""A dataset as a folder that plain `datasets.load_from_disk` reads: a DatasetDict with TRL's standard columns.

The few small files beside the Arrow data are written here, not by `datasets`: its import takes longer than most preparations,
and `save_to_disk` wants a dataset that stands in a file or in memory already.

Beside the splits `tokens/SPLIT.arrow` has the same rows, in the same order, as the model's token ids (`input_ids`), and from
where to where they are scored (`scored`: begin and end by turns, in tokens). `tokens/tokenizer.json` names the tokenizer.
They are for other tools: training tokenises the rows itself, as what is scored depends on its settings.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from smolorad.chat.encode import ID_BYTES
from smolorad.chat.folder import PARSE_SPECIAL, SPLITS_FILE
from smolorad.chat.rows import EncodedRow
from smolorad.corpus.arrow_file import features, numbered

TRAIN, VALIDATION = "train", "validation"
TOKENS = "tokens"
_DATA = "data-00000-of-00001.arrow"
_TOKEN_LISTS = pa.schema([pa.field("input_ids", pa.list_(pa.int32())), pa.field("scored", pa.list_(pa.int32()))])


class SplitWriter:
    """Writes batches of rows, and counts them."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._stream = pa.ipc.new_stream(file, schema)
        self._schema = schema
        self.rows = 0

    def write(self, rows: pa.RecordBatch) -> None:
        """Adds rows."""
        # Of a draft's turns the weights are left out where all of them are trained.
        columns = [column.cast(field.type) for column, field in zip(rows.columns, self._schema, strict=True)]
        self._stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self.rows += rows.num_rows

    def close(self) -> None:
        """Completes the file's contents."""
        self._stream.close()


class TokenWriter:
    """Writes the tokens of rows."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = pa.ipc.new_stream(file, _TOKEN_LISTS)

    def write(self, rows: Sequence[EncodedRow]) -> None:
        """Adds rows."""
        ends = array("i", accumulate([len(row.ids) // ID_BYTES for row in rows], initial=0))
        ids = pa.Array.from_buffers(pa.int32(), ends[-1], [None, pa.py_buffer(b"".join([row.ids for row in rows]))])
        edges = array("i", [edge for row in rows for span in row.spans for edge in span])
        edge_ends = array("i", accumulate([2 * len(row.spans) for row in rows], initial=0))
        columns = [
            pa.ListArray.from_arrays(numbered(ends, pa.int32()), ids),
            pa.ListArray.from_arrays(numbered(edge_ends, pa.int32()), numbered(edges, pa.int32())),
        ]
        self._stream.write_batch(pa.record_batch(columns, schema=_TOKEN_LISTS))

    def close(self) -> None:
        """Completes the file's contents."""
        self._stream.close()


@contextmanager
def split_writer(dataset: Path, split: str, schema: pa.Schema) -> Iterator[SplitWriter]:
    """A writer of one split's rows; the split can be loaded when the block has ended."""
    folder = dataset / split
    folder.mkdir()
    with (folder / _DATA).open("wb") as file:
        writer = SplitWriter(file, schema)
        yield writer
        writer.close()
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
    about = {"citation": "", "description": "", "features": features(schema), "homepage": "", "license": ""}
    _write_json(folder / "state.json", state)
    _write_json(folder / "dataset_info.json", about)


@contextmanager
def token_writer(dataset: Path, split: str) -> Iterator[TokenWriter]:
    """A writer of the tokens of one split's rows."""
    folder = dataset / TOKENS
    folder.mkdir(exist_ok=True)
    with (folder / f"{split}.arrow").open("wb") as file:
        writer = TokenWriter(file)
        yield writer
        writer.close()


def remove_split(dataset: Path, split: str) -> None:
    """Takes away a split that has turned out to have no rows, if it is there."""
    shutil.rmtree(dataset / split, ignore_errors=True)
    (dataset / TOKENS / f"{split}.arrow").unlink(missing_ok=True)


def write_tokenizer(dataset: Path, tokenizer: Path) -> None:
    """Notes whose tokens they are: SHA-256 of the `tokenizer.json`, in hexadecimal."""
    with tokenizer.open("rb") as file:
        _write_json(dataset / TOKENS / "tokenizer.json", {"sha256": hashlib.file_digest(file, "sha256").hexdigest()})


def write_splits(dataset: Path, splits: list[str], *, parse_special: bool = False) -> None:
    """Names the splits, and whether control tokens are found in their texts; the last file of a dataset."""
    _write_json(dataset / SPLITS_FILE, {"splits": splits} | ({PARSE_SPECIAL: True} if parse_special else {}))


def data_file(dataset: Path, split: str) -> Path:
    """Where a split's rows stand."""
    return dataset / split / _DATA


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
