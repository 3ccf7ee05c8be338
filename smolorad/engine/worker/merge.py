"""Merges an adapter into its base, and proves that the model answers as they did.

PEFT merges in fp32 on the CPU; only the result is cast to the number format it is saved in.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from smolorad import publish
from smolorad.domain import Device, Dtype, Merged, MergeProof, PhaseProgress
from smolorad.engine.adapters.peft import read_config, read_weights, wrap
from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.pretrained import fitting_config, pretrained
from smolorad.engine.runtime.device import trim_memory
from smolorad.engine.runtime.errors import refused
from smolorad.engine.worker import merge_check
from smolorad.engine.worker.merge_prefetch import MergePrefetch
from smolorad.engine.worker.progress import Report, no_progress
from smolorad.errors import MergeMismatch, NotFinite, UnsupportedModel
from smolorad.portable import remove_paths

_TORCH = {"F32": Dtype.FLOAT32, "BF16": Dtype.BFLOAT16, "F16": Dtype.FLOAT16}


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    dtype: Dtype | None = None,
    prompts: Sequence[str] = (),
    trust_remote_code: bool = False,
    report: Report = no_progress,
    prefetched: MergePrefetch | None = None,
) -> Merged:
    """Merges a PEFT LoRA folder into its base and writes a plain Hugging Face folder, verified, to `output`.

    `dtype` is the number format it is saved in; None: the base's own. Adapter and model are compared on `prompts`; empty:
    `merge_check.PROMPTS`. `report` gets the phases `read`, `verify`, `merge` and `write`; its error stops the work.
    `prefetched` may be of this base or another.
    On failure nothing is left in `output`. Raises MergeMismatch, WrongBase, NotFinite, UnsupportedModel, Damaged, NotFound.
    """
    folder = ModelFolder.open(base, trust_remote_code=trust_remote_code)
    dtype = dtype or _own_dtype(folder)
    # Work without torch runs beside work with it: sums over files, flushing them, and the tokenizer.
    beside = ThreadPoolExecutor(2)
    try:
        known = prefetched if prefetched is not None and prefetched.is_current(base) else None
        looking = beside.submit(lambda: known or MergePrefetch.of(base, trust_remote_code=trust_remote_code))
        report(PhaseProgress("read", 0, 2, "folders"))
        model = _read(folder, torch.float32)
        tokenizer = looking.result().tokenizer
        batches = merge_check.tokenize(tokenizer, prompts) or merge_check.tokenize(tokenizer, merge_check.PROMPTS)
        report(PhaseProgress("read", 1, 2, "folders"))
        adapted = attach(model, adapter, base.name)
        report(PhaseProgress("read", 2, 2, "folders"))

        verified = _counting(report, "verify", 3 * len(batches))
        unmerged = merge_check.logits_of(adapted, batches, verified)
        report(PhaseProgress("merge", 0, 1, "adapters"))
        model = merged(adapted)
        report(PhaseProgress("merge", 1, 1, "adapters"))
        bound, answers = merge_check.bound_for(unmerged), merge_check.greedy(unmerged)
        difference = merge_check.check_close(unmerged, merge_check.logits_of(model, batches, verified), bound)
        del unmerged, adapted

        with publish.fresh(output):
            report(PhaseProgress("write", 0, 1, "models"))
            _write(model, dtype, folder, output)
            del model
            report(PhaseProgress("write", 1, 1, "models"))
            flushed, summed = beside.submit(publish.flush_tree, output), beside.submit(publish.sums_of, output)
            written = ModelFolder.open(output, trust_remote_code=trust_remote_code)
            logits = merge_check.logits_of(_read(written, "auto"), batches, verified)
            agreement = _checked_agreement(answers, merge_check.greedy(logits), dtype)
            flushed.result()
            sums = summed.result()
            facts = written.inspect(sums)
    finally:
        beside.shutdown(wait=False, cancel_futures=True)
    return Merged(MergeProof(len(batches), difference, bound, agreement), facts, sums)


def _checked_agreement(adapter: Sequence[torch.Tensor], merged: Sequence[torch.Tensor], dtype: Dtype) -> float:
    """The share of the adapter's greedy tokens that the merged model gives; raises MergeMismatch if it is too small."""
    agreement = merge_check.agreement(adapter, merged)
    if agreement < merge_check.MIN_AGREEMENT:
        raise MergeMismatch(
            f"As {dtype} the merged model gives only {agreement:.0%} of the adapter's greedy tokens; nothing was written. "
            "Merge to float32, or train with a lower learning_rate."
        )
    return agreement


