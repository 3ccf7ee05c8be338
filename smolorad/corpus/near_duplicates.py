"""Which texts are nearly those that were there before: MinHash and locality-sensitive hashing, by the library rensa.

Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.
"""

from __future__ import annotations

from rensa import RMinHash, RMinHashDeduplicator

_WORDS = 5  # of a sequence; enough that different texts seldom share one
_HASHES = 128  # the estimate of a similarity of 0.8 is off by 0.035 in one case of three
_SEED = 42
# Rows of a band -> the least similarity whose pairs are met almost surely (99 in 100), with 128 hashes in bands of that many.
_MET_ABOVE = {8: 0.85, 4: 0.6, 2: 0.3}


class Near:
    """Texts so far; takes about two kilobytes each."""

    def __init__(self, similarity: float) -> None:
        rows = next((rows for rows, least in _MET_ABOVE.items() if similarity >= least), 1)
        self._known = RMinHashDeduplicator(similarity, _HASHES, True, _HASHES // rows, _SEED)
        self._count = 0

    def add(self, text: str) -> bool:
        """Remembers a text; whether none before it is as similar. Words are compared without regard to case."""
        sketch = RMinHash(_HASHES, _SEED)
        sketch.update(sequences(text))
        self._count += 1
        return bool(self._known.add(str(self._count), sketch))


def sequences(text: str) -> list[str]:
    """Every five neighbouring words; of a shorter text its words as one sequence."""
    words = text.casefold().split()
    return [" ".join(words[at : at + _WORDS]) for at in range(max(len(words) - _WORDS + 1, 1))]
