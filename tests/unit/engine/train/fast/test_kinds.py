"""Modules of other classes are known by their code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.granite.modeling_granite import GraniteAttention, GraniteRMSNorm
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.smollm3.modeling_smollm3 import SmolLM3MLP

from smolorad.engine.train.fast.kinds import alike


class OtherEpsilon(LlamaRMSNorm):
    """Adds a constant where the reference adds its own."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(3).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


@pytest.mark.parametrize(
    ("kind", "reference", "helpers", "expected"),
    [
        (GraniteRMSNorm, LlamaRMSNorm, (), True),
        (SmolLM3MLP, LlamaMLP, (), True),
        (GraniteAttention, LlamaAttention, ("apply_rotary_pos_emb", "rotate_half"), True),
        (Olmo2RMSNorm, LlamaRMSNorm, (), False),
        (OtherEpsilon, LlamaRMSNorm, (), False),
        (Qwen2Attention, LlamaAttention, (), False),
        (CohereAttention, LlamaAttention, ("rotate_half",), False),
        (nn.Linear, LlamaMLP, (), False),
    ],
)
def test_alike(kind: type, reference: type, helpers: tuple[str, ...], expected: bool) -> None:
    assert alike(kind.__new__(kind), reference, helpers) is expected


def test_what_a_forward_calls_counts() -> None:
    class Other(LlamaRMSNorm):
        def helper(self) -> int:
            return 1

    class Another(LlamaRMSNorm):
        def helper(self) -> int:
            return 2

    assert alike(Other(4), LlamaRMSNorm)
    assert not alike(Other(4), LlamaRMSNorm, ("helper",))
    assert not alike(Other(4), Another, ("helper",))
    assert alike(Other(4), Other, ("helper",))
