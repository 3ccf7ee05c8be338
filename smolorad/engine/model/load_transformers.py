"""From a model folder to a resident base, by transformers: any causal language model, on any device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from smolora.common.paths import cache_path
from smolorad.domain import Device, Dtype, LoadProgress, LoadStage, Precision
from smolorad.engine.model.base_model import BaseModel, LoadReport, TransformersModel
from smolorad.engine.model.device_check import answer_fault, kernel_fault, product_notes, settle, trace
from smolorad.engine.model.folder import CONFIG, check, facts
from smolorad.engine.model.mapped_weights import MappedWeights, park
from smolorad.engine.model.model_text import model_text
from smolorad.engine.model.native_support import knows, shape_of, weights_of
from smolorad.engine.model.pretrained import fitting_config, pretrained
from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.shared_view import share
from smolorad.engine.model.torch_runner import TorchRunner, steps_of
from smolorad.engine.model.transformers_folder import context_length, end_ids, read_tokenizer
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import NativeModel
from smolorad.engine.native.packed_linear import Packed, pack_linears
from smolorad.engine.runtime.device import Hardware, Placement, ladder, place
from smolorad.engine.runtime.errors import reading
from smolorad.engine.runtime.short_matmul import FAULTY, LONGEST, cut_long_products, generates_long_products, short_matmuls
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import InvalidRequest, UnsupportedModel, first_line

_SHORTENED = (
    "Its context of {context:,} tokens is cut to {longest:,}, as attention to more can be wrong on {device} (pytorch#195012)."
)
_SLOW = "The cache of {architecture} cannot be used, so the whole text is computed for every token: right, but slow."

log = logging.getLogger("smolorad.engine")


def load_transformers(
    folder: Path,
    name: str,
    *,
    device: Device | None = None,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    precision: Precision = Precision.EXACT,
    hardware: Hardware | None = None,
    report: LoadReport,
) -> BaseModel:
    """Reads a model, brings it where it is to compute, and lets it make a first token. Parameters and errors as in `load`."""
    files = check(folder, name=name, trust_remote_code=trust_remote_code)
    # A large tokenizer takes as long to read as the weights, and no torch.
    beside = ThreadPoolExecutor(1)
    reading_tokenizer = beside.submit(read_tokenizer, folder, trust_remote_code)
    beside.shutdown(wait=False)  # when that is done
    hardware = hardware or Hardware.here()
    transformers_logging.disable_progress_bar()
    config = fitting_config(folder, name, trust_remote_code)
    found = facts(folder, name=name, trust_remote_code=trust_remote_code)
    first = place(device, dtype, found.parameters, hardware)
    total = sum(path.stat().st_size for path in files)

    def read(placement: Placement) -> Any:
        report(LoadProgress(LoadStage.READ, 0, total))
        attention = None if placement.attention == "sdpa" else placement.attention
        dtype = placement.torch_dtype
        model = pretrained(folder, config, dtype=dtype, attention=attention, trust_remote_code=trust_remote_code)
        model.requires_grad_(False)
        report(LoadProgress(LoadStage.READ, total, total))
        report(LoadProgress(LoadStage.MOVE, detail=str(placement)))
        return model

    def attempt(placement: Placement) -> tuple[Any, str]:
        if placement.device is Device.CPU:
            return read(placement), ""
        try:
            if fault := kernel_fault(placement):
                return None, fault
            return _compared(read(placement), placement)
        except RuntimeError as error:  # an operator that the device lacks, or memory that it has not
            return None, first_line(error).rstrip(".")

    model, placement, notes = settle(ladder(first, device, dtype, found.parameters, hardware), attempt)
    notes = (*notes, *product_notes(placement.device, placement.dtype))
    parked = _own_weights(model, placement, precision)
    tokenizer = reading_tokenizer.result()
    ends = end_ids(model, tokenizer)
    vocabulary = Vocabulary(tokenizer, ends)
    report(LoadProgress(LoadStage.WARM_UP))
    with reading(folder / CONFIG, "get the model again", UnsupportedModel):  # layers that can be built and do not go together
        steps = steps_of(model)
    if steps is CacheSupport.WHOLE:
        notes = (*notes, _SLOW.format(architecture=model.config.model_type))
        log.warning("%s: %s", name, notes[-1])
    native, packed = _compiled(model, precision) if placement.device is Device.CPU else (None, None)
    if precision is not Precision.EXACT and native is None and packed is None:
        raise InvalidRequest.field(
            "precision",
            f"is {precision}, but {name} on {placement.device} can only be read exactly: int8 and int4 need the CPU and a C "
            "compiler; load it with `--precision exact`, or with `--device cpu` where there is a compiler",
        )
    context = context_length(model, tokenizer)
    if placement.device in FAULTY and context > LONGEST:
        notes = (*notes, _SHORTENED.format(context=context, longest=LONGEST, device=placement.device))
        context = LONGEST
    parameters = list(model.parameters())
    whole = TransformersModel(model, tokenizer)
    return BaseModel(
        whole=lambda: whole,
        tokenizer=tokenizer,
        name=name,
        path=folder,
        fingerprint=found.fingerprint,
        architecture=model.config.model_type,
        parameters=sum(parameter.numel() for parameter in parameters),
        weight_bytes=sum(parameter.nbytes for parameter in parameters),
        device=placement.device,
        dtype=placement.dtype,
        context_length=context,
        vocabulary_size=model.config.get_text_config().vocab_size,
        embeddings=len(model.get_input_embeddings().weight),
        end_ids=ends,
        vocabulary=vocabulary,
        text=model_text(tokenizer, vocabulary.end_ids),
        constraints=GrammarCache(vocabulary),
        speaker=TorchRunner(packed.model if packed is not None else model, steps),
        notes=notes,
        trust_remote_code=trust_remote_code,
        precision=precision,
        native=native,
        packed=packed,
        parked=parked,
        short_matmuls=cut_long_products(placement.device) if generates_long_products(model) else None,
    )


def _compared(model: Any, placement: Placement) -> tuple[Any, str]:
    """The model, moved to its device, and how it computes otherwise there than on the CPU."""
    from smolorad.engine.model.gradient_check import (  # it brings PEFT, which takes a second to import
        gradient_fault,
        lora_gradients,
    )

    expected, gradients = trace(model, steps_of(model)), lora_gradients(model)
    # From the CPU, in one thread: reading straight to MPS has crashed the process (transformers#48029).
    model = model.to(placement.device)
    with short_matmuls(placement.device):
        fault = answer_fault(model, placement.dtype, expected) or gradient_fault(model, placement.dtype, gradients)
    return model, fault


def _compiled(model: Any, precision: Precision) -> tuple[NativeModel | None, Packed | None]:
    """What our own library makes of the model: a native step, or packed linear layers, or nothing where it cannot be built."""
    compiled = library(cache_path(), torch.get_num_threads())
    if compiled is None:
        return None, None
    if knows(model, precision):
        return NativeModel(compiled, shape_of(model), weights_of(model), precision), None
    return None, pack_linears(share(model), compiled, precision)


def _own_weights(model: Any, placement: Placement, precision: Precision) -> MappedWeights | None:
    """Copies what is still the mapped file itself: a file that is changed or cut short must not reach a model in use.

    Into memory; or where generation will have a packed copy, into a file again, of our own.
    """
    if placement.device is not Device.CPU:
        return None  # the device has its copy
    if precision is not Precision.EXACT and (parked := park_model(model, cache_path() / "parked")) is not None:
        return parked
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
    return None


def park_model(model: Any, folder: Path) -> MappedWeights | None:
    """Moves every parameter and buffer of a model on the CPU into a file without a name below `folder`.

    None where the disk has no room for it, and the log says so; the model is then as it was.
    """
    tensors = list({id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}.values())
    found = park(map(_bytes, tensors), folder)
    if found is None:
        return None
    mapped, places = found
    for tensor, begin in zip(tensors, places, strict=True):
        flat = torch.frombuffer(mapped, dtype=torch.uint8, count=tensor.nbytes, offset=begin)
        tensor.data = flat.view(tensor.dtype).view(tensor.shape)
    return MappedWeights(mapped)


def _bytes(tensor: Tensor) -> Iterator[Any]:
    yield tensor.data.contiguous().view(-1).view(torch.uint8).numpy().data
