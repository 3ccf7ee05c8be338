"""An adapter and its base become one ordinary model, which is proved to answer as they did.

PEFT merges in fp32 on the CPU; only the result is cast to the number format it is saved in.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from smolorad import publish
from smolorad.domain import Dtype, Merged, MergeProof, PhaseProgress
from smolorad.engine import proof
from smolorad.engine.facts import CONFIG, check, facts, model_files, read_json, tensors_of
from smolorad.engine.report import Report, tell_nobody
from smolorad.errors import Damaged, MergeMismatch, NotFinite, NotFound, UnsupportedModel, WrongBase

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TORCH = {"F32": Dtype.FLOAT32, "BF16": Dtype.BFLOAT16, "F16": Dtype.FLOAT16}


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    dtype: Dtype | None = None,
    prompts: Sequence[str] = (),
    trust_remote_code: bool = False,
    report: Report = tell_nobody,
) -> Merged:
    """Merges a PEFT LoRA folder into its base and writes a plain Hugging Face folder, verified, to `output`.

    `dtype` is the number format it is saved in; None: the base's own. `prompts` are what adapter and model are compared on;
    empty: `proof.PROMPTS`. `report` is told of the phases `read`, `verify`, `merge` and `write`; what it raises stops the work.
    On failure nothing is left in `output`. Raises MergeMismatch, WrongBase, NotFinite, UnsupportedModel, Damaged, NotFound.
    """
    weights = check(base, trust_remote_code=trust_remote_code)
    dtype = dtype or _own_dtype(weights)
    report(PhaseProgress("read", 0, 2, "folders"))
    model = _read(base, torch.float32, trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code, local_files_only=True)
    batches = proof.tokenize(tokenizer, prompts) or proof.tokenize(tokenizer, proof.PROMPTS)
    report(PhaseProgress("read", 1, 2, "folders"))
    adapted = attach(model, adapter)
    report(PhaseProgress("read", 2, 2, "folders"))

    verified = _counting(report, "verify", 3 * len(batches))
    unmerged = proof.logits_of(adapted, batches, verified)
    report(PhaseProgress("merge", 0, 1, "adapters"))
    model = merged(adapted)
    report(PhaseProgress("merge", 1, 1, "adapters"))
    bound, answers = proof.bound_for(unmerged), proof.greedy(unmerged)
    difference = proof.hold_equal(unmerged, proof.logits_of(model, batches, verified), bound)
    del unmerged, adapted

    with publish.fresh(output):
        report(PhaseProgress("write", 0, 1, "models"))
        _write(model, dtype, base, output, code=trust_remote_code)
        del model
        report(PhaseProgress("write", 1, 1, "models"))
        written = _read(output, "auto", trust_remote_code)
        agreement = proof.agreement(answers, proof.greedy(proof.logits_of(written, batches, verified)))
        if agreement < proof.LEAST_AGREEMENT:
            raise MergeMismatch(
                f"As {dtype} the merged model gives only {agreement:.0%} of the adapter's greedy tokens; nothing was written: "
                "merge to float32, or train with a lower learning_rate."
            )
        told = facts(output, trust_remote_code=trust_remote_code)
    return Merged(MergeProof(len(batches), difference, bound, agreement), told)


def attach(model: Any, folder: Path) -> PeftModel:
    """The adapter on a base in memory, in eval mode; raises as `merge` does."""
    tensors = _read_adapter(folder)
    try:
        # PEFT takes the safetensors file where there is one, and `_read_adapter` made sure that there is.
        adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True).eval()
    except (ValueError, RuntimeError) as error:
        if not any(words in str(error) for words in ("size mismatch", "not found in the base model")):
            raise
        raise WrongBase(_wrong_base(folder, "their modules differ")) from error
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    lora = {name for name in tensors if ".lora_" in name}
    if odd := sorted((expected - tensors.keys()) | (lora - expected)):
        raise WrongBase(_wrong_base(folder, f"{odd[0]} is in only one of them"))
    return adapted


def merged(adapted: PeftModel) -> Any:
    """The base with the adapter in its weights; raises NotFinite."""
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise NotFinite("The merged weights are not finite; train the adapter again with a lower learning_rate.") from error


def _wrong_base(folder: Path, why: str) -> str:
    return f"The adapter in {folder} was not trained on this base ({why}); merge it with the base that it was trained on."


def _read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise NotFound(f"{folder} is no PEFT adapter, for it has no {ADAPTER_CONFIG}; give the folder that PEFT wrote.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UnsupportedModel(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter again with PEFT, as safetensors.")
    if read_json(folder / ADAPTER_CONFIG).get("peft_type") != "LORA":
        raise UnsupportedModel(f"The adapter in {folder} is no LoRA; only LoRA adapters are merged.")
    try:
        tensors: dict[str, torch.Tensor] = load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise Damaged(f"{folder / ADAPTER_WEIGHTS} is cut short or damaged ({error}); train the adapter again.") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NotFinite(f"The adapter holds NaN or infinity ({name}); train it again with a lower learning_rate.")
    return tensors


def _read(folder: Path, dtype: torch.dtype | str, trust_remote_code: bool) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if absent := sorted(info["missing_keys"]):
        raise Damaged(f"The weights in {folder} lack {absent[0]}; make or download the model again.")
    return model.eval()


def _own_dtype(weights: Sequence[Path]) -> Dtype:
    """The number format that most of the weights have."""
    elements: Counter[str] = Counter()
    for _, found, shape in tensors_of(weights):
        elements[found] += math.prod(shape)
    name = max(elements, key=elements.__getitem__)
    if name not in _TORCH:
        raise UnsupportedModel(f"The base's weights are {name}; merge into a base in float32, bfloat16 or float16.")
    return _TORCH[name]


def _write(model: Any, dtype: Dtype, base: Path, output: Path, *, code: bool) -> None:
    # The base's generation config is copied as it is: some that are published do not pass the checks of saving.
    model.generation_config = GenerationConfig()
    model.to(getattr(torch, dtype)).save_pretrained(output)
    for path in model_files(base, code=code):
        if path.name != CONFIG and ".safetensors" not in path.name:
            shutil.copyfile(path, output / path.name)


def _counting(report: Report, phase: str, total: int) -> Callable[[], None]:
    """A step function that counts on over several passes."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        report(PhaseProgress(phase, count, total, "prompts"))

    return step
