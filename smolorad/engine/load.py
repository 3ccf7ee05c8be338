"""From a model folder to a resident base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from smolora._paths import cache_path
from smolorad.domain import Device, Dtype, LoadProgress, LoadStage, Precision
from smolorad.engine.base import Base, share
from smolorad.engine.constraint import Constraints
from smolorad.engine.device import Hardware, Placement, ladder, place
from smolorad.engine.facts import CONFIG, facts, read_config, weight_files
from smolorad.engine.failure import first_line, is_out_of_memory
from smolorad.engine.forward import Steps, steps_of
from smolorad.engine.native.build import library
from smolorad.engine.native.linear import Packed, pack_linears
from smolorad.engine.native.step import NativeModel, knows
from smolorad.engine.parked import Parked, park
from smolorad.engine.self_test import answer_fault, attention_fault, settle, trace
from smolorad.engine.vocabulary import Vocabulary
from smolorad.errors import Damaged, InvalidRequest, UnsupportedModel

# Where neither the config nor the tokenizer tells.
_CONTEXT_LENGTH = 2048
# Keys of a config.json that choose code: transformers has fetched and run what they name (CVE-2026-4372).
_CODE_KEYS = frozenset({"attn_implementation", "experts_implementation"})

_SLOW = "The cache of {architecture} cannot be used, so the whole text is computed for every token: right, but slow."

log = logging.getLogger("smolorad.engine")

Report = Callable[[LoadProgress], None]


def load(
    folder: Path,
    name: str,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    precision: Precision = Precision.EXACT,
    hardware: Hardware | None = None,
    report: Report = lambda progress: None,
) -> Base:
    """Reads a model, brings it where it is to compute, and lets it make a first token.

    None for device or dtype chooses; `hardware` is this machine's unless it is given. `report` hears of each stage.
    Raises NotFound, UnsupportedModel, Damaged, and InvalidRequest for a device or dtype that cannot be had.
    """
    # A large tokenizer takes as long to read as the weights, and no torch.
    beside = ThreadPoolExecutor(1)
    reading = beside.submit(_tokenizer, folder, trust_remote_code)
    beside.shutdown(wait=False)  # when that is done
    hardware = hardware or Hardware.here()
    transformers_logging.disable_progress_bar()
    found = facts(folder, name=name, trust_remote_code=trust_remote_code)
    config = _config(folder, name, trust_remote_code)
    first = place(device, dtype, found.parameters, hardware)
    total = sum(path.stat().st_size for path in weight_files(folder, name))

    def read(placement: Placement) -> Any:
        report(LoadProgress(LoadStage.READ, 0, total))
        model = _read(folder, config, placement, trust_remote_code)
        report(LoadProgress(LoadStage.READ, total, total))
        report(LoadProgress(LoadStage.MOVE, detail=str(placement)))
        return model

    def attempt(placement: Placement) -> tuple[Any, str]:
        if placement.device is Device.CPU:
            return read(placement), ""
        try:
            if placement.attention == "sdpa" and (fault := attention_fault(placement.device, placement.dtype)):
                return None, fault
            model = read(placement)
            expected = trace(model, steps_of(model))
            # From the CPU, in one thread: reading straight to MPS has crashed the process (transformers#48029).
            model = model.to(placement.device)
            return model, answer_fault(model, placement.dtype, expected)
        except RuntimeError as error:  # an operator that the device lacks, or memory that it has not
            return None, first_line(error).rstrip(".")

    model, placement, notes = settle(ladder(first, device, dtype, found.parameters, hardware), attempt)
    parked = _own_weights(model, placement, precision)
    tokenizer = reading.result()
    end_ids = _end_ids(model, tokenizer)
    vocabulary = Vocabulary(tokenizer, end_ids)
    report(LoadProgress(LoadStage.WARM_UP))
    steps = steps_of(model)
    if steps is Steps.WHOLE:
        notes = (*notes, _SLOW.format(architecture=model.config.model_type))
        log.warning("%s: %s", name, notes[-1])
    native, packed = _compiled(model, precision) if placement.device is Device.CPU else (None, None)
    if precision is not Precision.EXACT and native is None and packed is None:
        raise InvalidRequest.field(
            "precision",
            f"is {precision}, but {name} on {placement.device} can only be read exactly: int8 and int4 need the CPU and a C "
            "compiler; load it with `--precision exact`, or with `--device cpu` where there is a compiler",
        )
    return Base(
        model=model,
        tokenizer=tokenizer,
        name=name,
        path=folder,
        fingerprint=found.fingerprint,
        device=placement.device,
        dtype=placement.dtype,
        context_length=_context_length(model, tokenizer),
        end_ids=end_ids,
        vocabulary=vocabulary,
        constraints=Constraints(vocabulary),
        notes=notes,
        trust_remote_code=trust_remote_code,
        precision=precision,
        native=native,
        packed=packed,
        parked=parked,
        steps=steps,
    )


def _compiled(model: Any, precision: Precision) -> tuple[NativeModel | None, Packed | None]:
    """What our own library makes of the model: a native step, or packed linear layers, or nothing where it cannot be built."""
    compiled = library(cache_path(), torch.get_num_threads())
    if compiled is None:
        return None, None
    if knows(model, precision):
        return NativeModel(compiled, model, precision), None
    return None, pack_linears(share(model), compiled, precision)


def _config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    """The model's config, checked before any code acts on it."""
    raw = read_config(folder)
    if "quantization_config" in raw:
        raise UnsupportedModel(f"{name} is quantised; load the model that it was made from.")
    if trust_remote_code and "auto_map" in raw:
        return _made(folder, lambda: AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True))
    kind = raw["model_type"]
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    architectures = raw.get("architectures") or []
    if causal is None or kind not in CONFIG_MAPPING:
        raise UnsupportedModel(f"{name} is a {kind!r}, which is no causal language model; choose one that generates text.")
    if architectures and not any(known in architectures for known in ([causal] if isinstance(causal, str) else causal)):
        raise UnsupportedModel(f"{name} is a {architectures[0]}, which does not generate text; choose a causal language model.")
    return _made(folder, lambda: CONFIG_MAPPING[kind].from_dict(_cleared(raw)))


