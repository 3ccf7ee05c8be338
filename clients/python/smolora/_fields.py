"""The settings a user may give. GENERATED from proto/ by scripts/fields.py."""

# fmt: off
# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Field:
    """One setting: its name in the contract, its kind, and the contract's comment.

    The kind is int, float, str, bool, strs, ints, map (numbers by name), names (names by name), floats (numbers by id), or
    the choices, as `fail|drop`.
    """

    name: str
    kind: str
    help: str


LORA: tuple[Field, ...] = (
    Field("r", "int", "Rank of the update; 1 to 1024. Default 8."),
    Field("lora_alpha", "int", "Its scale is lora_alpha / r; 1 to 65536. Default 16."),
    Field("lora_dropout", "float", "Share of the update's input dropped while training; 0 to below 1. Default 0.1."),
    Field("target_modules", "strs", "Names of the modules to adapt, or the one name `all-linear`. Default `q_proj`, `v_proj`; where a model has none of them, PEFT's own mapping for it, else attention's fused projection, else all linear modules."),
    Field("exclude_modules", "strs", "Names of modules to leave alone. Default none."),
    Field("bias", "str", "`none`, `all` or `lora_only`. Default `none`."),
    Field("use_rslora", "bool", "Scale by lora_alpha / sqrt(r) instead. Default false."),
    Field("use_dora", "bool", "Weight-decomposed LoRA. Default false."),
    Field("modules_to_save", "strs", "Further modules to train whole and save. Default none."),
    Field("layers_to_transform", "ints", "Only these layers, from 0. Default all."),
    Field("init_lora_weights", "str", "`true` (zero update at the start), `gaussian`, `olora`, `pissa` or `pissa_niter_N`; the last three come out as a plain LoRA of twice the rank, since the base stays as it is, and do not go with use_dora or use_rslora. Default `true`."),
    Field("rank_pattern", "map", "Ranks that differ, by module name. Default none."),
    Field("alpha_pattern", "map", "Alphas that differ, by module name. Default none."),
)

TRAINER: tuple[Field, ...] = (
    Field("max_steps", "int", "Optimiser steps; 1 to 10,000,000. Default 500; not with num_train_epochs."),
    Field("num_train_epochs", "float", "Passes over the data; above 0. Default: max_steps decides."),
    Field("per_device_train_batch_size", "int", "Rows a micro-step; 1 to 1024. Default 1."),
    Field("gradient_accumulation_steps", "int", "Micro-steps an optimiser step; 1 to 4096. Default 8."),
    Field("learning_rate", "float", "Peak learning rate; above 0, at most 10. Default 2e-4."),
    Field("lr_scheduler_type", "str", "`linear`, `cosine`, `constant`, `constant_with_warmup`, `polynomial`, `inverse_sqrt` or `cosine_with_restarts`. Default `linear`."),
    Field("warmup_steps", "float", "Warm-up: steps from 1 up, or a share of all steps below 1. Default 0."),
    Field("optim", "str", "`adamw_torch`, `adamw_torch_fused`, `sgd`, `adafactor` or `adagrad`. Default `adamw_torch`."),
    Field("weight_decay", "float", "Default 0."),
    Field("adam_beta1", "float", "Default 0.9."),
    Field("adam_beta2", "float", "Default 0.999."),
    Field("adam_epsilon", "float", "Default 1e-8."),
    Field("max_grad_norm", "float", "Gradients are scaled down to this norm; 0 is off. Default 1.0."),
    Field("max_length", "int", "Rows are cut to this many tokens; 8 to the model's context. Default 1024."),
    Field("packing", "bool", "Join short rows into long ones. Default false."),
    Field("gradient_checkpointing", "bool", "Compute activations again in the backward pass: less memory, slower. Default false."),
    Field("neftune_noise_alpha", "float", "Noise on the embeddings (NEFTune); 0 is off. Default 0."),
    Field("seed", "int", "Seed of the adapter's start, of dropout and of the order of rows. Default 42."),
    Field("logging_steps", "int", "Steps between two reports; at least 1. Default 10."),
    Field("eval_steps", "int", "Steps between two evaluations on the held-out rows, besides those before the first step and after the last; 0: only those. Default 0."),
    Field("per_device_eval_batch_size", "int", "Rows an evaluation batch; 1 to 1024. Default 8."),
    Field("eval_rows", "int", "Held-out rows to evaluate on at most, the first ones; 0: all. Default 256."),
    Field("save_steps", "int", "Steps between two checkpoints; at least 1. Default 50."),
    Field("trainer", "str", "`fast`: rows without padding and only the logits that are scored, several times as fast; losses as TRL's within rounding. `plain`: TRL's SFTTrainer as it is, bit for bit; it also takes over what the fast one cannot train, and says so. Default `fast`."),
    Field("save_seconds", "float", "Seconds without a checkpoint after which the next step writes one, too; 0 is off, at most 86,400. Default 30."),
    Field("completion_only_loss", "bool", "Of rows with a prompt and a completion, learn the completion alone. Default true."),
    Field("assistant_only_loss", "bool", "Of conversations, learn the assistant's turns alone. Default true."),
    Field("early_stopping_patience", "int", "Stop after this many evaluations in a row without a lower held-out loss, and keep the adapter of the lowest; needs eval_steps; 0 is off. Default 0."),
    Field("beta", "float", "Of preference pairs: how close the adapter stays to what it began from (DPO); above 0, at most 10. Default 0.1."),
    Field("sample_prompts", "strs", "Prompts that the adapter answers while it learns, as events; at most 16, of 64 KiB together. Default none."),
    Field("sample_steps", "int", "Steps between two answers to them, besides after the last step; at least 1. Default 50."),
    Field("sample_max_tokens", "int", "Tokens of such an answer at most; 1 to 1024. Default 48."),
    Field("tensorboard", "bool", "Write TensorBoard files; a note says where. Default false."),
)

