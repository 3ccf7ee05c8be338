"""From a model folder to a base model, by transformers: any causal language model, on any device."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from smolora.common.paths import cache_path
from smolorad.domain import Device, LoadProgress, LoadStage, Precision
from smolorad.engine.model.base_model import BaseModel, LoadReport, TransformersModel
from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.mapped_weights import MappedWeights, write_to_file
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.model.model_text import make_model_text
from smolorad.engine.model.native_support import described, lay_rows_out, weights_of
from smolorad.engine.model.placement import MakeDeviceCheck, first_that_works
from smolorad.engine.model.pretrained import fitting_config, pretrained
from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.shared_view import share
from smolorad.engine.model.torch_runner import TorchRunner, find_cache_support
from smolorad.engine.model.transformers_folder import context_length, end_ids, read_tokenizer
from smolorad.engine.model.transformers_sizes import transformers_sizes
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import NativeModel
from smolorad.engine.native.packed_linear import Packed, pack_linears
from smolorad.engine.runtime.device import Hardware, Placement, place, placements_to_try
from smolorad.engine.runtime.errors import reading
from smolorad.engine.runtime.short_matmul import AFFECTED_DEVICES, MAX_INNER_LENGTH, has_long_products, split_long_products
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import InvalidRequest, UnsupportedModel, first_line

_SHORTENED = (
    "Its context of {context:,} tokens is cut to {longest:,}, as attention to more can be wrong on {device} (pytorch#195012)."
)
_NOT_NATIVE = "It is computed by transformers' code, one answer at a time, since {reason}."
_MOSTLY_EXACT = (
    "{precision} holds for its linear layers alone: {exact:,.1f} MB of other weights, as of experts, stay in {dtype}."
)
_SLOW = "The cache of {architecture} cannot be used, so the whole text is computed for every token: right, but slow."

log = logging.getLogger("smolorad.engine")


def load_transformers(
    folder: ModelFolder,
    options: LoadOptions,
    device_check: MakeDeviceCheck,
    *,
    hardware: Hardware | None = None,
    report: LoadReport,
    memory_check: MemoryCheck | None = None,
) -> BaseModel:
    """Reads a model, moves it to where it is to compute, and lets it make a first token. Parameters and errors as in `load`."""
    reading_tokenizer = _read_tokenizer_beside(folder)
    transformers_logging.disable_progress_bar()
    checkpoint = _Checkpoint(folder, fitting_config(folder), report)
    found = folder.inspect()
    placements = _placements(checkpoint, options, hardware or Hardware.here(), found.parameters, memory_check)
    model, placement, notes = _place(checkpoint, placements, device_check)
    mapped_weights = _own_weights(model, placement, options.precision)
    tokenizer = reading_tokenizer.result()
    ends = end_ids(model, tokenizer)
    vocabulary = Vocabulary(tokenizer, ends)
    report(LoadProgress(LoadStage.WARM_UP))
    # Layers that can be built may not go together.
    with reading(folder.path / CONFIG, "get the model again", UnsupportedModel):
        cache_support = find_cache_support(model)
    native, packed, native_notes = _compiled(model, options) if placement.device is Device.CPU else (None, None, ())
    _check_options(options, folder.name, placement, native, packed)
    context, context_notes = _context(model, tokenizer, placement)
    parameters = list(model.parameters())
    transformers_model = TransformersModel(model, tokenizer)
    return BaseModel(
        transformers_model=lambda: transformers_model,
        tokenizer=tokenizer,
        name=folder.name,
        path=folder.path,
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
        text=make_model_text(tokenizer, vocabulary.end_ids),
        grammars=GrammarCache(vocabulary),
        runner=TorchRunner(packed.model if packed is not None else model, cache_support),
        notes=(*notes, *native_notes, *_cache_notes(folder.name, model, cache_support), *context_notes),
        trust_remote_code=folder.trust_remote_code,
        precision=options.precision,
        kv_dtype=options.kv_dtype,
        native=native,
        packed=packed,
        exact_weights=mapped_weights,
        long_product_guard=split_long_products(placement.device) if has_long_products(model) else None,
    )


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What is read again for each placement that is tried."""

    folder: ModelFolder
    config: Any  # transformers.PretrainedConfig
    report: LoadReport

    def read(self, placement: Placement) -> Any:
        """The model on the CPU, in the placement's number format."""
        size = self.folder.size
        self.report(LoadProgress(LoadStage.READ, 0, size))
        model = pretrained(
            self.folder,
            self.config,
            dtype=placement.torch_dtype,
            attention=None if placement.attention == "sdpa" else placement.attention,
        )
        model.requires_grad_(False)
        self.report(LoadProgress(LoadStage.READ, size, size))
        self.report(LoadProgress(LoadStage.MOVE, detail=str(placement)))
        return model


def _placements(
    checkpoint: _Checkpoint, options: LoadOptions, hardware: Hardware, parameters: int, memory_check: MemoryCheck | None
) -> Iterable[Placement]:
    """Where to try a model of `parameters` parameters; raises OutOfMemory where the first has not the memory."""
    first = place(options.device, options.dtype, parameters, hardware)
    if memory_check is not None and "auto_map" not in checkpoint.folder.config:  # a model's own code may need its weights
        sizes = transformers_sizes(checkpoint.folder, checkpoint.config, first)
        memory_check(checkpoint.folder.name, first, options.precision, sizes)
    return placements_to_try(first, options.device, options.dtype, parameters, hardware)


