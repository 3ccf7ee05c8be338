"""Small tokenizers as transformers has them, and the metadata that llama.cpp's converter writes of such."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer
from transformers.tokenization_utils_base import generate_merges

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_SAMPLES = (
    *("", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "Hello", " Hello", "  Hello", "Hello ", "\nHello"),
    *("a\tb", "a  b", "a   b", "12", "1234567", "3.14", "1 2 3", "  1", "a1b2", "½ ² Ⅻ ٣٤", "I'm you'RE he'll we'd 's't"),
    *("def f(x):\n    return x ** 2  # it\n", "for (int i = 0; i < n; ++i) {\n\t\ts += a[i];\n}", "<p>\n  <b>Hi</b>\n</p>"),
    *(
        "SELECT * FROM t WHERE a='b';",
        '{"a": [1, 2.5, null]}',
        "https://example.com/a?b=1&c=2#d",
        "naïve café re\u0301sume\u0301",
    ),
    *(
        "Å Å",
        "한국어",
        "日本語、カタカナ。",
        "中文，标点。",
        "Привет, мир!",
        "مرحبا، بك",
        "नमस्ते।",
        "ไทย",
        "😀",
        "👍🏽",
        "👨‍👩‍👧",
        "🇩🇪",
    ),
    *(
        "\u200b\u200d\ufeff",
        "\u00a0x\u00a0",
        "\u3000全角",
        "\x00\x7f",
        "𝔘𝔫𝔦",
        "▁▁ ▁a",
        "Ġ Ċ",
        "<0x0A>",
        "[PAD7]",
        "!!!???...",
        "====-----",
    ),
    *(
        "((([[[{{{",
        "$1 €2",
        "C:\\x\\n",
        "~^|<>=+",
        " " * 40,
        "\n" * 40,
        "CamelCase snake_case",
        "ALLCAPS lower Mixed",
        "</s> <s>",
    ),
)
CORPUS = ("the quick brown Fox's 12345 jumps over the lazy dogs; it isn't what they're at, they'll say.\n\n  " * 3, *_SAMPLES)


def texts(special: Sequence[str] = ()) -> list[str]:
    """200 texts, with special tokens in many of them."""
    pieces = [*_SAMPLES, *special]
    chosen = random.Random(1)
    mixed = ["".join(chosen.choices(pieces, k=chosen.randint(2, 7))) for _ in range(200 - len(pieces))]
    return [*pieces, *mixed]


def metadata_of(original: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """The metadata of a byte-level tokenizer; keys of `more` belong to `tokenizer.ggml`."""
    described = json.loads(original.backend_tokenizer.to_str())
    by_id = {index: token for token, index in original.get_vocab().items()}
    added = {one["id"]: one for one in described["added_tokens"]}
    kinds = {index: _CONTROL if one["special"] else _USER_DEFINED for index, one in added.items()}
    count = max(by_id) + 4  # the model's embeddings have some rows more
    found = {
        "model": "gpt2",
        "tokens": [by_id.get(index, f"[PAD{index}]") for index in range(count)],
        "token_type": [kinds.get(index, _NORMAL if index in by_id else 5) for index in range(count)],
        "merges": [" ".join(pair) for pair in described["model"]["merges"]],
        **_named(original),
        **more,
    }
    return prefixed(found, original.chat_template)


def prefixed(found: Mapping[str, Any], template: str | None = None, architecture: str = "llama") -> dict[str, Any]:
    """The keys as the file has them."""
    named = {"general.architecture": architecture, **{f"tokenizer.ggml.{key}": value for key, value in found.items()}}
    return named if template is None else {**named, "tokenizer.chat_template": template}


def _named(original: Any) -> dict[str, int]:
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {key: getattr(original, f"{name}_token_id") for name, key in keys.items()}
    return {f"{key}_token_id": found for key, found in ids.items() if found is not None}


def _trained(pre_tokenizer: Any, normalizer: Any = None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = BpeTrainer(vocab_size=500, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False, min_frequency=2)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _of_class(made: type[Any], pre_tokenizer: Any, **special: Any) -> Any:
    vocab, merges = _trained(pre_tokenizer, normalizers.NFC())
    tokenizer = made(vocab=vocab, merges=merges, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("  ", normalized=False)])
    return tokenizer


def _of_parts(*parts: Any, whole: bool = False, bos: bool = False) -> PreTrainedTokenizerFast:
    pre_tokenizer = pre.Sequence(list(parts)) if len(parts) > 1 else parts[0]
    vocab, merges = _trained(pre_tokenizer)
    if whole:
        vocab["zebra"] = len(vocab)  # a token that no merges make
    backend = Tokenizer(BPE(vocab, merges, ignore_merges=whole))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|b|>", eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    if bos:
        ids = [("<|b|>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<|b|> $A", "<|b|> $A <|b|> $B", ids)
    return tokenizer


def _split(regex: str) -> Any:
    return pre.Split(Regex(regex), "isolated")


_RAW = pre.ByteLevel(add_prefix_space=False, use_regex=False)
_FULL = pre.ByteLevel(add_prefix_space=False)
_DIGITS = pre.Digits(individual_digits=True)
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"

BYTE_LEVEL: Mapping[str, Callable[[], Any]] = {
    "gpt-2": lambda: _of_class(GPT2Tokenizer, _FULL),
    "olmo": lambda: _of_class(GPTNeoXTokenizer, _FULL),
    "qwen2": lambda: _of_class(Qwen2Tokenizer, _FULL),
    "qwen35": lambda: _of_class(Qwen3_5Tokenizer, _FULL),
    "command-r": lambda: _of_class(CohereTokenizer, pre.Sequence([_DIGITS, _FULL])),
    "smollm": lambda: _of_parts(_DIGITS, _FULL),
    "starcoder": lambda: _of_parts(_DIGITS, _FULL),
    "falcon": lambda: _of_parts(
        pre.Punctuation("contiguous"), _FULL, pre.Digits(individual_digits=False), _split("[0-9][0-9][0-9]")
    ),
    "llama-bpe": lambda: _of_parts(_split(_LLAMA_3), _RAW, whole=True, bos=True),
    "smaug-bpe": lambda: _of_parts(_split(_LLAMA_3), _RAW, whole=True),
    "dbrx": lambda: _of_parts(_split(_LLAMA_3), _RAW),
    "tekken": lambda: _of_parts(_split(_TEKKEN), _RAW, whole=True, bos=True),
    "bloom": lambda: _of_parts(_split(_BLOOM), _RAW),
}


def _pieces() -> dict[str, int]:
    """A vocabulary of SentencePiece's kind, without the special tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre.Metaspace(split=True)
    tokenizer.train_from_iterator(CORPUS, BpeTrainer(vocab_size=400, show_progress=False, limit_alphabet=90))
    vocab: dict[str, int] = json.loads(tokenizer.to_str())["model"]["vocab"]
    merged = sorted((token for token in vocab if len(token) > 1 and len({*token, "▁", "\n"}) > 2), key=vocab.__getitem__)
    return {token: index for index, token in enumerate([*merged, *sorted(token for token in vocab if len(token) == 1)])}


