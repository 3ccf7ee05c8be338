"""What both commands do with their arguments before argparse reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def join_negative(argv: Sequence[str]) -> list[str]:
    """The same arguments, with `--keep-alive -1m` as `--keep-alive=-1m`: argparse takes such a value for a flag of its own."""
    joined: list[str] = []
    for word in argv:
        flag = joined[-1] if joined else ""
        if re.fullmatch(r"-[0-9.]+[a-z][a-z0-9.]*|-inf(inity)?", word) and re.fullmatch(r"--[a-z][a-z-]*", flag):
            joined[-1] = f"{flag}={word}"
        else:
            joined.append(word)
    return joined
