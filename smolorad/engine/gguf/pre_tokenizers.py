"""How byte-level BPE cuts a text before merges, for each value of GGUF's `tokenizer.ggml.pre`.

The format names the cut and does not describe it. The table has what the models' own tokenizers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from smolorad.engine.gguf.vocabulary import Vocabulary
from smolorad.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut a text."""

    steps: tuple[Mapping[str, Any], ...]
    nfc: bool = False  # the text is normalized first; llama.cpp never does
    whole_tokens: bool = False  # a piece that is a token needs no merges
    adds_bos: bool = False  # where the file does not say
    has_bos: bool = True  # otherwise the converter made it up


def _split(regex: str) -> Mapping[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _bytes(*, use_regex: bool) -> Mapping[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _digits(*, individual: bool) -> Mapping[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


def _by(*regexes: str) -> Cut:
    return Cut((*map(_split, regexes), _bytes(use_regex=False)))


_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _gpt_4(numbers: str, spaces: str = _SPACES) -> str:
    """GPT-4's regex, with the numbers of a model."""
    return rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{spaces}"


def _gpt_4o(numbers: str, suffixes: str) -> str:
    """GPT-4o's regex, which sees lower and upper case."""
    before = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{before}{_UPPER}*{_LOWER}+{suffixes}|{before}{_UPPER}+{_LOWER}*{suffixes}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_GPT_2 = Cut((_bytes(use_regex=True),))
_GPT_NEOX = replace(_GPT_2, nfc=True)
_STARCODER = Cut((_digits(individual=True), _bytes(use_regex=True)))
_FALCON = Cut(
    (
        {"type": "Punctuation", "behavior": "Contiguous"},
        _bytes(use_regex=True),
        _digits(individual=False),
        _split("[0-9][0-9][0-9]"),
    )
)
_LLAMA_3 = replace(_by(_gpt_4(r"\p{N}{1,3}")), whole_tokens=True, adds_bos=True)
_GPT_4 = _by(_gpt_4(r"\p{N}{1,3}"))
_QWEN_2 = replace(_by(_gpt_4(r"\p{N}")), nfc=True)
_QWEN_35 = replace(
    _by(rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"),
    nfc=True,
)
_BLOOM = _by(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+")
_DEEPSEEK_3 = _by(
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_DEEPSEEK_CODER = Cut(
    (
        *map(_split, ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")),
        _digits(individual=True),
        _bytes(use_regex=False),
    )
)
_BAILING = _by(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")

CUTS: Mapping[str, Cut] = {
    **dict.fromkeys(("gpt-2", "phi-2", "gigachat", "mellum", "a.x-4.0", "jais", "trillion", "granite-docling"), _GPT_2),
    "exaone4": _GPT_2,
    **dict.fromkeys(("mpt", "olmo"), _GPT_NEOX),  # of Pythia, OLMo and StableLM 3B too
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), _STARCODER),
    "command-r": replace(_STARCODER, nfc=True),
    "falcon": _FALCON,
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA_3),
    "smaug-bpe": replace(_LLAMA_3, adds_bos=False),  # of SmolLM3 too
    "dbrx": _GPT_4,  # of Phi-4, OLMo 2 and Granite 4 too
    "chatglm-bpe": replace(_GPT_4, has_bos=False),
    **dict.fromkeys(("glm4", "glm5"), replace(_GPT_4, whole_tokens=True, has_bos=False)),
    "qwen2": replace(_QWEN_2, has_bos=False),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2"), _QWEN_2),
    **dict.fromkeys(("hunyuan", "solar-open", "grok-2"), replace(_QWEN_2, nfc=False)),
    "qwen35": replace(_QWEN_35, has_bos=False),
    "seed-coder": _by(rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"),
    "tekken": replace(_by(_gpt_4o(r"\p{N}", "")), whole_tokens=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _by(_gpt_4o(r"\p{N}{1,3}", f"{_SUFFIXES}?"))),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _by(r"\d{1,3}(?=(?:\d{3})*\b)", _gpt_4o(r"\p{N}{1,3}", f"{_SUFFIXES}?"))),
    "minicpm5": replace(_by(r"\p{N}{1,3}", _gpt_4(r"\p{N}+")), whole_tokens=True),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), _BLOOM),
    "viking": replace(_BLOOM, steps=(_BLOOM.steps[0], _digits(individual=True), _BLOOM.steps[-1])),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
    "deepseek-coder": _DEEPSEEK_CODER,
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK_3),
}

# What files from before the field say by their architecture. Others have models that differ.
_BEFORE: Mapping[str, str] = {
    "bloom": "bloom",
    "command-r": "command-r",
    "falcon": "falcon",
    "gpt2": "gpt-2",
    "gptneox": "olmo",
    "mpt": "mpt",
    "phi2": "phi-2",
    "qwen2": "qwen2",
    "refact": "refact",
    "starcoder": "starcoder",
    "starcoder2": "starcoder",
}


def cut_of(vocabulary: Vocabulary, file: str) -> Cut:
    """How the file's tokenizer cuts a text. Raises UnsupportedModel."""
    pre = vocabulary.pre
    if pre in ("", "default"):
        pre = _BEFORE.get(vocabulary.architecture, "")
        if not pre:
            raise UnsupportedModel(
                f"{file} does not say how its tokenizer cuts a text (`tokenizer.ggml.pre`), as older files do; take a newer "
                "GGUF of the same model, or load the model that it was made from."
            )
    if pre not in CUTS:
        raise UnsupportedModel(
            f"{file} cuts a text as {pre[:40]!a} does (`tokenizer.ggml.pre`), which smolora does not know; load the model "
            "that it was made from."
        )
    return CUTS[pre]


def shape(cut: Cut) -> dict[str, Any]:
    """The normalizer, the pre-tokenizer and the decoder, as a tokenizer.json has them."""
    first, *more = cut.steps
    return {
        "normalizer": {"type": "NFC"} if cut.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut.steps} if more else first,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def model(cut: Cut) -> dict[str, Any]:
    """What the model says besides its vocabulary and its merges."""
    return {"continuing_subword_prefix": "", "end_of_word_suffix": "", "ignore_merges": cut.whole_tokens}
