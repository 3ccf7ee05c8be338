"""What may be wrong with a row, for the client and the daemon alike."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ProblemKind(enum.StrEnum):
    """What may be wrong with a row of a dataset."""

    MALFORMED = "malformed"  # left out, as the next six are
    ENCODING = "encoding"
    MIXED_SHAPES = "mixed_shapes"
    EMPTY_COMPLETION = "empty_completion"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    FILTERED = "filtered"
    TEMPLATE = "template"  # kept, as the next seven are
    FULLY_MASKED = "fully_masked"
    TARGET_TRUNCATED = "target_truncated"
    BEYOND_CONTEXT = "beyond_context"
    MISSING_EOS = "missing_eos"
    CONTROL_CHARACTERS = "control_characters"
    MOJIBAKE = "mojibake"
    BOILERPLATE = "boilerplate"
    IN_TWO_SPLITS = "in_two_splits"  # left out, as EMPTY is
    EMPTY = "empty"
    CONTROL_TOKENS = "control_tokens"  # kept, as the next is
    SHARED_PROMPT = "shared_prompt"


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row with a problem; `line` counts from 1, 0 where the format has none. `excerpt` is its first words."""

    file: str
    line: int
    why: str
    kind: ProblemKind | None = ProblemKind.MALFORMED
    excerpt: str = ""
