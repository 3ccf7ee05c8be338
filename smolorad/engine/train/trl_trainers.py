"""TRL's trainers, as a host runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trl import DPOTrainer, SFTTrainer

from smolorad.engine.train.tokenize import UNSCORED
from smolorad.engine.train.trainer import HostedTrainer


class LoraTrainer(HostedTrainer, SFTTrainer):
    """SFTTrainer whose loss is, for every model, the mean over the tokens that are predicted and scored.

    For classes such as GPT2LMHeadModel, Trainer would also count the first token of each row, which nothing predicts; for
    classes whose own loss takes no count it would count none, so that each micro-step weighs the same.
    """

    data_collator: Callable[[Any], Any]

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.data_collator = _without_firsts(self.data_collator)
        self.model_accepts_loss_kwargs = True


def _without_firsts(collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def collated(rows: Any) -> Any:
        batch = collate(rows)
        batch["labels"][:, 0] = UNSCORED  # TRL leaves out those of the other texts in a flat row
        return batch

    return collated


class PreferenceTrainer(HostedTrainer, DPOTrainer):
    """DPOTrainer whose reference is what the adapter began from, so that no second model is in memory."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **more: Any) -> Any:
        return dataset  # dataset.py has tokenised it

    def _scored_tokens(self, inputs: Any) -> int:
        return int(inputs["completion_mask"].sum())

    def _weight(self, inputs: Any) -> int:
        return len(inputs["completion_mask"]) // 2  # pairs
