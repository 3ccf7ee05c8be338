"""A model's modules without memory for their weights: whether transformers can build what a config describes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from smolorad.domain import Dtype
from smolorad.engine.model.folder import CONFIG, tensors_of, weight_files
from smolorad.engine.model.size_check import Counted, Stored, check_fit
from smolorad.engine.runtime.errors import reading


def meta_model(folder: Path, name: str, config: Any, *, dtype: Dtype | None = None, trust_remote_code: bool = False) -> Any:
    """The model of a folder, checked by `folder.check`, on the meta device; its sizes are those of the weights.

    Raises Damaged, UnsupportedModel for code that asks for packages that are not here. Owners answer for code that they allow.
    """
    path = folder / CONFIG
    stored = Stored.of(tuple(tensors_of(weight_files(folder, name))))
    options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    with reading(path, "get the model again"), _registering(Counted(stored, path)), torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
        model.tie_weights()  # which belongs to what is skipped
    check_fit(model, stored, path)
    return model


@contextmanager
def _registering(hook: Callable[[Any, str, Any], None]) -> Iterator[None]:
    """Shows `hook` every parameter that this thread registers; torch would show those of all threads."""
    here = threading.get_ident()

    def own(module: Any, name: str, parameter: Any) -> None:
        if threading.get_ident() == here:
            hook(module, name, parameter)

    handle = register_module_parameter_registration_hook(own)
    try:
        yield
    finally:
        handle.remove()
