"""Sends generated text in few pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smolora.v1 import generation_pb2
from smolorad.domain import TokenLogprob
from smolorad.link.convert import to_message

# A piece wakes the daemon and the client, which then take a core from the decode step: on 2 cores a piece for each token cost a
# tenth of the speed, and half of it where more was running. Few screens show more than 60 pieces in a second.
INTERVAL_S = 0.016
# With several requests each sends a little less often, as every piece wakes other processes.
_SHARE_OF_OTHERS = 0.25


@dataclass(slots=True)
class _Waiting:
    since: float  # when the last piece went out, on the clock
    has_sent: bool = False
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)


class OutputBatcher:
    """Sends the text of requests: the first piece of each at once, later ones as soon as the last is `INTERVAL_S` old.

    A quarter of that is added for each other request; and when one piece is sent, all waiting text is sent with it.
    """

    def __init__(self, emit: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        """`emit(call, **body)` sends one event."""
        self._emit = emit
        self._clock = clock
        self._waiting: dict[int, _Waiting] = {}

    def push(self, call: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> None:
        """Takes the text of a step, which may be empty."""
        now = self._clock()
        if (waiting := self._waiting.get(call)) is None:
            waiting = self._waiting[call] = _Waiting(since=now)
        waiting.text += text
        waiting.logprobs += logprobs
        if not waiting.has_sent:
            self._send(call, waiting)
        elif now - waiting.since >= INTERVAL_S * (1 + _SHARE_OF_OTHERS * (len(self._waiting) - 1)):
            self.flush()

    def flush(self) -> None:
        """Sends all waiting text, before a time without pushes."""
        for call, waiting in self._waiting.items():
            self._send(call, waiting)

    def end(self, call: int) -> None:
        """Sends the rest of a finished request."""
        if (waiting := self._waiting.pop(call, None)) is not None:
            self._send(call, waiting)

    def _send(self, call: int, waiting: _Waiting) -> None:
        for logprob in waiting.logprobs:
            self._emit(call, token_logprob=to_message(generation_pb2.TokenLogprob, logprob))
        if waiting.text:
            self._emit(call, text=waiting.text)
        if waiting.text or waiting.logprobs:
            waiting.since, waiting.has_sent, waiting.text, waiting.logprobs = self._clock(), True, "", []
