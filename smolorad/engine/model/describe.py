"""Reads the description of a decoder off one of transformers' models, whose weights need not be there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import activations
from transformers.models.bloom.modeling_bloom import BloomGelu
from transformers.pytorch_utils import Conv1D

from smolorad.engine.model.describe_rope import NotDescribed, read_ropes
from smolorad.engine.model.families import FAMILIES, NORMS, Family, Fused, Rotated, Windows
from smolorad.engine.native.description import Activation, Decoder, Experts, HeadLayout, Layer, Linear, Norm
from smolorad.engine.native.misfit import MAX_WINDOW

_ACTIVATIONS: Mapping[type, Activation] = {
    nn.SiLU: Activation.SILU,
    activations.SiLUActivation: Activation.SILU,
    activations.GELUActivation: Activation.GELU,
    activations.GELUTanh: Activation.GELU_TANH,
    activations.NewGELUActivation: Activation.GELU_TANH,
    activations.FastGELUActivation: Activation.GELU_TANH,
    BloomGelu: Activation.GELU_TANH,
    nn.ReLU: Activation.RELU,
    activations.ReLUSquaredActivation: Activation.RELU2,
    activations.QuickGELUActivation: Activation.QUICK_GELU,
}
_OLMO_EPS = 1e-5  # stands in the code of its norm, which has no attribute for it
_EXPERTS = frozenset({"Qwen3MoeExperts", "MixtralExperts", "OlmoeExperts"})


def describe(model: Any) -> Decoder:
    """The description of a model of a class in the table; raises NotDescribed, with the reason, for any other."""
    family = FAMILIES.get(type(model).__name__)
    if family is None or not type(model).__module__.startswith("transformers.models."):
        raise NotDescribed(f"{type(model).__name__} is no family that the native decoder computes (docs/models.md has a list)")
    try:
        return _Reader(model, family).decoder()
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise NotDescribed(f"its parts are not where the table says ({error})") from error


class _Reader:
    """Reads one model."""

    def __init__(self, model: Any, family: Family) -> None:
        self.model = model
        self.family = family
        self.config = model.config
        self.body = model.get_submodule(family.body)
        self.class_name = type(model).__name__
        # Of each parameter's first place; one that is tied has several.
        self._names: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}

    def decoder(self) -> Decoder:
        self._check()
        config, family, body = self.config, self.family, self.body
        layers = list(body.get_submodule(family.layers))
        attention = layers[0].get_submodule(family.attention)
        heads, kv_heads = config.num_attention_heads, self._kv_heads(attention)
        head_dim = self._first(attention, "head_dim", "head_size") or config.hidden_size // heads
        alibi = self._asks(family.alibi)
        ropes, kinds = ([], {}) if alibi else read_ropes(self.body, config, interleaved=family.interleaved)
        embedding, head = body.get_submodule(family.embedding), self.model.get_output_embeddings()
        return Decoder(
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=head.weight.shape[0],
            embedding=self._name(embedding.weight),
            head=self._name(head.weight),
            heads_layout=self._layout(heads, kv_heads, head_dim),
            layers=tuple(self._layer(number, layer, heads, kv_heads, head_dim, kinds) for number, layer in enumerate(layers)),
            ropes=tuple(rope.short for rope in ropes),
            modules=tuple(name for name, _ in self.model.named_modules()),
            final_norm=self._norm(body, family.final_norm),
            attention_scale=self._equal([self._scale(layer) for layer in layers], "attention scales"),
            activation=self._activation(layers),
            parallel=self._asks(family.parallel),
            joint_norms=family.joint_norms,
            embedding_scale=self._embedding_scale(embedding),
            embedding_norm=self._norm(body, family.embedding_norm),
            positions=self._name(body.get_submodule(family.positions).weight) if family.positions else None,
            first_position=getattr(body.get_submodule(family.positions), "offset", 0) if family.positions else 0,
            residual_scale=self._number(family.residual_scale, 1.0),
            score_cap=self._cap(family.score_cap),
            logit_scale=self._number(family.logit_scale, 1.0) / self._number(family.logit_divisor, 1.0),
            logit_cap=self._cap(family.logit_cap),
            head_bias=self._name(head.bias) if head.bias is not None else None,
            slopes=self._slopes(heads) if alibi else (),
            slope_scale=self._scale(layers[0]) if family.rounded_alibi else 1.0,
            rounded_slopes=family.rounded_alibi or embedding.weight.dtype is torch.bfloat16,
            long_ropes=tuple(rope.long for rope in ropes if rope.long is not None),
            short_context=max((rope.short_context for rope in ropes), default=0),
        )

    def _check(self) -> None:
        """Refuses what a config of these classes may ask for and the step does not compute."""
        config = self.config
        for name, allowed in self.family.needs.items():
            if getattr(config, name, allowed[0]) not in allowed:
                raise NotDescribed(f"its config has {name} {getattr(config, name)}")
        # Every class reads these when it makes its attention mask.
        if not getattr(config, "is_causal", True) or getattr(config, "attention_chunk_size", None) is not None:
            raise NotDescribed("its attention is not causal, or in chunks")
        kinds = set(getattr(config, "layer_types", None) or ())
        if kinds - {"full_attention", "sliding_attention"}:
            raise NotDescribed(f"it has layers of {min(kinds - {'full_attention', 'sliding_attention'})}")
        # transformers' KV cache looks at both, even where the class does not.
        window = getattr(config, "sliding_window", None)
        if self.family.windows is Windows.NONE and (window is not None or "sliding_attention" in kinds):
            raise NotDescribed(f"its config has windows, which {self.class_name} does not know")
        if window is not None and window < 1:
            raise NotDescribed(f"it has windows of {window} tokens")
        if self.family.windows is Windows.ALL and "full_attention" in kinds and window is not None:
            raise NotDescribed("its config has layers without a window, which its class does not know")

    def _layout(self, heads: int, kv_heads: int, width: int) -> HeadLayout:
        group, total = heads // kv_heads * width, (heads + 2 * kv_heads) * width
        if self.family.fused is Fused.GROUPED:
            step = group + 2 * width
            return HeadLayout(total, step, group, step, group + width, step)
        return HeadLayout(total, group, heads * width, width, (heads + kv_heads) * width, width)

    def _layer(self, number: int, layer: Any, heads: int, kv_heads: int, width: int, ropes: Mapping[str, int]) -> Layer:
        family = self.family
        attention = layer.get_submodule(family.attention)
        mlp = layer if family.mlp == "." else layer.get_submodule(family.mlp)
        sizes = (heads * width, kv_heads * width, kv_heads * width)
        query, key, value = self._projections(attention, family.heads, sizes if family.fused is not Fused.GROUPED else None)
        experts = self._experts(mlp)
        gate = up = down = None
        if experts is None:
            gate, up = self._gate_and_up(mlp)
            down = self._linear(mlp.get_submodule(family.down))
        kind = (getattr(self.config, "layer_types", None) or [""] * (number + 1))[number]
        window = self._window(kind)
        attention_norm, mlp_norm = self._norms_before(layer)
        return Layer(
            attention_norm=attention_norm,
            attention_out_norm=self._norm(layer, family.attention_out_norm),
            mlp_norm=mlp_norm,
            mlp_out_norm=self._norm(layer, family.mlp_out_norm),
            query_norm=self._norm(attention, family.query_norm, optional=True),
            key_norm=self._norm(attention, family.key_norm, optional=True),
            query=query,
            key=key,
            value=value,
            output=self._linear(attention.get_submodule(family.output)),
            gate=gate,
            up=up,
            down=down,
            experts=experts,
            rope=self._rope(attention, kind, window, ropes),
            window=window,
        )

    # --- parts of a layer ---

    def _norms_before(self, layer: Any) -> tuple[Norm | None, Norm | None]:
        """The norms before attention and MLP. Falcon has them under other names where each has its own."""
        if hasattr(layer, "ln_attn"):
            return self._norm(layer, "ln_attn"), self._norm(layer, "ln_mlp")
        first = self._norm(layer, self.family.attention_norm)
        second = getattr(layer, self.family.mlp_norm, None) if self.family.mlp_norm else None
        # Where attention and MLP read the same, a second norm may be absent.
        return first, self._norm(layer, self.family.mlp_norm) if second is not None or not self.family.parallel else first

    def _projections(
        self, parent: Any, names: Sequence[str], sizes: Sequence[int] | None
    ) -> tuple[Linear, Linear | None, Linear | None]:
        if len(names) == 3:
            query, key, value = (self._linear(parent.get_submodule(name)) for name in names)
            return query, key, value
        module = parent.get_submodule(names[0])
        if sizes is None:
            return self._linear(module), None, None
        query, key, value = self._split(module, sizes)
        return query, key, value

    def _gate_and_up(self, mlp: Any) -> tuple[Linear | None, Linear]:
        if self.family.gate_up:
            module = mlp.get_submodule(self.family.gate_up)
            gate, up = self._split(module, [self._linear(module).rows // 2] * 2)
            return gate, up
        gate_name, up = self.family.gate, self._linear(mlp.get_submodule(self.family.up))
        return self._linear(mlp.get_submodule(gate_name)) if gate_name else None, up

    def _split(self, module: Any, sizes: Sequence[int]) -> list[Linear]:
        whole, first, parts = self._linear(module), 0, []
        for rows in sizes:
            parts.append(Linear(whole.module, rows, whole.columns, whole.bias, first, whole.transposed))
            first += rows
        if first != whole.rows:
            raise NotDescribed(f"{whole.module} has {whole.rows} rows, not {first}")
        return parts

    def _linear(self, module: Any) -> Linear:
        if not (type(module) in (nn.Linear, Conv1D) or type(module).__name__ == "FalconLinear"):
            raise NotDescribed(f"a {type(module).__name__} is not a plain linear layer")
        rows, columns = module.weight.shape[:: -1 if isinstance(module, Conv1D) else 1]
        name = self._name(module.weight).removesuffix(".weight")
        return Linear(name, rows, columns, module.bias is not None, transposed=isinstance(module, Conv1D))

    def _experts(self, mlp: Any) -> Experts | None:
        experts = getattr(mlp, "experts", None)
        if experts is None:
            return None
        if type(experts).__name__ not in _EXPERTS or hasattr(mlp, "shared_expert"):
            raise NotDescribed(f"{type(experts).__name__} are not experts that the native decoder computes")
        router = mlp.gate
        return Experts(
            router=self._name(router.weight),
            gate_up=self._name(experts.gate_up_proj),
            down=self._name(experts.down_proj),
            count=router.weight.shape[0],
            active=router.top_k,
            inner=experts.down_proj.shape[-1],
            normalized=bool(getattr(router, "norm_topk_prob", True)),
        )

    def _norm(self, parent: Any, name: str, *, optional: bool = False) -> Norm | None:
        module = getattr(parent, name, None) if name else None
        if module is None:
            if name and not optional:
                raise NotDescribed(f"it has no norm {name}")
            return None
        several = list(getattr(module, "norms", [module]))  # StableLM has one for each head
        first = several[0]
        if type(first).__name__ not in NORMS:
            raise NotDescribed(f"a {type(first).__name__} is not a norm that the native decoder computes")
        kind, offset = NORMS[type(first).__name__]
        weights = [one.weight for one in several if getattr(one, "weight", None) is not None]
        biases = [one.bias for one in several if getattr(one, "bias", None) is not None]
        eps = self._first(first, "variance_epsilon", "eps")
        return Norm(
            kind=kind,
            eps=float(_OLMO_EPS if eps is None else eps),
            width=int(first.weight.shape[-1] if weights else first.normalized_shape[-1]),
            weights=tuple(map(self._name, weights)),
            biases=tuple(map(self._name, biases)),
            offset=offset,
        )

    def _rope(self, attention: Any, kind: str, window: int, ropes: Mapping[str, int]) -> int:
        rotated = self.family.rotated
        without_window = rotated is Rotated.ALL or (rotated is Rotated.WINDOWS_IF_ANY and self.config.sliding_window is None)
        if not ropes or not getattr(attention, "use_rope", True) or not (window or without_window):
            return -1
        return ropes[kind] if kind in ropes else ropes[""]

    def _window(self, kind: str) -> int:
        sliding = self.family.windows is Windows.ALL or kind == "sliding_attention"
        return min(int(getattr(self.config, "sliding_window", None) or 0), MAX_WINDOW) if sliding else 0

    # --- numbers ---

    def _scale(self, layer: Any) -> float:
        return float(getattr(layer.get_submodule(self.family.attention), self.family.attention_scale))

    def _activation(self, layers: Sequence[Any]) -> Activation:
        found = {self._activation_of(layer) for layer in layers}
        if len(found) != 1 or (kind := found.pop()) not in _ACTIVATIONS:
            raise NotDescribed("its activation is not one that the native decoder computes")
        return _ACTIVATIONS[kind]

    def _activation_of(self, layer: Any) -> type:
        mlp = layer if self.family.mlp == "." else layer.get_submodule(self.family.mlp)
        return type(getattr(getattr(mlp, "experts", mlp), self.family.activation))

    def _embedding_scale(self, embedding: Any) -> float:
        scale = getattr(embedding, "scalar_embed_scale", 1.0)
        # transformers rounds it as the embedding is.
        return float(torch.tensor(scale).to(embedding.weight.dtype)) * self._number(self.family.embedding_scale, 1.0)

    def _asks(self, name: str) -> bool:
        """Whether the config asks for what a field of this name asks for; "always" is no field."""
        return name == "always" or bool(name and getattr(self.config, name))

    def _number(self, name: str, otherwise: float) -> float:
        value = getattr(self.config, name) if name else None
        return otherwise if value is None else float(value)

    def _cap(self, name: str) -> float:
        """A cap, or 0 where the config has none. transformers divides by a cap of 0."""
        cap = self._number(name, math.inf)
        if cap <= 0:
            raise NotDescribed(f"its config has {name} {cap}")
        return 0.0 if cap == math.inf else cap

    def _kv_heads(self, attention: Any) -> int:
        own = getattr(attention, "num_kv_heads", None)
        return int(own or getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads)

    def _slopes(self, heads: int) -> tuple[float, ...]:
        whole = 2 ** math.floor(math.log2(heads))
        slopes = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
        slopes += [2.0 ** (-4.0 * (2 * i + 1) / whole) for i in range(heads - whole)]
        exact = torch.tensor(slopes)
        return tuple((exact.bfloat16().float() if self.family.rounded_alibi else exact).tolist())

    # --- helpers ---

    def _name(self, parameter: Any) -> str:
        return self._names[id(parameter)]

    @staticmethod
    def _first(owner: Any, *names: str) -> Any:
        return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)

    @staticmethod
    def _equal(values: Sequence[float], what: str) -> float:
        if len(set(values)) != 1:
            raise NotDescribed(f"its layers have different {what}")
        return values[0]
