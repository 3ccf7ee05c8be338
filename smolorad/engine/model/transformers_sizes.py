"""What a model takes in memory that transformers reads, from the model without its weights."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from smolora.common.paths import cache_path
from smolorad.domain import Device, Precision
from smolorad.engine.model.estimate import ITEM_BYTES, Choice, ModelSizes
from smolorad.engine.model.folder import TOKENIZERS, ModelFolder
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.meta_model import meta_model
from smolorad.engine.model.native_sizes import (
    TORCH_PROCESS_BYTES,
    choices_of,
    described_bytes,
    native_sizes,
    text_bytes,
)
from smolorad.engine.model.native_support import decoder_of
from smolorad.engine.model.transformers_folder import context_length, read_model_config, read_tokenizer
from smolorad.engine.native.build import library
from smolorad.engine.native.library import GROUP, packed_nbytes
from smolorad.engine.native.packed_formats import packed_format, part_of
from smolorad.engine.runtime.device import Hardware, Placement, place

log = logging.getLogger("smolorad.engine")

_FEW, _MORE = 8, 16  # tokens: fewer than any window has
# Where torch computes on a device with memory of its own: what its libraries take for their products, and activations.
_DEVICE_BYTES = 128 * 2**20


def plan_transformers(folder: ModelFolder, options: LoadOptions, hardware: Hardware) -> tuple[Placement, ModelSizes]:
    """Where the model would compute first, and its sizes there. Raises as `load`."""
    config = read_model_config(folder.path, folder.config, folder.name, folder.trust_remote_code)
    placement = place(options.device, options.dtype, folder.count_parameters(), hardware)
    return placement, transformers_sizes(folder, config, placement)


def transformers_sizes(folder: ModelFolder, config: Any, placement: Placement) -> ModelSizes:
    """The sizes of a model on the device of its placement; `config` is transformers'. Raises as `load`."""
    model = meta_model(folder, config, dtype=placement.dtype)
    context = context_length(model, read_tokenizer(folder.path, folder.trust_remote_code))
    on_cpu, tokenizer_bytes = placement.device is Device.CPU, described_bytes(folder.path / TOKENIZERS[0])
    compiled = library(cache_path(), torch.get_num_threads()) if on_cpu else None
    decoder = decoder_of(model) if compiled is not None else None
    if compiled is not None and decoder is not None:
        return native_sizes(
            decoder,
            {name: parameter.shape for name, parameter in model.named_parameters()},
            placement.dtype,
            context_length=context,
            tokenizer_bytes=tokenizer_bytes,
            threads=compiled.threads,
            process_bytes=TORCH_PROCESS_BYTES,
        )
    embeddings = len(model.get_input_embeddings().weight)
    host = TORCH_PROCESS_BYTES + text_bytes(tokenizer_bytes, embeddings)
    choices = choices_of(placement.dtype, packs=compiled is not None and _packs(model))
    return ModelSizes(
        weights={one: _weight_bytes(model, one) for one in choices},
        cache_token_numbers=_cache_numbers(model),
        context_length=context,
        workspace_bytes=host if on_cpu else _DEVICE_BYTES,
    )


def _packs(model: Any) -> bool:
    return any(_can_pack(module) for module in model.modules())


def _can_pack(module: Any) -> bool:
    """As `packed_linear` decides."""
    return type(module) in (nn.Linear, Conv1D) and _rows_and_columns(module)[1] % GROUP == 0


def _rows_and_columns(module: Any) -> tuple[int, int]:
    rows, columns = module.weight.shape if type(module) is nn.Linear else reversed(module.weight.shape)
    return int(rows), int(columns)


def _weight_bytes(model: Any, choice: Choice) -> int:
    size, parameters = ITEM_BYTES[choice.dtype], list(model.parameters())
    if choice.precision is Precision.EXACT:
        return _numbers(parameters) * size
    head, packed, elsewhere = model.get_output_embeddings(), 0, set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            elsewhere.add(id(module.weight))
        elif _can_pack(module):
            part = "head" if module is head else part_of(name.rpartition(".")[2])
            packed += packed_nbytes(packed_format(choice.precision, part), *_rows_and_columns(module))
            elsewhere.add(id(module.weight))
    return packed + _numbers(one for one in parameters if id(one) not in elsewhere) * size


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _cache_numbers(model: Any) -> int:
    """Numbers of the KV cache for each token: what the model's own code puts there, on tensors without memory.

    Changes the model's number format.
    """
    if "past_key_values" not in inspect.signature(type(model).forward).parameters:
        return 0
    try:
        model.to(torch.bfloat16)  # which every operator knows; the numbers are as many in each format
        few, more = (_cached(model, tokens) for tokens in (_FEW, _MORE))
    except Exception as error:  # noqa: BLE001  # code that looks at numbers fails in ways of its own where there are none
        log.debug("%s does not run without weights: %s", type(model).__name__, error)
        return _configured_numbers(model.config.get_text_config())
    return int((more - few) // (_MORE - _FEW))


@torch.inference_mode()
def _cached(model: Any, tokens: int) -> int:
    cache = DynamicCache(config=model.config)
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    layers = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    return int(sum(math.prod(tensor.shape) for layer in layers for tensor in layer if tensor is not None))


def _configured_numbers(config: Any) -> int:
    """The same of a model with plain attention in every layer."""
    heads = getattr(config, "num_attention_heads", None) or 0
    if not heads or not hasattr(config, "hidden_size"):
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width)
