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
from smolorad.engine.model.folder import CONFIG, ModelFolder
from smolorad.engine.model.size_check import Counted, Stored, check_fit
from smolorad.engine.runtime.errors import reading


def meta_model(folder: ModelFolder, config: Any, *, dtype: Dtype | None = None) -> Any:
    """The model of a folder on the meta device; its sizes are those of the weights.

    Raises Damaged, and UnsupportedModel for code that needs missing packages. Owners answer for the code that they allow.
    """
    options = {} if dtype is None else {"dtype": getattr(torch, dtype)}
    trust = folder.trust_remote_code
    return build_on_meta(config, folder.stored, folder.path / CONFIG, trust_remote_code=trust, **options)


def build_on_meta(config: Any, stored: Stored, path: Path, **options: Any) -> Any:
    """The model of a config in the file `path`, whose weights have the sizes of `stored`. Raises as `meta_model`."""
    with reading(path, "get the model again"), _registering(Counted(stored, path)), torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, **options)
        model.tie_weights()  # `no_init_weights` skips it
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
