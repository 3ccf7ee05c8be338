"""SFTTrainer that takes an optimiser step's rows at once and cuts them as it suits the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from smolorad.engine.train.fast.batching import Segments, collate, cut
from smolorad.engine.train.fast.loss import Head, summed_cross_entropy
from smolorad.engine.train.fast.patch import patch_model
from smolorad.engine.train.fast.yield_points import YieldPoints
from smolorad.engine.train.tokenize import UNSCORED
from smolorad.engine.train.trl_trainers import LoraTrainer

BUDGET = 1024  # tokens of a micro-batch


class FastTrainer(LoraTrainer):
    """What LoraTrainer computes, up to rounding: the same rows in the same order in every optimiser step.

    Its batches are optimiser steps, so `args.gradient_accumulation_steps` is to be 1.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.data_collator = collate
        self.texts = patch_model(self.model)
        self.head = Head.of(self.model.get_base_model())
        self._yield_points = YieldPoints(self._yield_to_requests)
        if self.args.device.type == "cpu":  # elsewhere autograd has a thread of its own, and torch must have one only
            self._yield_points.attach(decoder_layers(self.model.get_base_model()))
            self.yields_between = "layers"

    def training_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Tensor:
        """An optimiser step's micro-steps; their losses add up to the step's, of which each process has its rows."""
        parts = [super(FastTrainer, self).training_step(model, part, *args, **more) for part in cut(inputs, BUDGET)]
        # DistributedDataParallel would average once for each forward pass through it. None is made: the processes' micro-steps
        # need not be equally many.
        if self.accelerator.num_processes > 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return torch.stack(parts).sum()

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        """An evaluation batch, cut like a step."""
        for part in cut(inputs, BUDGET):
            result = super().prediction_step(model, part, *args, **more)
        return result

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Natural logarithm per scored token, of `num_items_in_batch` tokens or else of those that are here."""
        total, scored = self.summed_loss(inputs)
        # Where no token is scored, the loss is 0, as TRL has it.
        if num_items_in_batch is None:
            return total / max(scored, 1)
        items = torch.as_tensor(num_items_in_batch).clamp(min=1)
        whole: Tensor = total / items * self.accelerator.num_processes  # whose mean is the sum
        return whole

    def summed_loss(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Sum of the negative log-likelihood over the scored tokens of a flat row, and their number."""
        hidden = self.hidden_states(inputs)
        # What a token is to be predicted from stands right before it, in the same text, since no first token is scored.
        places = (inputs["labels"][0] != UNSCORED).nonzero().squeeze(1)
        targets = inputs["labels"][0, places]
        return summed_cross_entropy(hidden[places - 1], self.head, targets, self._yield_points.work), len(places)

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the output head sees of a flat row: (tokens, width)."""
        # They stay until the next micro-step: a checkpointed layer asks for them again in the backward pass.
        self.texts.segments = Segments.of(inputs["lengths"].tolist(), inputs["input_ids"].device)
        self.texts.windows.clear()
        backbone = self.model.get_base_model().base_model
        states: Tensor = backbone(
            input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
        ).last_hidden_state
        return states[0]


def decoder_layers(model: Any) -> Iterator[nn.Module]:
    """The modules that follow one another in the model's longest list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    yield from max(lists, key=len, default=())
