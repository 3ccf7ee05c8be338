"""Compares the gradient of a training step on a device with the CPU's.

A forward pass does not ask for the products of a backward pass, so logits that agree say nothing about a training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from smolorad.domain import Dtype, LoraSettings
from smolorad.engine.model.shared_view import share
from smolorad.engine.model.torch_runner import sample_ids
from smolorad.engine.train.fast.loss import summed_cross_entropy
from smolorad.engine.train.lora import lora_config
from smolorad.errors import InvalidRequest

log = logging.getLogger("smolorad.engine")

TOKENS = 17  # 16 of them are predicted: kernels for large products begin at 16 rows
RANK = 16
# The largest difference that rounding explains, as a share of the gradient's norm: every layer adds to it. On the starter model
# bf16 is off by 0.23 from fp32, fp16 by 0.04.
TOLERANCE = {Dtype.FLOAT32: 1e-2, Dtype.BFLOAT16: 0.5, Dtype.FLOAT16: 0.1}


def lora_gradients(model: Any) -> dict[str, Tensor]:
    """Of each tensor of a LoRA on a view of the model, in fp32 on the CPU; empty where the model cannot be trained there.

    The loss is the sum of those that the two trainers compute: one by way of the model's own logits, one by our output head.
    """
    try:
        wrapped = get_peft_model(share(model), lora_config(LoraSettings(r=RANK, lora_dropout=0.0), model)).eval()
        trained = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in trained.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
        with torch.enable_grad():
            gradients = torch.autograd.grad(_loss(wrapped), list(trained.values()))
    except (InvalidRequest, NotImplementedError, RuntimeError) as error:
        log.info("no gradient to compare: %s", error)
        return {}
    return {name: gradient.to("cpu", torch.float32) for name, gradient in zip(trained, gradients, strict=True)}


def gradient_fault(model: Any, dtype: Dtype, expected: Mapping[str, Tensor]) -> str:
    """How the gradients on the model's device differ from those of the same model on the CPU; empty if they do not."""
    got = lora_gradients(model) if expected else {}
    if len(got) != len(expected):
        return "a training step fails, which the CPU can take"
    for name, gradient in expected.items():
        if not gradient.isfinite().all():  # a format too narrow for this model, on the CPU as well
            continue
        difference = float((got[name] - gradient).norm() / gradient.norm())
        if not difference <= TOLERANCE[dtype]:
            return f"the gradient of {name} in a training step differs from the CPU's by {difference:.2g} of its norm"
    return ""


def _loss(model: Any) -> Tensor:
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    device = next(model.parameters()).device
    ids = sample_ids(model, TOKENS).to(device)
    try:
        logits = model(input_ids=ids).logits
    finally:
        hook.remove()
    loss = F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
    if type(head) is nn.Linear and "bias" not in dict(head.named_parameters()):
        loss = loss + summed_cross_entropy(seen[0][0, :-1], head.weight, ids[0, 1:])
    return loss
