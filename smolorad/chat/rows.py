"""Which tokens of a row are trained: the one place that decides it, for preparing, for the preview, and for both trainers.

What training adds is TRL's: texts and completions end in the end-of-text token, conversations go through the chat template.
Trained is all of a text, the completion of a prompt, the assistant's answers of a conversation, both answers of a preference.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from smolorad.chat.answers import Rendered, rendered
from smolorad.chat.encode import ID_BYTES, TextEncoder, to_bytes
from smolorad.chat.spans import Span, in_common
from smolorad.chat.template import ChatTemplate, TemplateRefuses
from smolorad.chat.turns import Turns, Value
from smolorad.domain import Shape


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as training reads it.

    `ids` are 32-bit numbers. `spans` say from which to which token it is trained. Of what a chat template rendered, `shown` is
    the conversation, and `places` say where in its text each token stands.
    """

    ids: bytes = b""
    spans: tuple[Span, ...] = ()
    added: int = 0  # tokens of it that training adds
    refused: str = ""  # why the model cannot read it; the rest is empty then
    unended: bool = False  # whether something that is trained has no token that stops the generation
    shown: Rendered | None = None
    places: tuple[Span, ...] = ()

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.ids) // ID_BYTES

    @property
    def scored(self) -> int:
        """How many of them are trained; the first counts, though nothing stands before it to predict it from."""
        return sum(end - begin for begin, end in self.spans)

    def cut(self, most: int) -> EncodedRow:
        """The row without what stands behind its first `most` tokens."""
        if self.tokens <= most:
            return self
        spans = tuple((begin, min(end, most)) for begin, end in self.spans if begin < most)
        return replace(self, ids=self.ids[: most * ID_BYTES], spans=spans, places=self.places[:most])

    def token_ids(self) -> list[int]:
        """The ids as numbers."""
        return array("i", self.ids).tolist()


@dataclass(frozen=True, slots=True)
class Frame:
    """What training puts around a text: ids as 32-bit numbers."""

    head: bytes = b""  # what the tokenizer puts before every text
    end: bytes = b""  # the end-of-text token; empty where the model has none
    tail: bytes = b""  # what the tokenizer puts behind every text

    def around(self, ids: bytes) -> bytes:
        """A text's ids with all of it; the end stands once."""
        return self.head + ids + (b"" if self.end and ids.endswith(self.end) else self.end) + self.tail


