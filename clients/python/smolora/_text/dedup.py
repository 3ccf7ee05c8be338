"""Which texts were there before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

_DIGEST_BYTES = 16  # 128 bits: a false duplicate among a billion texts is likelier a fault of the memory
_EMPTY = bytes(_DIGEST_BYTES)
_FIRST_SLOTS = 2**16  # one MiB


class Seen:
    """A set of texts that keeps digests alone, in one table: 21 to 32 bytes a text, where a Python set takes a hundred."""

    def __init__(self) -> None:
        self._slots = _FIRST_SLOTS
        self._table = bytearray(self._slots * _DIGEST_BYTES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        digest = _digest(text)
        return self._table[(at := self._place(digest)) : at + _DIGEST_BYTES] == digest

    def add(self, text: str) -> bool:
        """Remembers a text; whether it is new."""
        if not self._put(_digest(text)):
            return False
        self._count += 1
        if self._count * 4 > self._slots * 3:
            self._grow()
        return True

    def _put(self, digest: bytes) -> bool:
        """Puts a digest into its place; False where it stands already."""
        at = self._place(digest)
        if self._table[at : at + _DIGEST_BYTES] == digest:
            return False
        self._table[at : at + _DIGEST_BYTES] = digest
        return True

    def _place(self, digest: bytes) -> int:
        """Where a digest stands, or the first free place from its own on."""
        table = self._table
        slot = int.from_bytes(digest[:8], "little") % self._slots
        while True:
            at = slot * _DIGEST_BYTES
            found = table[at : at + _DIGEST_BYTES]
            if found in (digest, _EMPTY):
                return at
            slot = slot + 1 if slot + 1 < self._slots else 0

    def _grow(self) -> None:
        old = self._table
        self._slots += self._slots // 2
        self._table = bytearray(self._slots * _DIGEST_BYTES)
        for at in range(0, len(old), _DIGEST_BYTES):
            digest = bytes(old[at : at + _DIGEST_BYTES])
            if digest != _EMPTY:
                self._put(digest)


def _digest(text: str) -> bytes:
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
    return digest if digest != _EMPTY else b"\x01" * _DIGEST_BYTES


def deduplicated(texts: Iterable[str]) -> Iterator[str]:
    """The texts without exact repetitions, in order."""
    seen = Seen()
    return (text for text in texts if seen.add(text))
