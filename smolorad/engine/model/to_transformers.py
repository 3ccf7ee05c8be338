"""Builds transformers' model over the weights of a base that was loaded without transformers, without copying them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from smolorad.domain import Dtype
from smolorad.engine.model.base_model import TransformersModel
from smolorad.engine.model.folder import read_config
from smolorad.engine.model.transformers_folder import read_model_config, read_tokenizer
from smolorad.engine.native.torch_arrays import tensor_of


@torch.inference_mode(False)  # generation may be the first to call it, and a training needs ordinary parameters
def to_transformers(folder: Path, arrays: Mapping[str, NDArray[Any]], dtype: Dtype) -> TransformersModel:
    """The model with these parameters, by name; `folder` has its other files. Raises Damaged where these are gone."""
    transformers_logging.disable_progress_bar()
    config = read_model_config(folder, read_config(folder), str(folder))
    tensors = {name: tensor_of(array) for name, array in arrays.items()}
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    model = kind.from_pretrained(None, config=config, state_dict=tensors, dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == tensors[name].data_ptr(), f"transformers has copied {name}"
    return TransformersModel(model, read_tokenizer(folder))
