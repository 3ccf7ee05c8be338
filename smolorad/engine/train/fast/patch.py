"""Makes a model's view compute the fast way: modules of known kinds get another `forward`, the others keep theirs.

Only frozen modules are touched: whatever is trained, other than a plain LoRA, goes through autograd as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

from peft.tuners.lora import layer as peft_layer
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from smolorad.engine.train.fast import attention, layers
from smolorad.engine.train.fast.lora import Projection, fits, project

# One arithmetic under several names.
_NORMS = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)
_MLPS = (LlamaMLP, MistralMLP, Qwen2MLP, Qwen3MLP)
_ATTENTIONS = (LlamaAttention, MistralAttention, Qwen2Attention)


def patch_model(model: Any) -> None:
    """Changes a PEFT model over a view; it must be called with `segments` from then on."""
    model.get_base_model().config._attn_implementation = attention.NAME
    for module in list(model.modules()):
        if type(module) in _NORMS and not module.weight.requires_grad:
            _replace(module, _norm)
        elif type(module) in _MLPS and isinstance(module.act_fn, nn.SiLU | SiLUActivation) and _all_fit(module, _MLP):
            _replace(module, _mlp)
        elif type(module) in _ATTENTIONS and _all_fit(module, _PROJECTIONS):
            _replace(module, _llama_attention)
        elif type(module) is peft_layer.Linear and fits(module):
            _replace(module, _linear)


_MLP = ("gate_proj", "up_proj", "down_proj")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def _replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = MethodType(forward, module)


def _all_fit(module: nn.Module, names: Sequence[str]) -> bool:
    return all(fits(module.get_submodule(name)) for name in names)


def _linear(self: Any, x: Tensor) -> Tensor:
    return project(x, [Projection.of(self)])[0]


def _norm(self: Any, x: Tensor) -> Tensor:
    return layers.rms_norm(x, self.weight, self.variance_epsilon)


def _mlp(self: Any, x: Tensor) -> Tensor:
    gate, up = project(x, [Projection.of(self.gate_proj), Projection.of(self.up_proj)])
    return project(layers.swiglu(gate, up), [Projection.of(self.down_proj)])[0]


def _llama_attention(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **more: Any
) -> tuple[Tensor, None]:
    heads = (hidden_states.shape[1], -1, self.head_dim)
    wanted = [Projection.of(module) for module in (self.q_proj, self.k_proj, self.v_proj)]
    query, key, value = (out.view(heads) for out in project(hidden_states, wanted))
    # Of one flat row; both halves of the width are rotated by the same angles.
    cos, sin = (angle[0, :, : self.head_dim // 2] for angle in position_embeddings)
    dropout = self.attention_dropout if self.training else 0.0
    out = attention.attend(query, key, value, more["segments"], self.scaling, dropout, (cos, sin))
    return project(out.flatten(1)[None], [Projection.of(self.o_proj)])[0], None
