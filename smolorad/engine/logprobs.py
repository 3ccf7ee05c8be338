"""How likely the tokens of an answer were, by the model itself."""

from __future__ import annotations

import torch
from torch import Tensor

from smolorad.domain import TokenLogprob, TopLogprob
from smolorad.engine.vocabulary import Vocabulary


class Logprobs:
    """Takes down each token that is chosen, with the log-softmax of the logits as the model gave them, as OpenAI's API and vLLM
    tell it: what temperature, penalties, truncation and a response format make of them is not in it.
    """

    def __init__(self, vocabulary: Vocabulary, top: int = 0) -> None:
        """`top`: how many of the likeliest tokens are taken down beside each one."""
        self._vocabulary = vocabulary
        self._top = top
        self._noted: list[TokenLogprob] = []

    def note(self, token_id: int, logits: Tensor) -> None:
        """The token that was chosen by `logits` (1, vocabulary) in fp32, before anything changed them."""
        logprobs = torch.log_softmax(logits[0], dim=-1)
        likeliest = logprobs.topk(min(self._top, len(logprobs)))
        tops = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        self._noted.append(
            TokenLogprob(
                *self._spoken(token_id),
                float(logprobs[token_id]),
                tuple(TopLogprob(*self._spoken(one), logprob) for one, logprob in tops if logprob > -torch.inf),
            )
        )

    def take(self) -> tuple[TokenLogprob, ...]:
        """The tokens since it was last asked."""
        taken, self._noted = tuple(self._noted), []
        return taken

    def _spoken(self, token_id: int) -> tuple[int, str, bytes]:
        token_bytes = self._vocabulary.bytes_of(token_id)
        return token_id, token_bytes.decode(errors="replace"), token_bytes
