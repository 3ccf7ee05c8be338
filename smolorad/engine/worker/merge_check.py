"""Checks before a merged model is published that it answers as the adapter on its base does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from smolorad.errors import MergeMismatch, NotFinite

# Prose, digits, code, other scripts and a chat: tokenizers split them in different ways. All have about the same length in the
# usual tokenizers, as each is computed at the length of the longest.
PROMPTS = (
    "In the beginning was a small model, and the model was with its owner, and it answered when it was asked.",
    "In 2024: 31,102 lines; 7 x 8 = 56.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))\n",
    "Schöne Wörter. Да, ещё. 日本 🙂",
    "Question: What is the capital of France?\nAnswer: Paris.\nQuestion: And of Italy?\nAnswer:",
)
MAX_TOKENS = 64
_BATCH_SIZE = 8  # prompts in one pass over the weights
# The bound on the difference of logits, as a share of the largest logit. Merging only changes the order of the sums. Measured
# on five architectures: up to 1.2e-5 for adapters that move logits by 0.1 to 40; for one that drowns its base 1.4e-4 with
# AVX-512, 2.2e-4 without.
RELATIVE_BOUND = 5e-4
# Rounding weights to bfloat16 leaves 0.9 to 1 of the greedy tokens as they were; less than this is another model.
MIN_AGREEMENT = 0.5


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> list[Tensor]:
    """Token ids of each prompt, [1, tokens], at most `MAX_TOKENS`; prompts without a token are left out."""
    ids = [tokenizer(prompt)["input_ids"][:MAX_TOKENS] for prompt in prompts]
    return [torch.tensor([one]) for one in ids if one]


@torch.inference_mode()
def logits_of(model: Any, batches: Sequence[Tensor], step: Callable[[], None] = lambda: None) -> list[Tensor]:
    """The logits at every position, [tokens, vocabulary] in fp32 for each batch; `step` is called after each.

    Raises NotFinite where one is NaN or infinite.
    """
    found: list[Tensor] = []
    for first in range(0, len(batches), _BATCH_SIZE):
        rows = [ids[0] for ids in batches[first : first + _BATCH_SIZE]]
        # A prompt does not attend to what is behind its end, so the padding may be anything.
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        for row, whole in zip(rows, model(input_ids=padded).logits, strict=True):
            logits = whole[: len(row)].float()
            if not torch.isfinite(logits).all():
                raise NotFinite("The model's logits are not finite; train the adapter again with a lower learning_rate.")
            found.append(logits)
            step()
    return found


def bound_for(logits: Sequence[Tensor]) -> float:
    """How far a merged model's logits may lie from these."""
    return RELATIVE_BOUND * max(one.abs().max().item() for one in logits)


def check_close(unmerged: Sequence[Tensor], merged: Sequence[Tensor], bound: float) -> float:
    """The largest absolute difference of any logit; raises MergeMismatch where it is above the bound."""
    difference = max((one - other).abs().max().item() for one, other in zip(unmerged, merged, strict=True))
    if not difference <= bound:
        raise MergeMismatch(
            f"The merged model's logits differ from the adapter's by {difference:.2g}, more than the {bound:.2g} of rounding; "
            "nothing was written: use the adapter unmerged, or train it on other target_modules."
        )
    return difference


def agreement(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The share of positions with the same greedy token, 0 to 1."""
    same = sum(int((a == b).sum()) for a, b in zip(one, other, strict=True))
    return same / sum(len(a) for a in one)


def greedy(logits: Sequence[Tensor]) -> list[Tensor]:
    """The greedy token at every position, [tokens] for each batch."""
    return [one.argmax(dim=-1) for one in logits]