def _made(folder: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (ImportError, OSError):  # of the model's own code: a package or a file that it asks for
        raise
    except Exception as error:  # each architecture checks its values with errors of its own
        why = " ".join(str(error).split())[:300].rstrip(".")
        raise Damaged(f"{folder / CONFIG} cannot be used ({why}); get the model again.") from error


def _cleared(value: Any) -> Any:
    """A config without the keys that choose code, also in the configs inside it; those with a leading `_` are internal ones.

    Floats that JSON has not are written by transformers as objects.
    """
    match value:
        case {"__float__": "Infinity" | "-Infinity" | "NaN" as name, **more} if not more:
            return float(name)
        case Mapping():
            return {key: _cleared(inner) for key, inner in value.items() if not key.startswith("_") and key not in _CODE_KEYS}
        case list():
            return [_cleared(inner) for inner in value]
    return value


def _read(folder: Path, config: Any, placement: Placement, trust_remote_code: bool) -> Any:
    """The model on the CPU, in eval mode, its parameters frozen."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=placement.torch_dtype,
            attn_implementation=None if placement.attention == "sdpa" else placement.attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise Damaged(f"The weights in {folder} are damaged ({error}); get the model again.") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Damaged(f"The weights in {folder} do not fit its config.json; get the model again.") from error
    if info["missing_keys"]:
        raise Damaged(f"The weights in {folder} lack {min(info['missing_keys'])}; get the model again.")
    return model.eval().requires_grad_(False)


def _own_weights(model: Any, placement: Placement, precision: Precision) -> Parked | None:
    """Copies what is still the mapped file itself: a file that is changed or cut short must not reach a model in use.

    Into memory; or where generation will have a packed copy, into a file again, of our own.
    """
    if placement.device is not Device.CPU:
        return None  # the device has its copy
    if precision is not Precision.EXACT and (parked := park(model, cache_path() / "parked")) is not None:
        return parked
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return None


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise Damaged(f"The tokenizer in {folder} cannot be read ({first_line(error)}); get the model again.") from error


def _context_length(model: Any, tokenizer: Any) -> int:
    told = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if told is None and tokenizer.model_max_length < 2**31:  # transformers writes 10^30 for "not known"
        told = tokenizer.model_max_length
    return int(told or _CONTEXT_LENGTH)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    told = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = told if isinstance(told, list) else [told]
    return frozenset(id for id in [*ids, tokenizer.eos_token_id] if id is not None)
