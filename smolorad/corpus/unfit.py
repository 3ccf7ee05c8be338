"""Why a record is no row."""

from __future__ import annotations

from smolora.common.problems import ProblemKind


class Unfit(Exception):
    """The message says why; `text` is the row's text, for its excerpt."""

    def __init__(self, why: str, kind: ProblemKind = ProblemKind.MALFORMED, text: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        self.text = text
