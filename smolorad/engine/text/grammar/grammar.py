"""Constrains generation token by token: to JSON of a schema, any JSON object, or a regular expression.

llguidance runs a parser beside the generation. Before each token it says which tokens can still lead to a valid answer; the
others are masked. So a complete answer is always valid, however the tokens are chosen.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from smolorad.domain import ResponseFormat
from smolorad.engine.runtime.dtypes import Ids, Scores
from smolorad.engine.text.grammar.json_schema import prepare
from smolorad.engine.text.grammar.patterns import NotGuaranteed, translate
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import InvalidRequest, first_line

if TYPE_CHECKING:
    from llguidance import LLMatcher

LIMIT = 32
# A state of the lexer takes about 2 kB. An item is a position in the grammar that the answer may have reached: where many
# properties are optional, there are thousands at once. Fuel and items limit one token: to about 0.1 s.
_LEXER_STATES = 50_000
_ITEMS = 10_000
_STEP_FUEL = 1_000_000
_STEP_ITEMS = 200_000
_TRIED = 4  # tokens of each answer that is tried before a grammar is accepted
_TOO_COMPLEX = re.compile(
    "TooComplex|Unable to determine if regex|too many (states|expressions|items)|max is|too large|size limit", re.IGNORECASE
)
_FIELDS = tuple(field.name for field in dataclasses.fields(ResponseFormat))


class Grammar:
    """A grammar with its position in one answer."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int, recompile: Callable[[], LLMatcher]) -> None:
        """Use `GrammarCache.get`, which makes the matcher; `recompile` makes another one that shares nothing with it."""
        self._matcher = matcher
        self._size = vocabulary_size
        self._recompile = recompile
        self._tokens: list[int] = []
        self._renewed = -1  # after how many tokens
        self._bits = np.zeros((vocabulary_size + 31) // 32, dtype=np.int32)

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        """The scores with -inf for each token that cannot come next; `ids` are ignored."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            self._renew()
            return self(ids, scores)
        forbidden = np.unpackbits(~self._bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        masked = scores.copy()
        np.copyto(masked[: self._size], -np.inf, where=forbidden[: len(masked)])
        masked[self._size :] = -np.inf  # ids beyond the tokenizer's vocabulary
        return masked

    def advance(self, token_id: int) -> None:
        """Advances by the chosen token."""
        self._matcher.consume_token(token_id)
        if self._matcher.is_error():
            self._renew()
            self.advance(token_id)
            return
        self._tokens.append(token_id)

    @property
    def complete(self) -> bool:
        """Whether only the end can follow."""
        return self._matcher.is_stopped()

    def _renew(self) -> None:
        """Copies of a matcher share their lexer, and its limit: all answers together may exceed it where one alone does not."""
        why = _reason(self._matcher)
        if self._renewed < len(self._tokens):
            self._renewed = len(self._tokens)
            self._matcher = self._recompile()
            self._matcher.consume_tokens(self._tokens)
            if not self._matcher.is_error():
                return
        raise InvalidRequest.field("response_format", f"cannot be followed any further ({why}); simplify it")


class GrammarCache:
    """Compiled grammars; the least recently used one is dropped when there are more than `limit`."""

    def __init__(self, vocabulary: Vocabulary, limit: int = LIMIT) -> None:
        self._vocabulary = vocabulary
        self._limit = limit
        self._compiled: OrderedDict[ResponseFormat, LLMatcher] = OrderedDict()

    def get(self, wanted: ResponseFormat) -> Grammar:
        """A grammar for one request.

        Raises InvalidRequest for a grammar that is malformed, that nothing can fulfil, or that cannot be guaranteed;
        UnsupportedModel where the tokenizer is of an unknown kind.
        """
        if wanted not in self._compiled:
            self._keep(wanted)
        self._compiled.move_to_end(wanted)
        size = self._vocabulary.ll_tokenizer.vocab_size
        return Grammar(self._compiled[wanted].deep_copy(), size, lambda: self._keep(wanted).deep_copy())

    def _keep(self, wanted: ResponseFormat) -> LLMatcher:
        matcher = self._compiled[wanted] = self._compile(wanted)
        if len(self._compiled) > self._limit:
            self._compiled.popitem(last=False)
        return matcher

    def _compile(self, wanted: ResponseFormat) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits  # see Vocabulary.ll_tokenizer

        tokenizer = self._vocabulary.ll_tokenizer
        limits = LLParserLimits(
            max_lexer_states=_LEXER_STATES,
            max_items_in_row=_ITEMS,
            step_lexer_fuel=_STEP_FUEL,
            step_max_items=_STEP_ITEMS,
            verbose_errors=False,
        )
        field = next((f"response_format.{name}" for name in _FIELDS if getattr(wanted, name)), "response_format")
        try:
            matcher = LLMatcher(tokenizer, _grammar(wanted), log_level=0, limits=limits)
            why = _trouble(matcher, tokenizer.eos_tokens)
        except NotGuaranteed as error:
            why = str(error)
        except ValueError as error:  # no JSON, or no object
            raise InvalidRequest.field(field, f"is not a JSON Schema ({first_line(error)}); correct it") from error
        if why:
            raise InvalidRequest.field(field, f"cannot be guaranteed ({why}); correct or simplify it")
        return matcher


def _grammar(wanted: ResponseFormat) -> str:
    """The grammar in llguidance's language. The model chooses the tokens also where only one text is possible.

    llguidance would take them from the tokenizer, which normalises text, and reads `<|im_end|>` in it as one token.
    """
    from llguidance import LLMatcher

    if wanted.regex:
        start = f"/{translate(wanted.regex)}/"
    else:
        schema = prepare(wanted.json_schema or '{"type": "object"}')
        # As `json.dumps` writes it. With flexible whitespace, a small model fills its answer with it.
        form = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
        # Refuse what cannot be guaranteed, instead of ignoring or approximating it.
        strict = {"lenient": False, "coerce_one_of": False, "json_allowed_escapes": schema.escapes}
        start = f"%json {json.dumps(schema.root | {'x-guidance': form | strict}, ensure_ascii=False)}"
    return LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\nstart: {start}')


def _trouble(matcher: LLMatcher, end_ids: Sequence[int]) -> str:
    """Why the grammar cannot be followed, empty if it can: two answers are begun, as a grammar without bounds fails at once.

    It also builds what the first token needs, once for all answers with this grammar.
    """
    if matcher.is_error():
        return _reason(matcher)
    for order in (1, -1):  # the first token that may come, or the last one
        tried = matcher.deep_copy()
        for _ in range(_TRIED):
            allowed = np.unpackbits(np.frombuffer(tried.compute_bitmask(), np.uint8), bitorder="little")
            may_end = bool(allowed[end_ids].any())
            allowed[end_ids] = 0
            token = int(allowed[::order].argmax())
            token = token if order > 0 else len(allowed) - 1 - token
            if allowed[token]:
                tried.consume_token(token)
            if tried.is_error():
                return _reason(tried)
            if not allowed[token] and not may_end:
                return "no text fulfils it"
            if tried.is_stopped() or not allowed[token]:
                break
    return ""


def _reason(matcher: LLMatcher) -> str:
    """llguidance's message as a part of a sentence."""
    message = re.sub(
        r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", matcher.get_error()
    )  # a position in our own text
    if message.startswith("NoExtension") or "anyOf is empty" in message:
        return "no text fulfils it"
    if _TOO_COMPLEX.search(message):
        return "it is too complex"
    if unknown := re.match(r"Unimplemented keys: \[(.*)\]", message):
        return f"{unknown[1]} cannot be checked token by token"
    if "lookarounds not supported" in message:
        return "word boundaries, and anchors that are not at an end, need look-around"
    if message.startswith("oneOf"):
        return "options of `oneOf` that may fit at once; let them differ in a `const` property, or write `anyOf`"
    cause = re.search(r"^error: (.+)$", message, re.MULTILINE)  # in a regular expression, below a drawing of the place
    return (cause[1] if cause else message.partition("\n")[0])[:300].rstrip(".")
