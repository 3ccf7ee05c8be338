"""The note in a dataset's folder on how to read its texts."""

from __future__ import annotations

import json
from pathlib import Path

SPLITS_FILE = "dataset_dict.json"
PARSE_SPECIAL = "parse_special"  # our own key in a file of `datasets`, which reads only what it knows


def parses_special(dataset: Path) -> bool:
    """Whether the spelling of a control token in a row of the dataset is one; by default it is text."""
    try:
        found = json.loads((dataset / SPLITS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get(PARSE_SPECIAL) is True
