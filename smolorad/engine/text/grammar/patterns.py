"""A regular expression in the words of llguidance, so that what it matches there matches everywhere.

Dialects disagree: what `\\d` is, whether `.` is a carriage return, what `--` means between brackets. Where Python's `re`, the
ECMAScript of JSON Schema and Rust's `regex`, which llguidance reads, differ, the translation is what all of them accept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# How often the parts of an expression may repeat, one inside the other: more takes seconds a token.
MOST_REPEATS = 66_000
# The least that a dialect has in a class, and the most.
_LEAST = {"d": "0-9", "w": "0-9A-Za-z_", "s": r" \t\n\r\f\v"}
_MOST = {
    "d": r"\p{N}",
    "w": r"\p{Alphabetic}\p{M}\p{N}\p{Pc}\p{Join_Control}",
    "s": r"\p{White_Space}\x1c-\x1f\x{feff}",
}
# What every dialect has in a class; and, for what a set is to leave out, what some dialect has in it.
_COMMON = {name: f"[{least}]" for name, least in _LEAST.items()} | {name.upper(): f"[^{most}]" for name, most in _MOST.items()}
_WIDE = {name: f"[{most}]" for name, most in _MOST.items()} | {name.upper(): f"[^{least}]" for name, least in _LEAST.items()}
_ANY = r"[^\n\r\x{2028}\x{2029}]"
_QUANTIFIER = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
_CODE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5}))")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}


class NotGuaranteed(ValueError):
    """A valid answer cannot be guaranteed; the message says why, as a part of a sentence."""


def translate(pattern: str) -> str:
    """The expression for llguidance.

    Raises NotGuaranteed for what is no regular expression to a parser without memory, and for repeats without measure. What
    llguidance itself refuses (look-around, references back) is left to it.
    """
    return _Translator(pattern).all()


class _Translator:
    """Reads from left to right, and counts how large the expression is with its repeats written out."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._sizes = [[0, 0]]  # of each open group: everything in it, and its last part
        self._dot = "." if re.search(r"\(\?[a-zA-Z]*s", pattern) else _ANY

    def all(self) -> str:
        pieces = []
        while self._at < len(self._pattern):
            pieces.append(self._next())
            if self._sizes[-1][0] > MOST_REPEATS:
                raise NotGuaranteed(f"an expression that repeats its parts more than {MOST_REPEATS:,} times")
        return "".join(pieces)

    def _next(self) -> str:
        char = self._pattern[self._at]
        match char:
            case "\\":
                self._part()
                return self._escape()
            case "[":
                self._part()
                return self._set()
            case "(":
                return self._group()
            case ")":
                self._at += 1
                if len(self._sizes) > 1:
                    inner = self._sizes.pop()[0]
                    self._part(inner)
                return ")"
            case "*" | "+" | "?":
                self._at += 1
                return self._repeated(char, 1)
            case "{":
                return self._braces()
            case "^" | "$" | "|":
                self._at += 1
                return char
        self._at += 1
        self._part()
        return self._dot if char == "." else _literal(char)

    def _part(self, size: int = 1) -> None:
        frame = self._sizes[-1]
        frame[0] += max(size, 1)
        frame[1] = max(size, 1)

    def _repeated(self, quantifier: str, times: int) -> str:
        """A quantifier of the last part; the lazy mark behind it changes nothing here, the possessive one would."""
        frame = self._sizes[-1]
        frame[0] += frame[1] * max(times - 1, 0)
        frame[1] *= max(times, 1)
        follows = self._pattern[self._at : self._at + 1]
        if follows == "+":
            raise NotGuaranteed("possessive quantifiers")
        self._at += follows == "?"
        return quantifier

    def _braces(self) -> str:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None or not (found[1] or found[3]):
            self._at += 1
            self._part()
            return "\\{"
        self._at = found.end()
        least, most = int(found[1] or 0), int(found[3]) if found[3] else None
        if found[2] is None:
            return self._repeated(f"{{{least}}}", least)
        return self._repeated(f"{{{least},{'' if most is None else most}}}", least if most is None else most)

    def _group(self) -> str:
        flags = re.match(r"\(\?([a-zA-Z-]+)([:)])", self._pattern[self._at :])
        if flags is not None and set(flags[1]) - set("ims-"):
            raise NotGuaranteed(f"the flags (?{flags[1]})")
        if flags is not None and flags[2] == ")":
            self._at += flags.end()
            return flags[0]
        opening = re.match(r"\((?:\?(?:[a-zA-Z-]*:|P?<[A-Za-z_]\w*>|<?[=!]))?", self._pattern[self._at :])
        assert opening is not None
        self._at += opening.end()
        self._sizes.append([0, 0])
        return opening[0]

    def _escape(self) -> str:
        """Outside of brackets: one character, one class, or what llguidance may make of it."""
        if (char := self._character()) is not None:
            return _literal(char)
        letter = self._pattern[self._at + 1 : self._at + 2]
        if letter in _COMMON or letter in ("p", "P"):
            return self._class(_COMMON)
        self._at += 2
        return "\\" + ("z" if letter == "Z" else letter)  # Python's name for the end, before 3.14 its only one

    def _character(self) -> str | None:
        """The single character that stands here, escaped or not; None, and no step taken, for an escape of another kind."""
        if self._pattern[self._at] != "\\":
            self._at += 1
            return self._pattern[self._at - 1]
        if code := _CODE.match(self._pattern, self._at):
            self._at = code.end()
            return chr(int(code[1] or code[2] or code[3], 16))
        letter = self._pattern[self._at + 1 : self._at + 2]
        octal = letter == "0" and self._pattern[self._at + 2 : self._at + 3].isdigit()
        if letter in _CONTROLS and not octal:
            self._at += 2
            return _CONTROLS[letter]
        if letter and not letter.isalnum():
            self._at += 2
            return letter
        return None

    def _set(self) -> str:
        """What stands in brackets, where Rust has operators and sets in sets, and the others have characters."""
        self._at += 1
        negated = self._pattern.startswith("^", self._at)
        self._at += negated
        items: list[str] = []
        first = True
        while first or not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise NotGuaranteed("unclosed character class")
            items.append(self._item(_WIDE if negated else _COMMON))
            first = False
        self._at += 1
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def _item(self, classes: Mapping[str, str]) -> str:
        begin = self._character()
        if begin is None:
            return self._class(classes)
        if not self._pattern.startswith("-", self._at) or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
            return _literal(begin)
        self._at += 1
        end = self._character()
        if end is None:
            return f"{_literal(begin)}\\-{self._class(classes)}"
        if end < begin:
            raise NotGuaranteed(f"the range {begin}-{end} is out of order")
        return f"{_literal(begin)}-{_literal(end)}"

    def _class(self, classes: Mapping[str, str]) -> str:
        letter = self._pattern[self._at + 1 : self._at + 2]
        if letter == "b":
            self._at += 2
            return "\\x08"
        if letter in ("p", "P"):
            named = re.match(r"\\[pP](?:[A-Za-z]|\{[^}]*\})", self._pattern[self._at :])
            self._at += named.end() if named else 2
            return named[0] if named else "\\" + letter
        self._at += 2
        if letter not in classes:
            raise NotGuaranteed(f"\\{letter} in a character class")
        return classes[letter]


def _literal(char: str) -> str:
    """The character alone, in brackets and outside of them."""
    if char.isalnum() or char == "_":
        return char
    return f"\\x{{{ord(char):x}}}"
