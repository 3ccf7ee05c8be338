"""A PEFT folder's files, read without PEFT."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from smolora.common.adapter_config import CONFIG, WEIGHTS, Fault, check_files
from smolora.common.adapter_config import read_config as peft_config
from smolorad import publish
from smolorad.engine.adapters.pattern_time import is_slow
from smolorad.engine.runtime.dtypes import STORED, to_fp32
from smolorad.errors import Damaged, NotFinite, UnsupportedModel, WrongBase, by_reason

__all__ = ["CONFIG", "WEIGHTS", "check_base_fingerprint", "read_config", "read_weights"]


def read_config(folder: Path) -> Mapping[str, Any]:
    """What the config of a LoRA adapter says; raises NotFound, UnsupportedModel, Damaged, also for one changed since."""
    try:
        check_files(folder)
        _check_sum(folder, CONFIG, publish.sha256_file(folder / CONFIG))
        config = peft_config(folder)
    except Fault as fault:
        raise by_reason(fault.reason)(fault.message) from fault
    if is_slow(config, _names(folder / WEIGHTS)):
        raise UnsupportedModel(
            f"The adapter in {folder} has a pattern for module names that takes too long to match; write it without repeats of "
            f"repeats in its {CONFIG}."
        )
    return config


def _names(path: Path) -> Iterator[str]:
    """The tensors' names, once they are asked for; none where the file is damaged, which is found when it is read."""
    with contextlib.suppress(SafetensorError), safe_open(path, framework="numpy") as file:
        yield from file.keys()


def read_weights(folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors by name, in a format of STORED; raises UnsupportedModel, NotFinite, Damaged, also for one changed since."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    _check_sum(folder, WEIGHTS, hashlib.sha256(content).hexdigest())
    try:
        found = deserialize(content)
    except SafetensorError as error:
        raise Damaged(f"{path} is damaged ({error}); get the adapter again.") from error
    weights = {}
    for name, tensor in found:
        if tensor["dtype"] not in STORED:
            raise UnsupportedModel(f"The adapter in {folder} has {name} as {tensor['dtype']}; save it in float32.")
        # bytearray: torch shares memory only with what may be written.
        weights[name] = np.frombuffer(bytearray(tensor["data"]), STORED[tensor["dtype"]]).reshape(tensor["shape"])
        if not np.isfinite(to_fp32(weights[name])).all():
            raise NotFinite(f"The adapter in {folder} has values that are not finite, in {name}; train it again.")
    return weights


def _check_sum(folder: Path, name: str, found: str) -> None:
    """Raises Damaged where a published folder has another file than was published; others have no manifest, and no sums."""
    if not (folder / publish.MANIFEST).exists():
        return
    entry = publish.read_manifest(folder)["files"].get(name)
    if entry is None or entry["sha256"] != found:
        raise Damaged(f"{folder / name} is not as it was published; delete this revision and train or import it again.")


def check_base_fingerprint(folder: Path, fingerprint: str, base: str) -> None:
    """Whether a folder published here was trained on the weights of this fingerprint, of the base of this name.

    For other folders only the shapes are compared, elsewhere. Raises WrongBase.
    """
    if not (folder / publish.MANIFEST).is_file():
        return
    about = publish.read_manifest(folder).get("about")
    trained_on = about.get("base_fingerprint") if isinstance(about, dict) else None
    if trained_on and trained_on != fingerprint:
        raise WrongBase(f"The adapter in {folder} was trained on other weights than those of {base}; load its own base.")
