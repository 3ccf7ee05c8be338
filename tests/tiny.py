"""Tiny random models of several architectures, each a complete safetensors folder with a tokenizer of its own.

They are made from a config with a fixed seed, so the same call gives the same weights on every machine with the same torch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "qwen2", "gpt2", "gpt_neox", "mistral")
# With a state beside attention or alone, and without a cache that can be used.
OTHER_ARCHITECTURES = ("bamba", "falcon_h1", "jamba", "mamba", "openai-gpt")
CONTEXT_LENGTH = 512
END = "<|endoftext|>"
SPECIAL = (END, "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "In the beginning the small model knew nothing, and the words were without form.",
    "A daemon keeps the model in memory; an adapter is trained on it and answers at once.",
    "The quick brown fox jumps over the lazy dog, ten times out of ten.",
    "Ein kleines Modell lernt schöne Wörter: Äpfel, Öl, Übung. Да, и ещё немного. 日本語も少し 🙂",
)

# Weights drawn this wide make the greedy answer wander; at the usual 0.02 a random model repeats one token for ever.
_SPREAD = 0.3
_SHAPE = {"vocab_size": 0, "max_position_embeddings": CONTEXT_LENGTH, "initializer_range": _SPREAD}
_LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **_SHAPE,
}
_MAMBA = {"mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
# Multi-head latent attention, whose values are of another width than its queries.
_LATENT = _LLAMA | {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
}
_CONFIGS: dict[str, dict[str, object]] = {
    "bamba": _LLAMA | _MAMBA | {"attn_layer_indices": [1], "head_dim": 12},
    "falcon_h1": _LLAMA | _MAMBA | {"mamba_d_ssm": 96, "head_dim": 12},
    "jamba": _LLAMA | {"mamba_d_state": 8, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "minimax": _LLAMA | {"num_local_experts": 2, "head_dim": 12, "block_size": 16},
    "mamba": {"hidden_size": 48, "state_size": 8, "num_hidden_layers": 2, "vocab_size": 0, "initializer_range": _SPREAD},
    "openai-gpt": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_LENGTH, "initializer_range": _SPREAD},
    "gemma2": _LLAMA | {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": CONTEXT_LENGTH},
    # Its layers may be of several widths, and some have no keys of their own.
    "gemma3n_text": _LLAMA
    | {
        "head_dim": 12,
        "intermediate_size": [96, 96, 64, 64],
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 384,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "sliding_window": CONTEXT_LENGTH,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "llama": _LLAMA | {"tie_word_embeddings": True},
    "qwen2": _LLAMA,
    "mistral": _LLAMA | {"head_dim": 12, "sliding_window": None},
    "qwen3": _LLAMA | {"head_dim": 16},
    "deepseek_v3": _LATENT
    | {
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "minicpm3": _LATENT,
    "xlm": {"emb_dim": 48, "n_layers": 2, "n_heads": 4, "init_std": _SPREAD, "embed_init_std": _SPREAD},
    "bert": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    "bert-generation": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    "ctrl": {"n_embd": 48, "n_layer": 2, "n_head": 4, "dff": 96, "n_positions": CONTEXT_LENGTH, "initializer_range": _SPREAD},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, **_SHAPE},
    "gpt_neox": {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rotary_pct": 0.5,
        **_SHAPE,
    },
}


def tiny_tokenizer(*, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few hundred entries, trained on `CORPUS`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END, model_max_length=CONTEXT_LENGTH)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(folder: Path, architecture: str = "llama", *, chat: bool = True, seed: int = 0, **changes: object) -> Path:
    """Writes a model in fp32 into `folder` and returns it; `changes` go into its config."""
    tokenizer = tiny_tokenizer(chat=chat)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    settings = _CONFIGS.get(architecture, {}) | {"vocab_size": len(tokenizer)} | ends | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings), dtype=torch.float32)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