class RowEncoder:
    """Encodes the rows of one shape for one model."""

    def __init__(
        self,
        encoder: TextEncoder,
        template: ChatTemplate | None,
        frame: Frame,
        *,
        completion_only: bool = True,
        assistant_only: bool = True,
        compare: bool = False,
    ) -> None:
        """Without `completion_only` prompts are trained too, without `assistant_only` whole conversations.

        `compare` also notes how the chat template changes what turns say.
        """
        self._encoder = encoder
        self._template = template
        self._frame = frame
        self._completion_only = completion_only
        self._assistant_only = assistant_only
        self._compare = compare

    def encode(self, shape: Shape, rows: Sequence[tuple[Value, ...]]) -> list[EncodedRow]:
        """Rows of any shape but preferences, by the values of the shape's columns."""
        if not rows:
            return []
        if shape is Shape.CHAT:
            return self._conversations([(_turns(row[0]), 0) for row in rows], all_of_it=not self._assistant_only)
        if shape is Shape.TEXT:
            return [self._text(ids) for ids in self._encoder.encode([_string(row[0]) for row in rows])]
        if isinstance(rows[0][0], str):
            return self._completions([(_string(row[0]), _string(row[1])) for row in rows])
        talks = [((*_turns(row[0]), *_turns(row[1])), len(row[0]) if self._completion_only else 0) for row in rows]
        return self._conversations(talks, all_of_it=not self._completion_only)

    def pairs(self, rows: Sequence[tuple[Value, ...]]) -> list[tuple[EncodedRow, EncodedRow]]:
        """Preferences: each row's prompt with the better answer, and with the worse one, trained from the same token on."""
        both = [(row[0], row[at]) for row in rows for at in (1, 2)]
        if rows and isinstance(rows[0][0], str):
            found = self._completions([(_string(prompt), _string(answer)) for prompt, answer in both])
        else:
            talks = [((*_turns(prompt), *_turns(answer)), len(prompt)) for prompt, answer in both]
            found = self._conversations(talks)
        return [_same_beginning(*found[at : at + 2]) for at in range(0, len(found), 2)]

    def _text(self, ids: bytes) -> EncodedRow:
        whole = self._frame.around(ids)
        tokens = len(whole) // ID_BYTES
        return EncodedRow(whole, ((0, tokens),), tokens - len(ids) // ID_BYTES, unended=not self._frame.end)

    def _completions(self, pairs: Sequence[tuple[str, str]]) -> list[EncodedRow]:
        prompts = self._encoder.encode([prompt for prompt, _ in pairs])
        wholes = self._encoder.encode([prompt + answer for prompt, answer in pairs])
        return [self._completion(prompt, whole) for prompt, whole in zip(prompts, wholes, strict=True)]

    def _completion(self, prompt: bytes, whole: bytes) -> EncodedRow:
        row = self._text(whole)
        if not self._completion_only:
            return row
        # It begins where the two part: a token may reach over the border.
        begin = (len(self._frame.head) + in_common(prompt, whole)) // ID_BYTES
        return replace(row, spans=((begin, row.tokens),))

    def _conversations(self, talks: Sequence[tuple[Turns, int]], *, all_of_it: bool = False) -> list[EncodedRow]:
        """Conversations, each trained on its answers from a turn on."""
        shown = [self._shown(turns, first) for turns, first in talks]
        encoded = iter(self._encoder.encode_shown([one.text for one in shown if isinstance(one, Rendered)]))
        return [
            self._conversation(one, *next(encoded), all_of_it=all_of_it)
            if isinstance(one, Rendered)
            else EncodedRow(refused=one)
            for one in shown
        ]

    def _shown(self, turns: Turns, first: int) -> Rendered | str:
        if self._template is None:
            return "the model has no chat template that works; choose a model that has one"
        try:
            return rendered(self._template, turns, self._encoder.control, first=first, compare=self._compare)
        except TemplateRefuses as refused:
            return f"the chat template refuses it ({refused})"

    def _conversation(self, shown: Rendered, ids: list[int], places: list[Span], *, all_of_it: bool) -> EncodedRow:
        spans = ((0, len(ids)),) if all_of_it else tuple(self._token_spans(shown.spans, ids, places))
        return EncodedRow(to_bytes(ids), spans, 0, "", shown.unended, shown, tuple(places))

    def _token_spans(self, spans: Sequence[Span], ids: Sequence[int], places: Sequence[Span]) -> Iterator[Span]:
        """From spans of characters to spans of tokens; a token across a border has a part of what is trained."""
        for begin, end in spans:
            first, last = bisect_right(places, begin, key=itemgetter(1)), bisect_left(places, end, key=itemgetter(0))
            # But a control token that takes the white space behind it, as Phi-3's do, is the header's.
            while first < last and places[first][0] < begin and ids[first] in self._encoder.control_ids:
                first += 1
            if first < last:
                yield first, last


def _same_beginning(better: EncodedRow, worse: EncodedRow) -> tuple[EncodedRow, EncodedRow]:
    """Both answers from the first token on in which either's begins, to where its last part ends."""
    if better.refused or worse.refused or not better.spans or not worse.spans:
        return better, worse
    begin = min(better.spans[0][0], worse.spans[0][0], in_common(better.ids, worse.ids) // ID_BYTES)
    one, other = (replace(row, spans=((begin, row.spans[-1][1]),)).cut(row.spans[-1][1]) for row in (better, worse))
    return one, other


def _string(value: Value) -> str:
    assert isinstance(value, str)
    return value


def _turns(value: Value) -> Turns:
    assert not isinstance(value, str)
    return value