SAMPLING: tuple[Field, ...] = (
    Field("max_tokens", "int", "Tokens to generate at most; 1 to the model's context. Default 200."),
    Field("temperature", "float", "0 is greedy; otherwise 0.01 to 10. Default 1.0."),
    Field("top_p", "float", "Nucleus: the smallest set of tokens whose probabilities reach this; above 0, at most 1 (off). Default 1.0."),
    Field("top_k", "int", "Only the k likeliest tokens; 0 is off. Default 0."),
    Field("min_p", "float", "Only tokens at least this share as likely as the likeliest; 0 (off) to 1. Default 0."),
    Field("repetition_penalty", "float", "Divides the scores of tokens already seen; above 0, 1.0 is off. Default 1.0."),
    Field("stop", "strs", "Generation ends where one of these appears; they are not part of the answer. At most 16, none empty."),
    Field("seed", "int", "Makes sampling repeatable; 0 to 2^63-1. Default: drawn; the outcome has it."),
    Field("typical_p", "float", "Locally typical sampling: only tokens about as surprising as the distribution expects, until their probabilities reach this; above 0, at most 1 (off). Default 1.0."),
    Field("epsilon_cutoff", "float", "Only tokens at least this likely; 0 (off) to below 1. Default 0."),
    Field("eta_cutoff", "float", "Eta sampling: as epsilon_cutoff, with a bound that falls where the distribution is flat; 0 (off) to below 1. Default 0."),
    Field("top_h", "float", "Top-H: the likeliest tokens, until they have this share of the entropy of the likeliest 100; above 0, at most 1. Default: off."),
    Field("presence_penalty", "float", "Taken from the score of each token that the answer already has; -2 to 2. Default 0."),
    Field("frequency_penalty", "float", "Taken from the score of each token for every time that the answer already has it; -2 to 2. Default 0."),
    Field("no_repeat_ngram_size", "int", "No sequence of this many tokens comes twice, the prompt included; 0 (off) to 1,024. Default 0."),
    Field("min_tokens", "int", "The end-of-text token cannot come before this many tokens; a stop string can. At least 0, and no more than max_tokens. Default 0."),
    Field("logit_bias", "floats", "Added to the scores of tokens, by token id: each from -100 (never) to 100. No more than 1,024 of them. Default none."),
    Field("bad_words", "strs", "What must not come, as the tokens of the text with and without a space before it. At most 256, none empty. Default none."),
)

