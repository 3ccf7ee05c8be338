"""Text in UTF-8 that was read as Windows-1252 or Latin-1: `Ã¼` for `ü`.

Not all that looks like it is: `“AMANHÃ”` ends in a quote, `« café »` in a space that does not break. So signs that stand behind
words in sound text count only where the letter before them could not stand.
"""

from __future__ import annotations

import re

_BYTE_OF = {chr(byte): byte for byte in range(0x80, 0x100)}
for _byte in range(0x80, 0xA0):
    _BYTE_OF[bytes([_byte]).decode("cp1252", "ignore") or chr(_byte)] = _byte


def _signs(least: int, most: int) -> str:
    """The characters that these bytes decode to, as a class of a regular expression."""
    return "[" + "".join(re.escape(sign) for sign, byte in _BYTE_OF.items() if least <= byte <= most) + "]"


_LATER = _signs(0x80, 0xBF)
_TWO, _THREE, _FOUR = (
    _signs(least, most) + _LATER * later for least, most, later in ((0xC2, 0xDF, 1), (0xE0, 0xEF, 2), (0xF0, 0xF4, 3))
)
_CHARACTERS = re.compile(f"(?:{_TWO}|{_THREE}|{_FOUR})+")
_QUOTES = "«»‹›“”„‘’‚"
_BETWEEN = "\xa0\xad–—…·•’´¿¡"  # also between two words
_MARKS = "†‡§¹²³°ºª®©™€£¿¡"  # footnotes, brands, units
_BEHIND = frozenset(_QUOTES + _BETWEEN + _MARKS)
_STOPS = _BEHIND.difference(_MARKS)
_CARONS = frozenset("šžŠŽ")  # `Tomáš »`


def mojibake(text: str) -> str | None:
    """The first piece of a text that was decoded with the wrong encoding; None where there is none."""
    for found in _CHARACTERS.finditer(text):
        piece, before, behind = found[0], text[: found.start()][-1:], text[found.end() :][:1]
        if any(sign.isalpha() and not sign.isascii() for sign in (before, behind)):
            continue  # a part of a word of sound letters
        try:
            characters = bytes(map(_BYTE_OF.__getitem__, piece)).decode()
        except UnicodeDecodeError:
            continue
        if piece[0].isupper() and before.islower():
            return piece
        if _strange(piece, before, behind) if len(characters) == 1 else not (_STOPS | _CARONS).issuperset(_later(piece)):
            return piece
    return None


def _later(piece: str) -> list[str]:
    """The signs of a piece that stand for other bytes than the first of a character."""
    return [sign for sign in piece if _BYTE_OF[sign] < 0xC0]


def _strange(piece: str, before: str, behind: str) -> bool:
    """Whether the signs of one character cannot stand there in sound text."""
    first, later = piece[0], piece[1:]
    within = before.isalpha() and behind.isalpha()
    if len(piece) > 2:
        if piece == "ï»¿" or (first == "â" and later[0] in "€„‚ˆ†"):  # a byte order mark; most of punctuation
            return True
        return not (_BEHIND | _CARONS).issuperset(later) or (within and later[-1] not in _STOPS | _CARONS)
    if first not in "ÂÃÄÅÎÏÐÑ" or (before in _QUOTES and later in _QUOTES and before):
        return False
    if later not in _BEHIND:
        return first != "Å" or before.isalpha() or behind.isalpha() or later.isalpha()  # `5 Å±0.1`
    if before.isalpha():
        return within and later not in _BETWEEN
    return first in "ÂÃ" or (behind.isalpha() and later not in _BETWEEN) or (first in "ÎÏ" and later in _MARKS)
