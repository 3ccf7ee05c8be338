"""Your own text files as a `datasets.Dataset`, without a daemon: the module that the project began with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from smolora.datasets import read_txt_folder, to_dataset

__all__ = ["load_text_data"]


def load_text_data(data_folder: str | os.PathLike[str]) -> Any:
    """A `datasets.Dataset` with the column `text`: every line of a folder's `.txt` files, stripped, empty ones left out.

    Lines are neither cut nor compared: repetitions stay. Raises as `read_txt_folder`, ValueError where there is no text, and
    ImportError where `datasets` is not installed.
    """
    return to_dataset(read_txt_folder(data_folder), Path(data_folder), "What load_text_data() returns")
