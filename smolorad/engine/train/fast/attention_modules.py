"""Attention modules of known kinds, with their projections as one operation; the others call `interface` themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.codegen.modeling_codegen import CodeGenAttention
from transformers.models.falcon.modeling_falcon import FalconAttention
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention
from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.phi3.modeling_phi3 import Phi3Attention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from smolorad.engine.train.fast.interface import Texts
from smolorad.engine.train.fast.kinds import alike
from smolorad.engine.train.fast.lora import Projection, fits, project

Forward = Callable[..., Any]
_SPLIT = ("q_proj", "k_proj", "v_proj")
_ROPE = ("apply_rotary_pos_emb", "rotate_half")


def _no_window(module: Any) -> None:
    return None


def _own_window(module: Any) -> int | None:
    window: int | None = module.sliding_window
    return window


def _config_window(module: Any) -> int | None:
    window: int | None = getattr(module.config, "sliding_window", None)
    return window


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of attention with rotary positions (RoPE)."""

    reference: type
    window: Callable[[Any], int | None]
    projections: tuple[str, ...] = _SPLIT
    norms: bool = False  # whether queries and keys are normed, head by head
    softcap: bool = False


_KINDS = (
    _Kind(LlamaAttention, _no_window),
    _Kind(MistralAttention, _config_window),
    _Kind(Qwen2Attention, _own_window),
    _Kind(Qwen3Attention, _own_window, norms=True),
    _Kind(Gemma2Attention, _own_window, softcap=True),
    _Kind(Gemma3Attention, _own_window, norms=True),
    _Kind(Phi3Attention, _config_window, projections=("qkv_proj",)),
)


def attention_forward(module: Any) -> Forward | None:
    """That of an attention module of a known kind, whose projections are frozen or plain LoRAs."""
    if type(module) is FalconAttention:
        return _falcon
    if type(module) is BloomAttention and not (module.pretraining_tp > 1 and module.slow_but_exact):
        return _bloom
    kind = next((kind for kind in _KINDS if alike(module, kind.reference, _ROPE)), None)
    if kind is None or not getattr(module, "is_causal", True):
        return None
    fitting = all(fits(module.get_submodule(name)) for name in (*kind.projections, "o_proj"))
    return partial(_rotary, kind=kind) if fitting else None


def _rotary(
    self: Any, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], *, kind: _Kind, **more: Any
) -> tuple[Tensor, None]:
    tokens = hidden_states.shape[1]
    outs = project(hidden_states, [Projection.of(getattr(self, name)) for name in kind.projections])
    if len(outs) == 1:
        keys = self.num_key_value_heads * self.head_dim
        outs = outs[0].split((outs[0].shape[-1] - 2 * keys, keys, keys), -1)
    query, key, value = (out.reshape(tokens, -1, self.head_dim) for out in outs)
    if kind.norms:
        query, key = self.q_norm(query), self.k_norm(key)
    # Of one flat row; both halves of the rotated width are rotated by the same angles.
    cos, sin = (angle[0, :, : angle.shape[-1] // 2] for angle in position_embeddings)
    out = Texts.of(self).attend(
        query,
        key,
        value,
        self.scaling,
        self.attention_dropout if self.training else 0.0,
        (cos, sin),
        window=kind.window(self),
        softcap=self.attn_logit_softcapping if kind.softcap else None,
    )
    return project(out.flatten(1)[None], [Projection.of(self.o_proj)])[0], None


def _falcon(
    self: Any,
    hidden_states: Tensor,
    alibi: Tensor | None,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    query, key, value = _fused_heads(self.query_key_value(hidden_states), self.num_heads, self.head_dim)
    if alibi is None:
        assert position_embeddings is not None
        angles = tuple(angle[0, :, : angle.shape[-1] // 2] for angle in position_embeddings)
        out = Texts.of(self).attend(query, key, value, self.inv_norm_factor, 0.0, angles)
    else:
        dropout = self.attention_dropout.p if self.training else 0.0
        gains = alibi.view(self.num_heads, -1).float() * self.inv_norm_factor
        out = Texts.of(self).attend(query, key, value, self.inv_norm_factor, dropout, gains=gains)
    return self.dense(out.flatten(1)[None]), None


def _bloom(
    self: Any, hidden_states: Tensor, residual: Tensor, alibi: Tensor, attention_mask: Tensor | None = None, **more: Any
) -> tuple[Tensor, None]:
    query, key, value = _fused_heads(self.query_key_value(hidden_states), self.num_heads, self.head_dim)
    dropout = self.attention_dropout.p if self.training else 0.0
    gains = alibi.view(self.num_heads, -1)
    out = self.dense(Texts.of(self).attend(query, key, value, self.inv_norm_factor, dropout, gains=gains).flatten(1)[None])
    return residual + nn.functional.dropout(out, self.hidden_dropout, self.training), None


def scores_forward(module: Any) -> Forward | None:
    """That of the part between the projections, `_attn`, of a module that has it as a method of its own."""
    if type(module) in (GPTJAttention, CodeGenAttention):
        return partial(_own_scores, scale=1.0 / float(module.scale_attn), window=None)
    if type(module) is GPTNeoSelfAttention:
        # Its mask is a buffer, in which the last query sees a whole window.
        return partial(_own_scores, scale=1.0, window=int(module.bias[0, 0, -1].sum()))
    return None


def _own_scores(
    self: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scale: float,
    window: int | None,
) -> tuple[Tensor, None]:
    q, k, v = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    dropout = self.attn_dropout.p if self.training else 0.0
    return Texts.of(self).attend(q, k, v, scale, dropout, window=window).transpose(0, 1)[None], None


def _fused_heads(fused: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of (1, tokens, columns), where the queries that share a key stand before it and its value."""
    tokens = fused.shape[1]
    keys = (fused.shape[2] // width - heads) // 2
    shared = fused.view(tokens, keys, heads // keys + 2, width)
    return shared[:, :, :-2].reshape(tokens, heads, width), shared[:, :, -2], shared[:, :, -1]
