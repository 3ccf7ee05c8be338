"""What the engine's tests share: tiny bases, adapters made with PEFT, and answers run to their end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from smolora.common.paths import cache_path
from smolorad.domain import ChatMessage, Device, Dtype, GenerateOutcome, GenerateSpec, KvDtype, Precision, Sampling
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.device_check import compare_with_cpu
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel, LoadReport
from smolorad.engine.model.load import load as load_model
from smolorad.engine.model.load import no_report
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.native_support import described, lay_rows_out, weights_of
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import NativeModel
from smolorad.engine.runtime.device import Hardware
from tests.tiny import CORPUS


def load(
    folder: Path,
    name: str = "tiny",
    *,
    hardware: Hardware | None = None,
    threads: int | None = None,
    report: LoadReport = no_report,
    **options: Any,
) -> BaseModel:
    """The model of a folder as the engine loads it, with these `LoadOptions`."""
    return load_model(folder, name, LoadOptions(**options), compare_with_cpu, hardware=hardware, threads=threads, report=report)


def fp32_base(folder: Path, name: str = "tiny") -> BaseModel:
    """The model of a folder on the CPU in fp32, as the engine loads it."""
    return load(folder, name, device=Device.CPU, dtype=Dtype.FLOAT32)


def plain_model(folder: Path) -> Any:
    """The same model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def native_of(
    model: Any, precision: Precision = Precision.EXACT, *, threads: int = 2, kv_dtype: KvDtype | None = None
) -> NativeModel:
    """The native step of a model of transformers, which must be described."""
    built = library(cache_path(), threads)
    assert built is not None, "these tests need a C compiler"
    decoder = described(model, precision)
    assert not isinstance(decoder, str), decoder
    if precision is Precision.EXACT:
        lay_rows_out(model, decoder)
    return NativeModel(built, decoder, weights_of(model), precision, kv_dtype=kv_dtype)


def make_adapter(folder: Path, out: Path, *, seed: int = 1, **lora: Any) -> Path:
    """A PEFT folder for the model in `folder`, with random B weights, so that it changes every answer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(plain_model(folder), LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **lora}))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3 if "lora_" in name else 0.05)
    model.save_pretrained(out)
    return out


def spec(prompt: str = "", *, messages: tuple[ChatMessage, ...] = (), **sampling: Any) -> GenerateSpec:
    """A request; greedy unless a temperature is given."""
    return GenerateSpec(prompt=prompt, messages=messages, sampling=Sampling(**{"temperature": 0.0, **sampling}))


def begin(
    base: BaseModel,
    request: GenerateSpec,
    adapter: Adapter | None = None,
    key: str = "",
    prefixes: PrefixCache | None = None,
) -> GenerationRequest:
    """An answer that has not made a step; it remembers nothing of others unless `prefixes` are given."""
    return GenerationRequest(
        1,
        base,
        request,
        adapter=adapter,
        adapter_name=key,
        prefixes=(PrefixCache() if prefixes is None else prefixes).of(key),
        arrived=time.monotonic(),
    )


def finish(answer: GenerationRequest) -> tuple[str, GenerateOutcome]:
    """Runs an answer to its end: all its text, and its outcome."""
    pieces = []
    while answer.outcome is None:
        pieces.append(answer.step())
    return "".join(pieces), answer.outcome


def generated_by_transformers(model: Any, tokenizer: Any, prompt: str, **options: Any) -> list[int]:
    """The ids that plain `generate` adds to a prompt."""
    inputs = tokenizer(prompt, return_tensors="pt")
    ids: list[int] = model.generate(**inputs, **options)[0, inputs.input_ids.shape[1] :].tolist()
    return ids


def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE as Llama 2 and Mistral have it: spaces are U+2581, and what is not in the vocabulary falls back to its bytes."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *(chr(code) for code in range(33, 127))]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "a"), ('"', ":"), ("{", '"'), ("a", "n"), ("1", "2")]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(steps)
    bpe.add_special_tokens([AddedToken(token, special=True) for token in tokens[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece unigram model, as T5 and XGLM have it."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=["<unk>", "</s>"], unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    unigram.train_from_iterator([*CORPUS, *alphabet], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")
