"""Log-probabilities of the generated tokens, by the model itself."""

from __future__ import annotations

import numpy as np

from smolorad.domain import TokenLogprob, TopLogprob
from smolorad.engine.runtime.dtypes import Scores
from smolorad.engine.text.vocabulary import Vocabulary


class Logprobs:
    """Records each token that is chosen, with the log-softmax of the model's own logits, as OpenAI's API and vLLM report it:
    temperature, penalties, truncation and a response format do not change it.
    """

    def __init__(self, vocabulary: Vocabulary, top: int = 0) -> None:
        """`top`: how many of the likeliest tokens are recorded beside each one."""
        self._vocabulary = vocabulary
        self._top = top
        self._noted: list[TokenLogprob] = []

    def note(self, token_id: int, logits: Scores) -> None:
        """The token that was chosen by `logits` (vocabulary,), before anything changed them."""
        exact = logits.astype(np.float64)
        exact -= exact.max()
        logprobs = exact - np.log(np.exp(exact).sum())
        top = min(self._top, len(logprobs))
        likeliest = np.argpartition(-logprobs, top - 1)[:top] if top else np.array([], dtype=np.int64)
        likeliest = likeliest[np.lexsort((likeliest, -logprobs[likeliest]))]
        tops = zip(likeliest.tolist(), logprobs[likeliest].tolist(), strict=True)
        self._noted.append(
            TokenLogprob(
                *self._described(token_id),
                float(logprobs[token_id]),
                tuple(TopLogprob(*self._described(one), logprob) for one, logprob in tops if logprob > -np.inf),
            )
        )

    def take(self) -> tuple[TokenLogprob, ...]:
        """The tokens since the last call."""
        taken, self._noted = tuple(self._noted), []
        return taken

    def _described(self, token_id: int) -> tuple[int, str, bytes]:
        token_bytes = self._vocabulary.bytes_of(token_id)
        return token_id, token_bytes.decode(errors="replace"), token_bytes
