"""Makes a model's view compute the fast way: modules of known kinds get another `forward`, the others keep theirs.

Only frozen modules are touched: whatever is trained, other than a plain LoRA, goes through autograd as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from smolorad.engine.train.fast import interface, layers
from smolorad.engine.train.fast.attention_modules import attention_forward, scores_forward
from smolorad.engine.train.fast.interface import Texts
from smolorad.engine.train.fast.kinds import alike
from smolorad.engine.train.fast.lora import Projection, fits, project

Forward = Callable[..., Any]


def patch_model(model: Any) -> Texts:
    """Changes a PEFT model over a view; it computes the texts of what is returned from then on."""
    model.get_base_model().config._attn_implementation = interface.NAME
    texts = Texts()
    texts.attach(model)
    head = model.get_base_model().get_output_embeddings()
    for module in list(model.modules()):
        found = None if module is head else norm_forward(module) or _mlp_forward(module) or attention_forward(module)
        if found is None and module is not head and fits(module):
            found = _linear
        if found is not None:
            module.forward = MethodType(found, module)
        if (scores := scores_forward(module)) is not None:
            module._attn = MethodType(scores, module)
    return texts


def norm_forward(module: Any) -> Forward | None:
    """That of a frozen norm of a known kind."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.requires_grad or weight.ndim != 1:
        return None
    if alike(module, LlamaRMSNorm):
        return _norm
    if alike(module, Olmo2RMSNorm):
        return partial(_late_norm, epsilon=module.variance_epsilon, offset=0.0)
    if alike(module, GemmaRMSNorm, ("_norm",)):
        return partial(_late_norm, epsilon=module.eps, offset=1.0)
    return _layer_norm if alike(module, CohereLayerNorm) else None


def _norm(self: Any, x: Tensor) -> Tensor:
    return layers.rms_norm(x, self.weight, self.variance_epsilon)


def _late_norm(self: Any, x: Tensor, *, epsilon: float, offset: float) -> Tensor:
    return layers.rms_norm(x, self.weight, epsilon, offset=offset, late=True)


def _layer_norm(self: Any, x: Tensor) -> Tensor:
    return functional.layer_norm(x, self.weight.shape, self.weight, None, self.variance_epsilon)


def _mlp_forward(module: Any) -> Forward | None:
    forward: Forward
    projections: tuple[str, ...]
    if alike(module, LlamaMLP):
        forward, activation, projections = _mlp, module.act_fn, ("gate_proj", "up_proj", "down_proj")
    elif alike(module, Phi3MLP):
        forward, activation, projections = _fused_mlp, module.activation_fn, ("gate_up_proj", "down_proj")
    else:
        return None
    gated = _gated(activation)
    return partial(forward, gated=gated) if gated is not None and _all_fit(module, projections) else None


def _gated(activation: Any) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What a gate and the other half become by an activation of a known kind."""
    if isinstance(activation, nn.SiLU | SiLUActivation):
        return layers.swiglu
    if isinstance(activation, GELUTanh) and activation.act is not activation._gelu_tanh_python:
        return partial(layers.geglu, approximate="tanh")
    if isinstance(activation, GELUActivation) and activation.act is functional.gelu:
        return partial(layers.geglu, approximate="none")
    return None


def _mlp(self: Any, x: Tensor, *, gated: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    gate, up = project(x, [Projection.of(self.gate_proj), Projection.of(self.up_proj)])
    return project(gated(gate, up), [Projection.of(self.down_proj)])[0]


def _fused_mlp(self: Any, hidden_states: Tensor, *, gated: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    (both,) = project(hidden_states, [Projection.of(self.gate_up_proj)])
    return project(gated(*both.chunk(2, dim=-1)), [Projection.of(self.down_proj)])[0]


def _linear(self: Any, x: Tensor) -> Tensor:
    return project(x, [Projection.of(self)])[0]


def _all_fit(module: Any, names: Sequence[str]) -> bool:
    return all(fits(module.get_submodule(name)) for name in names)
