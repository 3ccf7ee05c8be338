"""What may be trained on, made into a dataset of the daemon: a path, a dataset of the hub, texts, rows of `datasets`."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from smolora import _values as values
from smolora._errors import BadData, HubUnreachable, NotFound
from smolora._sync.client import Client
from smolora._sync.streams import JobRun

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_ENDINGS = (".txt", ".jsonl", ".csv", ".tsv", ".json", ".parquet", ".arrow", ".md", ".gz", ".zst")
_TEXT = "text"
_BATCH_ROWS = 1000
# The original trains on every row.
_NOTHING_HELD_OUT = 0.0


def start_preparing(client: Client, name: str, source: Any, text_field: str, model: str) -> JobRun[values.Dataset]:
    """Begins to make `source` the next revision of the dataset `name`, for `model`.

    Every row is for training, but those of files that are named as validation or test.

    `source`: a file, a folder or a saved dataset; the id of a dataset of the hub; texts; a `datasets.Dataset`, whose column is
    `text` or else `text_field`. Raises NotFound for a path that is not there, BadData for no rows or no such column, TypeError
    for what is no text, and what `Client.prepare` raises.
    """
    # A folder's tokens are counted by its own tokenizer from the first time on, also before it is loaded: what is unchanged
    # the second time is then known. What the daemon would have to fetch first is left to the loading.
    counting = model if Path(model).is_absolute() else ""
    if not isinstance(source, str | os.PathLike):
        return _prepare_texts(client, name, _texts(source, text_field), counting)
    if os.path.exists(os.path.expanduser(source)):
        return client.prepare(name, source, text_field=text_field, validation=_NOTHING_HELD_OUT, model=counting)
    where = os.fspath(source)
    if not _HUB_ID.fullmatch(where) or where.lower().endswith(_FILE_ENDINGS):
        raise NotFound(f"There is no file or folder {where}; check the path, or give the id of a dataset of the hub.")
    return client.prepare(name, hub=where, text_field=text_field, validation=_NOTHING_HELD_OUT, model=counting)


def prepared(run: JobRun[values.Dataset], source: Any) -> values.Dataset:
    """The dataset, as soon as it is made."""
    try:
        return run.result()
    except (NotFound, HubUnreachable) as error:
        raise not_found_on_hub(source, error) from error


def not_found_on_hub(source: Any, error: NotFound | HubUnreachable) -> NotFound | HubUnreachable:
    """The error for a name that is no path here, as a mistyped path is taken for a name of the hub."""
    return type(error)(f"There is no {os.fspath(source)} on this machine, so the hub was asked. {error.message}")


def _prepare_texts(client: Client, name: str, texts: Iterator[str], model: str) -> JobRun[values.Dataset]:
    with tempfile.TemporaryDirectory(prefix="smolora-") as folder:
        path = Path(folder, "dataset.jsonl")
        rows = 0
        with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
            for text in texts:
                rows += 1
                if not isinstance(text, str):
                    raise TypeError(f"Row {rows} of the dataset is of type {type(text).__name__}, not a text; give strings.")
                file.write(json.dumps({_TEXT: text}, ensure_ascii=False) + "\n")
        if not rows:
            raise BadData("The dataset has no rows; give at least one text.")
        return client.prepare(name, path, validation=_NOTHING_HELD_OUT, model=model)


def _texts(source: Any, text_field: str) -> Iterator[Any]:
    """The rows of texts, or of one column of a `datasets.Dataset`, of an iterable one, or of the split `train` of several."""
    if isinstance(getattr(source, "column_names", None), dict):
        if "train" not in source:
            raise BadData(f"The dataset has no split 'train': its splits are {', '.join(source)}; give one of them.")
        source = source["train"]
    columns = getattr(source, "column_names", None)
    if columns is None:
        if not isinstance(source, Iterable):
            raise TypeError(f"A dataset is a path, texts or a datasets.Dataset, not {type(source).__name__}.")
        return iter(source)
    field = next((name for name in (_TEXT, text_field) if name in columns), None)
    if field is None:
        raise BadData(
            f"The dataset has no column {text_field!r}: its columns are {', '.join(columns)}; name one as text_field."
        )
    return (text for batch in source.iter(_BATCH_ROWS) for text in batch[field])
