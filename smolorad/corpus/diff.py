"""What one prepared dataset has that another has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from smolora.common.text.dedup import Seen
from smolorad.chat.turns import Value
from smolorad.corpus.arrow_file import read_batches, rows_of, shape_of
from smolorad.corpus.preview import plain_text
from smolorad.corpus.report import Host
from smolorad.corpus.shapes import COLUMNS, key_of
from smolorad.corpus.write import TRAIN, VALIDATION, data_file
from smolorad.domain import DatasetDiff
from smolorad.errors import Damaged


def diff(before: Path, after: Path, limit: int, host: Host) -> DatasetDiff:
    """Compares two dataset folders row by row, in any split; lists at most `limit` rows of each kind.

    Takes some 32 bytes of memory a row. Raises Damaged where a file is torn, and what the host's `check` raises.
    """
    old, new = Seen(), Seen()
    for row in _rows(before, host):
        old.add(key_of(row))
    added, same = 0, 0
    listed: list[str] = []
    for row in _rows(after, host):
        key = key_of(row)
        if not new.add(key):
            continue
        if key in old:
            same += 1
        else:
            added += 1
            if len(listed) < limit:
                listed.append(plain_text(row))
    lost: list[str] = []
    for row in _rows(before, host):
        if len(lost) == min(limit, len(old) - same):
            break
        if key_of(row) not in new and (text := plain_text(row)) not in lost:
            lost.append(text)
    return DatasetDiff(added, len(old) - same, same, tuple(listed), tuple(lost))


def _rows(dataset: Path, host: Host) -> Iterator[tuple[Value, ...]]:
    if not data_file(dataset, TRAIN).is_file():
        raise Damaged(f"{dataset} has no split train; prepare the dataset again.")
    for split in (TRAIN, VALIDATION):
        if (path := data_file(dataset, split)).is_file():
            for batch in read_batches(path, mapped=False):
                host.check()
                yield from rows_of(batch, COLUMNS[shape_of(batch.schema)])
