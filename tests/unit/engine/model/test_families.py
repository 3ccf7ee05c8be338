"""Every family of the table computes what transformers computes, number for number."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import masking_utils

from smolorad.domain import Precision
from smolorad.engine.model.families import FAMILIES, MODEL_TYPES
from smolorad.engine.model.native_support import described
from smolorad.engine.model.torch_kv_cache import as_transformers
from smolorad.engine.native.decoder import NativeModel, Part
from tests.families import EVEN, ODD, VARIANTS, config_of, family_model
from tests.unit.engine.kit import native_of

# Of the largest logit: sums in another order, in fp32.
NEAR = 1e-5
TOKENS = ((torch.arange(70) * 31 + 7) % 97).tolist()
# The first variant of each class; what the others change is in their logits, which are compared for all.
_FIRST = set({kind: variant for variant, (kind, _) in reversed(VARIANTS.items())}.values())
CLASSES = [pytest.param(variant, marks=() if variant in _FIRST else pytest.mark.long) for variant in VARIANTS]


def by_native(native: NativeModel, tokens: Sequence[int], ends: Sequence[int]) -> Tensor:
    """The logits after each token; each step computes up to one of `ends`."""
    cache, begin, found = native.cache(len(tokens)), 0, []
    for end in (*ends, len(tokens)):
        found.append(native.step([Part(list(tokens[begin:end]), cache, every=True)]))
        begin = end
    return torch.from_numpy(np.concatenate(found))


def by_transformers(model: Any, tokens: Sequence[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].float()
    return logits


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant: str) -> None:
    model = family_model(variant)
    expected = by_transformers(model, TOKENS)
    found = by_native(native_of(model), TOKENS, (5, 6, 7, 8, 9, 50))  # windows are crossed by single tokens and by many
    assert difference(found, expected) <= NEAR


@pytest.mark.parametrize("variant", CLASSES)
def test_a_packed_model_computes_with_its_rounded_weights(variant: str) -> None:
    model = family_model(variant, EVEN)
    native = native_of(model, Precision.INT8)
    found = by_native(native, TOKENS, (5, 6))
    expected = by_transformers(model, TOKENS)
    # Eight bits change little, and a row that is read at another place changes everything.
    likeness = torch.nn.functional.cosine_similarity(found, expected)
    assert float(likeness.median()) > 0.99


@pytest.mark.parametrize("variant", CLASSES)
def test_company_changes_no_bit(variant: str) -> None:
    native = native_of(family_model(variant))
    texts = [TOKENS[at : at + 12] for at in (0, 3, 20)]
    alone = [by_native(native, text, range(1, 12)) for text in texts]
    caches = [native.cache(12) for _ in texts]
    for at in range(12):
        together = native.step([Part([text[at]], cache) for text, cache in zip(texts, caches, strict=True)])
        assert all(np.array_equal(row, one[at]) for row, one in zip(together, alone, strict=True))


@pytest.mark.parametrize("variant", CLASSES)
def test_it_continues_where_the_forward_pass_ended_and_back(variant: str) -> None:
    model = family_model(variant)
    expected, native = by_transformers(model, TOKENS), native_of(model)
    if not native.shares_cache:
        return
    cache, found = native.cache(len(TOKENS)), []
    for first, last in ((0, 20), (40, 55)):
        with torch.inference_mode():
            ids, places = torch.tensor([TOKENS[first:last]]), torch.arange(first, last)[None]
            known = {"position_ids": places} if "position_ids" in inspect.signature(model.forward).parameters else {}
            found.append(model(input_ids=ids, past_key_values=as_transformers(cache), **known).logits[0])
        found.append(torch.from_numpy(native.step([Part(TOKENS[last : last + 20][: len(TOKENS) - last], cache, every=True)])))
    assert difference(torch.cat(found), expected) <= NEAR


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_a_long_text(variant: str) -> None:
    config = config_of(variant)
    longer = {"n_positions": 4096} if config.model_type == "gpt2" else {"max_position_embeddings": 4096}
    model = family_model(variant, **longer)
    tokens = (np.arange(4096) * 7919 % 97).tolist()
    expected = by_transformers(model, tokens)
    found = by_native(native_of(model), tokens, range(100, 4096, 100))
    assert difference(found, expected) <= NEAR


def test_the_table_and_the_types_name_the_same_classes() -> None:
    kinds = {type(family_model(variant)).__name__: config_of(variant).model_type for variant in VARIANTS}
    assert set(kinds) == set(FAMILIES)
    assert set(kinds.values()) == MODEL_TYPES


def test_the_page_lists_every_class_of_the_table_once() -> None:
    page = (Path(__file__).parents[4] / "docs" / "models.md").read_text(encoding="utf-8")
    assert re.findall(r"^\|[^|]*\| `(\w+)` \|", page, re.MULTILINE) == sorted(FAMILIES, key=str.lower)


# --- what a config may ask for ---

# Looked at by `describe.py` itself, or by the modules that it reads.
DESCRIBED = {
    *("activation", "activation_function", "add_cross_attention", "alibi", "apply_residual_connection_post_layernorm"),
    *("attention_bias", "attention_multiplier", "attention_out_bias", "attn_logit_softcapping", "bias", "clip_qkv"),
    *("decoder_sparse_step", "do_layer_norm_before", "embedding_multiplier", "enable_bias", "ffn_dim", "ffn_hidden_size"),
    *("final_logit_softcapping", "head_dim", "hidden_act", "hidden_activation", "hidden_size", "intermediate_size"),
    *("is_causal", "layer_norm_elementwise_affine", "layer_norm_eps", "layer_norm_epsilon", "layer_types", "logit_scale"),
    *("logits_scaling", "max_position_embeddings", "mlp_bias", "mlp_only_layers", "moe_intermediate_size", "multi_query"),
    *("n_embd", "n_head", "n_inner", "n_layer", "new_decoder_architecture", "no_rope_layers", "norm_eps", "norm_epsilon"),
    *("norm_topk_prob", "num_attention_heads", "num_experts", "num_experts_per_tok", "num_hidden_layers"),
    *("num_key_value_heads", "num_kv_heads", "num_ln_in_parallel_attn", "num_local_experts", "parallel_attn"),
    *("qk_layernorm", "query_pre_attn_scalar", "residual_multiplier", "rms_norm_eps", "rope_parameters"),
    *("scale_attn_by_inverse_layer_idx", "scale_attn_weights", "sliding_window", "sliding_window_pattern", "slow_but_exact"),
    *("tie_word_embeddings", "use_bias", "use_bidirectional_attention", "use_parallel_residual", "use_qk_norm"),
    *("use_qkv_bias", "use_sliding_window", "vocab_size", "word_embed_proj_dim", "_remove_final_layer_norm"),
    "original_max_position_embeddings",
}
# Changes no logit of a causal model that is not trained.
WITHOUT_EFFECT = {
    *("_attn_implementation", "_is_quantized", "attention_dropout", "attn_pdrop", "dropout", "dtype", "embd_pdrop"),
    *("embedding_dropout", "get_text_config", "hidden_dropout", "initializer_range", "layerdrop", "output_attentions"),
    *("output_hidden_states", "output_router_logits", "pad_token_id", "pretraining_tp", "reorder_and_upcast_attn"),
    *("resid_pdrop", "residual_dropout", "return_dict", "router_aux_loss_coef", "router_jitter_noise", "use_cache"),
    # Of other heads, and of models that see.
    *("classifier_dropout", "num_labels", "problem_type", "summary_activation", "summary_first_dropout"),
    *("summary_last_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "image_token_id"),
    *("mm_tokens_per_image", "text_config", "vision_config"),
}


@pytest.mark.parametrize("kind", sorted(MODEL_TYPES))
def test_no_class_looks_at_a_key_that_we_do_not_know(kind: str) -> None:
    name = kind.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    masks = _config_keys(masking_utils.create_causal_mask) | _config_keys(masking_utils.create_sliding_window_causal_mask)
    assert _config_keys(module) | masks <= DESCRIBED | WITHOUT_EFFECT


def _config_keys(code: Any) -> set[str]:
    """What some code reads of any config: `config.key`, `self.config.key` and `getattr(config, "key", …)`."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(code))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] == "config":
            found.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            of, key = node.args[:2]
            if ast.unparse(of).split(".")[-1] == "config" and isinstance(key, ast.Constant):
                found.add(str(key.value))
    return found