def _read_tokenizer_beside(folder: ModelFolder) -> Future[Any]:
    """A large tokenizer takes as long to read as the weights, and no torch."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(read_tokenizer, folder.path, folder.trust_remote_code)
    executor.shutdown(wait=False)  # once it is done
    return future


def _place(
    checkpoint: _Checkpoint, placements: Iterable[Placement], device_check: MakeDeviceCheck
) -> tuple[Any, Placement, tuple[str, ...]]:
    """The model where it computes correctly, that placement, and notes for the user."""

    def attempt(placement: Placement) -> tuple[Any, str]:
        if placement.device is Device.CPU:
            return checkpoint.read(placement), ""
        try:
            comparison = device_check()
            if fault := comparison.kernel_fault(placement):
                return None, fault
            return comparison.move(checkpoint.read(placement), placement)
        except RuntimeError as error:  # an operator that the device lacks, or too little memory on it
            return None, first_line(error).rstrip(".")

    model, placement, notes = first_that_works(placements, attempt)
    return model, placement, notes if placement.device is Device.CPU else (*notes, *device_check().notes(placement))


def _check_precision(precision: Precision, name: str, placement: Placement, *, packs: bool) -> None:
    if precision is not Precision.EXACT and not packs:
        raise InvalidRequest.field(
            "precision",
            f"is {precision}, but {name} on {placement.device} can only be read exactly: int8 and int4 need the CPU and a C "
            "compiler; load it with `--precision exact`, or with `--device cpu` where there is a compiler",
        )


def _check_options(
    options: LoadOptions, name: str, placement: Placement, native: NativeModel | None, packed: Packed | None
) -> None:
    _check_precision(options.precision, name, placement, packs=native is not None or packed is not None)
    if options.kv_dtype is not None and native is None:
        raise InvalidRequest.field(
            "kv_dtype",
            f"is {options.kv_dtype}, but {name} on {placement.device} is not computed by the native decoder, which alone knows "
            "other caches than the model's own; leave it out",
        )


def _context(model: Any, tokenizer: Any, placement: Placement) -> tuple[int, tuple[str, ...]]:
    """How many tokens prompt and answer may have together, and a note where that is less than the model was made for."""
    context = context_length(model, tokenizer)
    if placement.device not in AFFECTED_DEVICES or context <= MAX_INNER_LENGTH:
        return context, ()
    return MAX_INNER_LENGTH, (_SHORTENED.format(context=context, longest=MAX_INNER_LENGTH, device=placement.device),)


def _cache_notes(name: str, model: Any, cache_support: CacheSupport) -> tuple[str, ...]:
    if cache_support is not CacheSupport.NONE:
        return ()
    note = _SLOW.format(architecture=model.config.model_type)
    log.warning("%s: %s", name, note)
    return (note,)


def _precision_notes(model: Any, packed: Packed | None, precision: Precision) -> tuple[str, ...]:
    if packed is None or precision is Precision.EXACT or packed.exact_nbytes <= packed.nbytes:
        return ()
    dtype = str(model.dtype).removeprefix("torch.")
    return (_MOSTLY_EXACT.format(precision=precision, exact=packed.exact_nbytes / 1e6, dtype=dtype),)


def _compiled(model: Any, options: LoadOptions) -> tuple[NativeModel | None, Packed | None, tuple[str, ...]]:
    """What our own library makes of the model: a native step, or packed linear layers, or nothing where it cannot be built.

    With a note for the user where there is no native step.
    """
    precision, compiled = options.precision, library(cache_path(), torch.get_num_threads())
    if compiled is None:
        return None, None, ()
    decoder = described(model, precision)
    if isinstance(decoder, str):
        packed = pack_linears(share(model), compiled, precision)
        return None, packed, (_NOT_NATIVE.format(reason=decoder), *_precision_notes(model, packed, precision))
    if precision is Precision.EXACT:
        lay_rows_out(model, decoder)
    return NativeModel(compiled, decoder, weights_of(model), precision, kv_dtype=options.kv_dtype), None, ()


def _own_weights(model: Any, placement: Placement, precision: Precision) -> MappedWeights | None:
    """Copies what is still the mapped file itself: a file that is changed or cut short must not reach a model in use.

    Into memory; or where generation will have a packed copy, into a file again, of our own.
    """
    if placement.device is not Device.CPU:
        return None  # the device has its copy
    if precision is not Precision.EXACT and (mapped_weights := map_model(model, cache_path() / "weights")) is not None:
        return mapped_weights
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.clone()
        _let_base_go(tensor)
    return None


def map_model(model: Any, folder: Path) -> MappedWeights | None:
    """Moves every parameter and buffer of a model on the CPU into a file without a name below `folder`.

    None where the disk has no room for it, and the log says so; the model is then as it was.
    """
    tensors = list({id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}.values())
    found = write_to_file(map(_bytes, tensors), folder)
    if found is None:
        return None
    mapped, places = found
    for tensor, begin in zip(tensors, places, strict=True):
        flat = torch.frombuffer(mapped, dtype=torch.uint8, count=tensor.nbytes, offset=begin)
        tensor.data = flat.view(tensor.dtype).view(tensor.shape)
        _let_base_go(tensor)
    return MappedWeights(mapped)


def _let_base_go(tensor: Tensor) -> None:
    """A buffer may be a view of what was read (DeepSeek's), which would keep the whole mapped file in memory."""
    if tensor._base is not None:
        tensor._base.data = tensor.data


def _bytes(tensor: Tensor) -> Iterator[Any]:
    yield tensor.data.contiguous().view(-1).view(torch.uint8).numpy().data