def sentencepiece(kind: str) -> tuple[Any, dict[str, Any]]:
    """A tokenizer of the kind `llama`, `gemma` or `phi3`, and its metadata."""
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>", "<turn>"] if kind == "gemma" else ["<unk>", "<s>", "</s>"]
    runs = [sign * count for count in range(2, 9) for sign in "\n▁"] if kind == "gemma" else []
    tokens = [*first, *runs, *(f"<0x{byte:02X}>" for byte in range(256)), *_pieces()]
    begin = len(tokens) - len(_pieces())
    scores = [0.0] * begin + [-float(index) for index in range(len(tokens) - begin)]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocab, dict(zip(tokens, scores, strict=True)))
    types = [_CONTROL] * len(first) + [_USER_DEFINED] * len(runs) + [_BYTE] * 256 + [_NORMAL] * (len(tokens) - begin)
    types[vocab["<unk>"]] = _CONTROL if kind == "gemma" else _UNKNOWN
    original = {"gemma": _gemma, "llama": _llama, "phi3": _phi_3}[kind](vocab, merges, first, runs)
    written = [token.replace("▁", " ") if type == _USER_DEFINED else token for token, type in zip(tokens, types, strict=True)]
    found = {
        "model": "llama",
        "pre": "default",
        "tokens": written,
        "scores": [-1000.0 if type in (_CONTROL, _USER_DEFINED) else score for score, type in zip(scores, types, strict=True)],
        "token_type": types,
        "add_bos_token": True,
        **_named(original),
    }
    if kind == "gemma":
        found["add_space_prefix"] = False
    if kind == "phi3":  # added behind SentencePiece's own
        found["tokens"] = [*written, "<|end|>"]
        found["scores"] = [*found["scores"], -1000.0]
        found["token_type"] = [*types, _CONTROL]
    return original, prefixed(found, original.chat_template, {"gemma": "gemma3"}.get(kind, kind))


def _llama(vocab: Any, merges: Any, first: list[str], runs: list[str]) -> Any:
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def _gemma(vocab: Any, merges: Any, first: list[str], runs: list[str]) -> Any:
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, mask_token="<unused0>", add_bos_token=True)
    added = [AddedToken(token, normalized=False, special=token == "<turn>") for token in ("<turn>", *runs)]
    tokenizer.add_tokens(added)
    return tokenizer


def _phi_3(vocab: Any, merges: Any, first: list[str], runs: list[str]) -> Any:
    backend = Tokenizer(BPE(vocab, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>")])
    backend.add_special_tokens([AddedToken(token, normalized=False, rstrip=True) for token in ("</s>", "<|end|>")])
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def read_back(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that was written, as transformers reads it."""
    made: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return made