def attach(model: Any, folder: Path, base: str) -> PeftModel:
    """The adapter of a PEFT folder on a base in memory, in eval mode; `base` names it in messages. Raises as `merge`."""
    adapted, _ = wrap(model, base, read_config(folder), read_weights(folder), folder)
    return adapted.eval()


def merged(adapted: PeftModel) -> Any:
    """The base with the adapter in its weights; raises NotFinite, and UnsupportedModel for what PEFT does not merge."""
    with refused("PEFT cannot merge this adapter, which can be used as it is"):
        tied = _untied_for_merging(adapted)
        try:
            model = adapted.merge_and_unload(safe_merge=True)
        except ValueError as error:
            if "NaN" not in str(error):
                raise
            raise NotFinite("The merged weights are not finite; train the adapter again with a lower learning_rate.") from error
        if tied:
            model.config.get_text_config().tie_word_embeddings = True
            model.tie_weights()
        return model


def _untied_for_merging(adapted: PeftModel) -> bool:
    """Whether one LoRA is shared by tied embeddings (`ensure_weight_tying`): they get weights of their own until it is merged.

    PEFT would add the update to their one weight once for each of them.
    """
    model = adapted.get_base_model()
    inputs, outputs = (getattr(one, "base_layer", one) for one in (model.get_input_embeddings(), model.get_output_embeddings()))
    if not getattr(adapted.peft_config["default"], "target_modules_to_tie", None) or inputs.weight is not outputs.weight:
        return False
    outputs.weight = torch.nn.Parameter(outputs.weight.detach().clone(), requires_grad=False)
    return True


def _read(folder: ModelFolder, dtype: torch.dtype | str) -> Any:
    return pretrained(folder, fitting_config(folder), dtype=dtype)


def _own_dtype(folder: ModelFolder) -> Dtype:
    """The number format that most of the weights have."""
    elements: Counter[str] = Counter()
    for tensor in folder.tensors:
        elements[tensor.format] += tensor.count
    name = max(elements, key=elements.__getitem__)
    if name not in _TORCH:
        raise UnsupportedModel(f"The base's weights are {name}; merge into a base in float32, bfloat16 or float16.")
    return _TORCH[name]


def _write(model: Any, dtype: Dtype, base: ModelFolder, output: Path) -> None:
    # The base's generation config is copied as it is: some that are published do not pass the checks of saving.
    model.generation_config = GenerationConfig()
    model.to(getattr(torch, dtype))
    # Not every weight is read for the prompts: a token that none of them has, or what a narrow format makes infinite.
    if broken := [name for name, tensor in model.named_parameters() if not _is_finite(tensor)]:
        raise NotFinite(
            f"As {dtype} the merged model would have {broken[0]} with numbers that are not finite; "
            "merge to float32, and get the base again if it has them already."
        )
    trim_memory(Device.CPU)  # the file gets the memory that the wider numbers had
    model.save_pretrained(output)
    for path in base.small_files():
        if path.name != CONFIG:
            shutil.copyfile(path, output / path.name)
    remove_paths(output)


def _is_finite(tensor: torch.Tensor) -> bool:
    # NaN is its own least and most. Thirty times as fast as asking every number.
    return not tensor.numel() or all(math.isfinite(end) for end in torch.stack(torch.aminmax(tensor)).tolist())


def _counting(report: Report, phase: str, total: int) -> Callable[[], None]:
    """A step function that keeps counting over several passes."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        report(PhaseProgress(phase, count, total, "prompts"))

    return step