PREPARE: tuple[Field, ...] = (
    Field("file_type", "txt|jsonl|csv|saved_dataset|json|tsv|parquet|arrow|markdown", "What the files are read as. Default: by the ending."),
    Field("text_field", "str", "The field or column that holds the text, at most 64 KiB. Default `text`."),
    Field("chunk_size", "int", "Cut rows of text into pieces of this many words (see chunk_unit); 0 leaves them whole. Default 0."),
    Field("validation", "float", "The share of rows held out for evaluation; 0 to 0.5. Default 0.05. Where files are named as validation, their rows are held out in its place."),
    Field("seed", "int", "Seed of the split. Default 42."),
    Field("on_error", "fail|drop", "What to do with a malformed row. Default: fail."),
    Field("model", "str", "A model whose tokenizer counts the tokens; empty for the loaded one, or the starter model if it is at hand."),
    Field("shape", "text|prompt_completion|chat|preference", "What the rows are made into. Default: decided by the fields of the first row."),
    Field("columns", "names", "Fields by other names, as `prompt=question,completion=answer`: the name that rows are read by, then the name in the files; at most 64 KiB together. Default none."),
    Field("text_unit", "line|paragraph|document", "What a row of plain text is. Default: a line, in Markdown a paragraph."),
    Field("chunk_unit", "words|tokens|paragraphs", "What chunk_size counts. Default words."),
    Field("chunk_overlap", "int", "Tokens that a piece repeats of the one before it; 0 to below chunk_size, only with pieces of tokens. Default 0."),
    Field("near_duplicates", "float", "Drop rows at least this similar to one before them (the Jaccard index of their five-word sequences); 0 (off) to 1. Default 0."),
    Field("min_characters", "int", "Leave out rows of fewer characters; 0 to 1,000,000. Default 0."),
    Field("max_characters", "int", "Leave out rows of more characters; 0 (no limit) to 2,000,000,000. Default 0."),
    Field("max_length", "int", "Tokens of a row that training is going to read; the report says what that cuts off. 8 to 1,000,000. Default 1024."),
    Field("delimiter", "str", "What separates columns in a CSV file, one character. Default: found from the header."),
    Field("parse_special", "bool", "Whether the spelling of a control token in a row (the end of a turn, say) is read as that token; false reads it as text. What the chat template writes is always control tokens. The preview and every training on the dataset follow it. Default false."),
    Field("splits", "named|ignore", "What becomes of files that are named as splits: `train.jsonl`, `data/test-00000-of-00002.parquet`. Default named."),
    Field("strict_groups", "bool", "Keep rows of one prompt in one split also where too few rows can be held out so; else rows of the largest group are then in both. Default false."),
)


