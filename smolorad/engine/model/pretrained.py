"""A model folder as transformers reads it: its config first, then whether that fits the weights, then the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM

from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.meta_model import meta_model
from smolorad.engine.model.size_check import left_out
from smolorad.engine.model.transformers_folder import generation_config, read_model_config
from smolorad.engine.native.torch_arrays import tensor_of
from smolorad.engine.runtime.errors import is_out_of_memory, reading
from smolorad.errors import Damaged
from smolorad.safetensors_file import SafetensorsFile


def fitting_config(folder: ModelFolder) -> Any:
    """A folder's config as transformers reads it, if it fits the weights; raises UnsupportedModel, Damaged."""
    config = read_model_config(folder.path, folder.config, folder.name, folder.trust_remote_code)
    if "auto_map" not in folder.config:  # owners answer for code that they allow
        meta_model(folder, config)
    return config


def pretrained(folder: ModelFolder, config: Any, *, dtype: torch.dtype | str, attention: str | None = None) -> Any:
    """The model on the CPU, in eval mode; `config` is what `fitting_config` made of the folder. Raises Damaged."""
    with reading(f"The weights in {folder.path}", "get the model again"):
        model, info = _read(folder, config, dtype, attention)
    if info["missing_keys"]:
        raise Damaged(f"The weights in {folder.path} lack {min(info['missing_keys'])}; get the model again.")
    if extra := left_out(tuple(info["unexpected_keys"]), config, list(model.state_dict())):
        raise Damaged(f"The weights in {folder.path} have {extra}, and {CONFIG} has no such layer; get the model again.")
    return model.eval()


def _read(folder: ModelFolder, config: Any, dtype: torch.dtype | str, attention: str | None) -> Any:
    options = {"config": config, "dtype": dtype, "attn_implementation": attention, "output_loading_info": True}
    try:
        if not all(isinstance(file, SafetensorsFile) for file in folder.weights):
            kind = AutoModelForCausalLM._model_mapping[type(config)]
            found = kind.from_pretrained(None, state_dict=_state(folder, dtype), **options)
            found[0].generation_config = generation_config(folder.path, config)
            return found
        return AutoModelForCausalLM.from_pretrained(
            folder.path,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=folder.trust_remote_code,
            generation_config=generation_config(folder.path, config),
            **options,
        )
    except SafetensorError as error:
        raise Damaged(f"The weights in {folder.path} are damaged ({error}); get the model again.") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Damaged(f"The weights in {folder.path} do not fit its config.json; get the model again.") from error


def _state(folder: ModelFolder, dtype: torch.dtype | str) -> dict[str, Tensor]:
    """The parameters of a model whose weights transformers cannot read itself."""
    wanted = torch.float32 if isinstance(dtype, str) else dtype
    state = {}
    for file in folder.weights:
        assert not isinstance(file, SafetensorsFile)
        for tensor in file.tensors:
            state[tensor.name] = parameter = torch.empty(tensor.shape, dtype=wanted)
            flat, begin = parameter.view(-1), 0
            for piece in file.read(tensor.name):
                numbers = tensor_of(np.ascontiguousarray(piece)).view(-1)
                flat[begin : begin + len(numbers)] = numbers
                begin += len(numbers)
    return state
