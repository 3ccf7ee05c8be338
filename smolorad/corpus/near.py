"""Which texts are nearly those that were there before: MinHash and locality-sensitive hashing.

Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.
"""

from __future__ import annotations


class Near:
    """placeholder"""

    def __init__(self, similarity: float) -> None:
        pass

    def add(self, text: str) -> bool:
        return True
