"""Answers of a given form, held token by token: JSON of a schema, any JSON object, or a regular expression.

llguidance keeps a parser of the form beside the answer. Before each token it tells which tokens leave the form within reach;
the others get no chance. So what is complete is always valid, however the tokens are chosen.
"""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from smolorad.domain import ResponseFormat
from smolorad.engine.failure import first_line
from smolorad.engine.processors import Ids, Scores
from smolorad.engine.vocabulary import Vocabulary
from smolorad.errors import InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher

LIMIT = 32
# A state of the lexer takes about 2 kB. An item is a place in the form that the answer may have come to: where many properties
# may be left out, there are thousands at once.
_LEXER_STATES = 50_000
_ITEMS = 10_000
_FIELDS = tuple(field.name for field in dataclasses.fields(ResponseFormat))


class Constraint:
    """The form of one answer, and how far the answer has come in it."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        """Use `Constraints.of`, which makes the matcher."""
        self._matcher = matcher
        self._size = vocabulary_size
        self._bits = np.zeros((vocabulary_size + 31) // 32, dtype=np.int32)

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        """The scores with -inf for each token that cannot come next; `ids` are not looked at."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        forbidden = np.unpackbits(~self._bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        masked = scores.copy()
        np.copyto(masked[: self._size], -np.inf, where=forbidden[: len(masked)])
        masked[self._size :] = -np.inf  # what the tokenizer does not know
        return masked

    def advance(self, token_id: int) -> None:
        """The token that was chosen."""
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether nothing can follow but the end."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            why = _reason(self._matcher)
            raise InvalidRequest.field("response_format", f"cannot be held any further ({why}); simplify it")


class Constraints:
    """The forms asked for, ready to be held; the one that was not asked for the longest goes where there are too many."""

    def __init__(self, vocabulary: Vocabulary, limit: int = LIMIT) -> None:
        self._vocabulary = vocabulary
        self._limit = limit
        self._compiled: OrderedDict[ResponseFormat, LLMatcher] = OrderedDict()

    def of(self, wanted: ResponseFormat) -> Constraint:
        """A constraint for one answer.

        Raises InvalidRequest for a form that is malformed, that nothing can fulfil, or that cannot be held; UnsupportedModel
        where the tokenizer is of an unknown kind.
        """
        if wanted not in self._compiled:
            self._compiled[wanted] = self._compile(wanted)
            if len(self._compiled) > self._limit:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(wanted)
        return Constraint(self._compiled[wanted].deep_copy(), self._vocabulary.guided.vocab_size)

    def _compile(self, wanted: ResponseFormat) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits  # see Vocabulary.guided

        tokenizer = self._vocabulary.guided
        limits = LLParserLimits(max_lexer_states=_LEXER_STATES, max_items_in_row=_ITEMS, verbose_errors=False)
        field = next(f"response_format.{name}" for name in _FIELDS if getattr(wanted, name))
        try:
            matcher = LLMatcher(tokenizer, _grammar(wanted), log_level=0, limits=limits)
        except ValueError as error:  # no JSON, or no object
            raise InvalidRequest.field(field, f"is not a JSON Schema ({first_line(error)}); mend it") from error
        if not matcher.is_error():
            matcher.compute_bitmask()  # builds what the first token needs, once for every answer of this form
        if matcher.is_error():
            raise InvalidRequest.field(field, f"cannot be held ({_reason(matcher)}); simplify it")
        return matcher


def _grammar(wanted: ResponseFormat) -> str:
    from llguidance import LLMatcher

    if wanted.regex:
        return LLMatcher.grammar_from_regex(wanted.regex)
    return LLMatcher.grammar_from_json_schema(
        wanted.json_schema or '{"type": "object"}',
        # As `json.dumps` writes it. Where space may come freely, a small model fills its answer with it.
        defaults={"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False},
        # What cannot be held is refused, never left out or put another way.
        overrides={"lenient": False, "coerce_one_of": False},
    )


def _reason(matcher: LLMatcher) -> str:
    """llguidance's own words, fit for a sentence."""
    told = matcher.get_error()
    if told.startswith("NoExtension"):
        return "no text fulfils it"
    if told.startswith(("ParserTooComplex", "LexerTooComplex")):
        return "it is too complex"
    cause = re.search(r"^error: (.+)$", told, re.MULTILINE)  # in a regular expression, below a drawing of the place
    return (cause[1] if cause else told.partition("\n")[0])[:300].rstrip(".")
