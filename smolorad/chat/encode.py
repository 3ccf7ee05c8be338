"""Text to token ids, such that text from users stays text.

A tokenizer finds its control tokens wherever their spelling stands. Here those of the template alone are control tokens; the
same spelling in a message, a prompt or a row is encoded as the characters that it is.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence, Set
from functools import cached_property
from itertools import chain

from tokenizers import Encoding, Tokenizer
from tokenizers.normalizers import Normalizer

from smolorad.chat.special import ControlTokens
from smolorad.chat.tracked import TEMPLATE, origins_of, without_marks

ID_BYTES = 4
TRIAL = "The quick brown fox, 1 + 1 = 2: \u00fc \U0001f642\n"  # a text by which a tokenizer shows whether it works at all
_PLACEHOLDER, _FILL = 0xF0000, "\U000ffffd"  # private characters: which token, and as many as it has characters
Plain = Callable[[Sequence[str]], list[bytes]]


def to_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as 32-bit numbers."""
    return array("i", ids).tobytes()


class TextEncoder:
    """Encodes with a model's tokenizer, without the special tokens that it would put around a text."""

    def __init__(
        self, tokenizer: Tokenizer, control: ControlTokens, *, parse_special: bool = False, plain: Plain | None = None
    ) -> None:
        """With `parse_special` control tokens are found in every text. `plain` encodes texts faster than the tokenizer."""
        self._tokenizer = tokenizer
        self.control = control
        self.parse_special = parse_special
        self._plain = plain

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, as its file describes it; transformers sets these switches with each of its calls."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = False
        return self._tokenizer

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The control tokens' ids."""
        found = map(self._tokenizer.token_to_id, self.control.tokens | self.control.ends)
        return frozenset(one for one in found if one is not None)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of users' texts, each as 32-bit numbers."""
        encoded = self._encoded if self._plain is None else self._plain
        if not self.is_literal("\n\0".join(texts)):  # one search is much faster than many
            return encoded(texts)
        literal = {at for at, text in enumerate(texts) if self.is_literal(text)}
        plain = iter(encoded([text for at, text in enumerate(texts) if at not in literal]))
        return [to_bytes(self._literally(text, None)[0]) if at in literal else next(plain) for at, text in enumerate(texts)]

    def encode_shown(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Of rendered conversations, whose characters have origins, the ids and where in the text each token stands."""
        mixed = {at for at, text in enumerate(texts) if self._mixed(text)}
        rest = [str.__str__(text) for at, text in enumerate(texts) if at not in mixed]
        plain = iter(self.tokenizer.encode_batch(rest, add_special_tokens=False))
        return [
            self._literally(text, without_marks(origins_of(text))) if at in mixed else _told(next(plain))
            for at, text in enumerate(texts)
        ]

    def is_literal(self, text: str) -> bool:
        """Whether a user's text has the spelling of a control token, and is not to be read as one."""
        return not self.parse_special and (self.control.within(text) or self._made_within(text))

    def _made_within(self, text: str) -> bool:
        """Whether the tokenizer's normaliser makes a control token of something in a text, as of `</S>` where it lowers."""
        return self._normaliser is not None and self.control.within(self._normaliser.normalize_str(text))

    @cached_property
    def _normaliser(self) -> Normalizer | None:
        """The normaliser that runs before the search for control tokens; None where the search comes first."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        looks = any(token.normalized and token.content in self.control.tokens for token in added)
        return self._tokenizer.normalizer if looks else None

    def _mixed(self, text: str) -> bool:
        """Whether a control token's spelling stands in a conversation that is not the template's."""
        if self.parse_special:
            return False
        origins = without_marks(origins_of(text))
        found = [one.span() for one in self.control.found_in(str.__str__(text))]
        if not all(_by_template(origins, *span) for span in found):
            return True
        if self._normaliser is None:
            return False
        edges = [0, *chain.from_iterable(found), len(text)]
        return self._made_within("\0".join(text[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)))

    def _encoded(self, texts: Sequence[str]) -> list[bytes]:
        return [to_bytes(one.ids) for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _literally(self, text: str, origins: str | None) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and places of a text in which only what has the template's origin can be a control token; None: nothing has."""
        parts: list[str] = []
        places: set[int] = set()
        at = 0
        for one in self.control.found_in(text):
            parts.append(str.__str__(text[at : one.start()]))
            by_template = origins is not None and _by_template(origins, *one.span())
            parts.append(self._literal.placeholders.get(one[0], one[0]) if by_template else one[0])
            if by_template:
                places.add(one.start())
            at = one.end()
        parts.append(str.__str__(text[at:]))
        return self._literal.encode("".join(parts), places)

    @cached_property
    def _literal(self) -> _LiteralTokenizer:
        return _LiteralTokenizer(self.tokenizer, self.control)


class _LiteralTokenizer:
    """The same tokenizer, but control tokens have other spellings: `placeholders`, of as many characters."""

    def __init__(self, tokenizer: Tokenizer, control: ControlTokens) -> None:
        described = json.loads(tokenizer.to_str())
        known = {token["content"]: token["id"] for token in described["added_tokens"]}
        self.placeholders = {
            token: chr(_PLACEHOLDER + number) + _FILL * (len(token) - 1) for number, token in enumerate(sorted(control.tokens))
        }
        for token in described["added_tokens"]:
            if (placeholder := self.placeholders.get(token["content"])) is not None:
                token["content"], token["normalized"] = placeholder, False
        described["post_processor"] = described["padding"] = described["truncation"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(described))
        # Their ids may have moved, as those of the other added tokens.
        spelled = {self.placeholders.get(token, token): number for token, number in known.items()}
        self._ids = {self._tokenizer.token_to_id(token): number for token, number in spelled.items()}
        self._control = {number for token, number in known.items() if token in control.tokens}

    def encode(self, text: str, placed: Set[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and places; `placed` says where placeholders stand, since a user may write the same characters."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for one, place in zip(found.ids, found.offsets, strict=True):
            is_word = one in self._control and one not in self._ids  # of the vocabulary proper, as in SentencePiece
            if is_word or (self._ids.get(one) in self._control and not placed & set(range(*place))):
                for at in range(*place):
                    ids += (spelled := self._spelled(text[at]))
                    places += [(at, at + 1)] * len(spelled)
                continue
            ids.append(self._ids.get(one, one))
            places.append(place)
        return ids, places

    def _spelled(self, character: str) -> list[int]:
        """One character without its neighbours."""
        model = self._tokenizer
        whole = model.token_to_id(character)
        return [whole] if whole is not None else model.encode(character, add_special_tokens=False).ids


def _by_template(origins: str, begin: int, end: int) -> bool:
    return not origins[begin:end].strip(TEMPLATE)


def _told(found: Encoding) -> tuple[list[int], list[tuple[int, int]]]:
    return found.ids, found.offsets