class TrainKeywords(TypedDict, total=False):
    """The settings of `train`: PEFT's and TRL's names."""

    r: int  # Rank of the update; 1 to 1024. Default 8.
    lora_alpha: int  # Its scale is lora_alpha / r; 1 to 65536. Default 16.
    lora_dropout: float  # Share of the update's input dropped while training; 0 to below 1. Default 0.1.
    target_modules: Iterable[str]  # Names of the modules to adapt, or the one name `all-linear`. Default `q_proj`, `v_proj`; where a model has none of them, PEFT's own mapping for it, else attention's fused projection, else all linear modules.
    exclude_modules: Iterable[str]  # Names of modules to leave alone. Default none.
    bias: str  # `none`, `all` or `lora_only`. Default `none`.
    use_rslora: bool  # Scale by lora_alpha / sqrt(r) instead. Default false.
    use_dora: bool  # Weight-decomposed LoRA. Default false.
    modules_to_save: Iterable[str]  # Further modules to train whole and save. Default none.
    layers_to_transform: Iterable[int]  # Only these layers, from 0. Default all.
    init_lora_weights: str  # `true` (zero update at the start), `gaussian`, `olora`, `pissa` or `pissa_niter_N`; the last three come out as a plain LoRA of twice the rank, since the base stays as it is, and do not go with use_dora or use_rslora. Default `true`.
    rank_pattern: Mapping[str, int]  # Ranks that differ, by module name. Default none.
    alpha_pattern: Mapping[str, int]  # Alphas that differ, by module name. Default none.
    max_steps: int  # Optimiser steps; 1 to 10,000,000. Default 500; not with num_train_epochs.
    num_train_epochs: float  # Passes over the data; above 0. Default: max_steps decides.
    per_device_train_batch_size: int  # Rows a micro-step; 1 to 1024. Default 1.
    gradient_accumulation_steps: int  # Micro-steps an optimiser step; 1 to 4096. Default 8.
    learning_rate: float  # Peak learning rate; above 0, at most 10. Default 2e-4.
    lr_scheduler_type: str  # `linear`, `cosine`, `constant`, `constant_with_warmup`, `polynomial`, `inverse_sqrt` or `cosine_with_restarts`. Default `linear`.
    warmup_steps: float  # Warm-up: steps from 1 up, or a share of all steps below 1. Default 0.
    optim: str  # `adamw_torch`, `adamw_torch_fused`, `sgd`, `adafactor` or `adagrad`. Default `adamw_torch`.
    weight_decay: float  # Default 0.
    adam_beta1: float  # Default 0.9.
    adam_beta2: float  # Default 0.999.
    adam_epsilon: float  # Default 1e-8.
    max_grad_norm: float  # Gradients are scaled down to this norm; 0 is off. Default 1.0.
    max_length: int  # Rows are cut to this many tokens; 8 to the model's context. Default 1024.
    packing: bool  # Join short rows into long ones. Default false.
    gradient_checkpointing: bool  # Compute activations again in the backward pass: less memory, slower. Default false.
    neftune_noise_alpha: float  # Noise on the embeddings (NEFTune); 0 is off. Default 0.
    seed: int  # Seed of the adapter's start, of dropout and of the order of rows. Default 42.
    logging_steps: int  # Steps between two reports; at least 1. Default 10.
    eval_steps: int  # Steps between two evaluations on the held-out rows, besides those before the first step and after the last; 0: only those. Default 0.
    per_device_eval_batch_size: int  # Rows an evaluation batch; 1 to 1024. Default 8.
    eval_rows: int  # Held-out rows to evaluate on at most, the first ones; 0: all. Default 256.
    save_steps: int  # Steps between two checkpoints; at least 1. Default 50.
    trainer: str  # `fast`: rows without padding and only the logits that are scored, several times as fast; losses as TRL's within rounding. `plain`: TRL's SFTTrainer as it is, bit for bit; it also takes over what the fast one cannot train, and says so. Default `fast`.
    save_seconds: float  # Seconds without a checkpoint after which the next step writes one, too; 0 is off, at most 86,400. Default 30.
    completion_only_loss: bool  # Of rows with a prompt and a completion, learn the completion alone. Default true.
    assistant_only_loss: bool  # Of conversations, learn the assistant's turns alone. Default true.
    early_stopping_patience: int  # Stop after this many evaluations in a row without a lower held-out loss, and keep the adapter of the lowest; needs eval_steps; 0 is off. Default 0.
    beta: float  # Of preference pairs: how close the adapter stays to what it began from (DPO); above 0, at most 10. Default 0.1.
    sample_prompts: Iterable[str]  # Prompts that the adapter answers while it learns, as events; at most 16, of 64 KiB together. Default none.
    sample_steps: int  # Steps between two answers to them, besides after the last step; at least 1. Default 50.
    sample_max_tokens: int  # Tokens of such an answer at most; 1 to 1024. Default 48.
    tensorboard: bool  # Write TensorBoard files; a note says where. Default false.


