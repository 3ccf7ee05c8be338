"""A model folder as transformers reads it: its config first, then whether that fits the weights, then the weights."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.meta_model import meta_model
from smolorad.engine.model.size_check import left_out
from smolorad.engine.model.transformers_folder import generation_config, read_model_config
from smolorad.engine.runtime.errors import is_out_of_memory, reading
from smolorad.errors import Damaged


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
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=folder.trust_remote_code,
            generation_config=generation_config(folder.path, config),
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise Damaged(f"The weights in {folder.path} are damaged ({error}); get the model again.") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Damaged(f"The weights in {folder.path} do not fit its config.json; get the model again.") from error