NOT_DESCRIBED = {
    "not causal": ("llama", {"is_causal": False}, "not causal"),
    "both ways": ("gemma 3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "chunks": ("llama", {"attention_chunk_size": 4, "layer_types": ["chunked_attention"] * 3}, "chunks"),
    "windows that the class ignores": ("llama", {"layer_types": ["sliding_attention"] * 3}, "windows"),
    "a window that the class ignores": ("llama", {"sliding_window": 4}, "windows"),
    "a Mistral that is a Ministral": ("mistral", {"layer_types": ["full_attention"] * 3}, "layers without a window"),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rotation"),
    "clipped": ("olmo", {"clip_qkv": 1.0}, "clip_qkv"),
    "narrow embeddings": ("opt", {"word_embed_proj_dim": 30}, "embed_tokens"),
    "norms after": ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
    "scales by layer": ("gpt 2", {"scale_attn_by_inverse_layer_idx": True}, "attention scales"),
    "another activation": ("llama", {"hidden_act": "mish"}, "activation"),
    "windows without a token": ("mistral", {"sliding_window": 0}, "windows of 0"),
    "a cap of 0": ("gemma 2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping 0.0"),
    "logits divided by 0": ("granite", {"logits_scaling": 0.0}, "division by zero"),
    "a scale that float32 does not have": ("granite", {"embedding_multiplier": 1e39}, "not finite"),
    "norms of the normed": ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual"),
}


@pytest.mark.parametrize("case", NOT_DESCRIBED)
def test_what_the_step_does_not_compute_is_said(case: str) -> None:
    variant, changes, reason = NOT_DESCRIBED[case]
    model = family_model(variant, **changes)
    assert reason in str(described(model))


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("llama", {"rms_norm_eps": 0.0}), ("gpt neox", {"layer_norm_eps": 0.0}), ("gemma 2", {"alibi": True})],
    ids=["no epsilon", "no epsilon of a layer norm", "a key of another class"],
)
def test_rare_configs(variant: str, changes: dict[str, Any]) -> None:
    model = family_model(variant, **changes)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1e-2)  # so that an epsilon counts
    assert difference(by_native(native_of(model), TOKENS, (5,)), by_transformers(model, TOKENS)) <= NEAR


def test_a_window_of_more_tokens_than_c_counts_is_none() -> None:
    model = family_model("mistral", sliding_window=2**32 + 7)
    assert difference(by_native(native_of(model), TOKENS, (5,)), by_transformers(model, TOKENS)) <= NEAR


def test_a_class_of_another_project_is_not_described() -> None:
    model = family_model("llama")
    other = type("LlamaForCausalLM", (type(model),), {"__module__": "mine"})
    model.__class__ = other
    assert "is no family" in str(described(model))


def test_matrices_in_odd_sizes_are_not_packed() -> None:
    assert "groups of 32" in str(described(family_model("gemma 3", ODD), Precision.INT8))


def test_bf16_is_as_near_as_transformers_is() -> None:
    for variant in ("gemma 3", "gpt neox", "cohere 2", "qwen 3 moe, normed"):
        model = family_model(variant, EVEN)
        truth = by_transformers(model, TOKENS)
        rounded = copy.deepcopy(model).to(torch.bfloat16)
        theirs = difference(by_transformers(rounded, TOKENS), truth)
        ours = difference(by_native(native_of(rounded), TOKENS, (5, 6)), truth)
        assert ours <= 1.5 * theirs, variant