class SamplingKeywords(TypedDict, total=False):
    """How `generate` chooses tokens: transformers' and OpenAI's names."""

    max_tokens: int | None  # Tokens to generate at most; 1 to the model's context. Default 200.
    temperature: float | None  # 0 is greedy; otherwise 0.01 to 10. Default 1.0.
    top_p: float | None  # Nucleus: the smallest set of tokens whose probabilities reach this; above 0, at most 1 (off). Default 1.0.
    top_k: int | None  # Only the k likeliest tokens; 0 is off. Default 0.
    min_p: float | None  # Only tokens at least this share as likely as the likeliest; 0 (off) to 1. Default 0.
    repetition_penalty: float | None  # Divides the scores of tokens already seen; above 0, 1.0 is off. Default 1.0.
    stop: Iterable[str] | None  # Generation ends where one of these appears; they are not part of the answer. At most 16, none empty.
    seed: int | None  # Makes sampling repeatable; 0 to 2^63-1. Default: drawn; the outcome has it.
    typical_p: float | None  # Locally typical sampling: only tokens about as surprising as the distribution expects, until their probabilities reach this; above 0, at most 1 (off). Default 1.0.
    epsilon_cutoff: float | None  # Only tokens at least this likely; 0 (off) to below 1. Default 0.
    eta_cutoff: float | None  # Eta sampling: as epsilon_cutoff, with a bound that falls where the distribution is flat; 0 (off) to below 1. Default 0.
    top_h: float | None  # Top-H: the likeliest tokens, until they have this share of the entropy of the likeliest 100; above 0, at most 1. Default: off.
    presence_penalty: float | None  # Taken from the score of each token that the answer already has; -2 to 2. Default 0.
    frequency_penalty: float | None  # Taken from the score of each token for every time that the answer already has it; -2 to 2. Default 0.
    no_repeat_ngram_size: int | None  # No sequence of this many tokens comes twice, the prompt included; 0 (off) to 1,024. Default 0.
    min_tokens: int | None  # The end-of-text token cannot come before this many tokens; a stop string can. At least 0, and no more than max_tokens. Default 0.
    logit_bias: Mapping[int, float] | None  # Added to the scores of tokens, by token id: each from -100 (never) to 100. No more than 1,024 of them. Default none.
    bad_words: Iterable[str] | None  # What must not come, as the tokens of the text with and without a space before it. At most 256, none empty. Default none.


class PrepareKeywords(TypedDict, total=False):
    """The settings of `prepare`."""

    file_type: str | None  # What the files are read as. Default: by the ending.
    text_field: str | None  # The field or column that holds the text, at most 64 KiB. Default `text`.
    chunk_size: int | None  # Cut rows of text into pieces of this many words (see chunk_unit); 0 leaves them whole. Default 0.
    validation: float | None  # The share of rows held out for evaluation; 0 to 0.5. Default 0.05. Where files are named as validation, their rows are held out in its place.
    seed: int | None  # Seed of the split. Default 42.
    on_error: str | None  # What to do with a malformed row. Default: fail.
    model: str | None  # A model whose tokenizer counts the tokens; empty for the loaded one, or the starter model if it is at hand.
    shape: str | None  # What the rows are made into. Default: decided by the fields of the first row.
    columns: Mapping[str, str] | None  # Fields by other names, as `prompt=question,completion=answer`: the name that rows are read by, then the name in the files; at most 64 KiB together. Default none.
    text_unit: str | None  # What a row of plain text is. Default: a line, in Markdown a paragraph.
    chunk_unit: str | None  # What chunk_size counts. Default words.
    chunk_overlap: int | None  # Tokens that a piece repeats of the one before it; 0 to below chunk_size, only with pieces of tokens. Default 0.
    near_duplicates: float | None  # Drop rows at least this similar to one before them (the Jaccard index of their five-word sequences); 0 (off) to 1. Default 0.
    min_characters: int | None  # Leave out rows of fewer characters; 0 to 1,000,000. Default 0.
    max_characters: int | None  # Leave out rows of more characters; 0 (no limit) to 2,000,000,000. Default 0.
    max_length: int | None  # Tokens of a row that training is going to read; the report says what that cuts off. 8 to 1,000,000. Default 1024.
    delimiter: str | None  # What separates columns in a CSV file, one character. Default: found from the header.
    parse_special: bool | None  # Whether the spelling of a control token in a row (the end of a turn, say) is read as that token; false reads it as text. What the chat template writes is always control tokens. The preview and every training on the dataset follow it. Default false.
    splits: str | None  # What becomes of files that are named as splits: `train.jsonl`, `data/test-00000-of-00002.parquet`. Default named.
    strict_groups: bool | None  # Keep rows of one prompt in one split also where too few rows can be held out so; else rows of the largest group are then in both. Default false.
