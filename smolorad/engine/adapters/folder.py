"""A PEFT folder's files, read without PEFT."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolora.common.adapter_config import CONFIG, WEIGHTS
from smolorad import publish
from smolorad.engine.adapters.pattern_time import is_slow
from smolorad.engine.runtime.dtypes import STORED, to_fp32
from smolorad.errors import Damaged, NotFinite, UnsupportedModel, WrongBase
from smolorad.peft_config import read_peft_config
from smolorad.safetensors_file import SafetensorsFile, tensors_in

_ADVICE = "get the adapter again"


def read_config(folder: Path) -> Mapping[str, Any]:
    """The config of a LoRA adapter; raises NotFound, UnsupportedModel, Damaged, also if a published file has changed."""
    if (folder / CONFIG).is_file():
        _check_sum(folder, CONFIG, publish.sha256_file(folder / CONFIG))
    config = read_peft_config(folder)
    if is_slow(config, _names(folder / WEIGHTS)):
        raise UnsupportedModel(
            f"The adapter in {folder} has a pattern for module names that takes too long to match; write it without repeats of "
            f"repeats in its {CONFIG}."
        )
    return config


def _names(path: Path) -> Iterator[str]:
    """Yields the tensors' names, lazily; none of a damaged file, which `read_weights` finds."""
    with contextlib.suppress(Damaged):
        yield from (tensor.name for tensor in SafetensorsFile.open(path, _ADVICE).tensors)


def read_weights(folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors by name, in a format of STORED; raises UnsupportedModel, NotFinite, Damaged, as `read_config` does."""
    path = folder / WEIGHTS
    content = path.read_bytes()
    _check_sum(folder, WEIGHTS, hashlib.sha256(content).hexdigest())
    weights = {}
    for tensor in tensors_in(content, path, _ADVICE):
        if tensor.format not in STORED:
            raise UnsupportedModel(f"The adapter in {folder} has {tensor.name} as {tensor.format}; save it in float32.")
        # bytearray: torch shares only memory that may be written.
        numbers = bytearray(memoryview(content)[tensor.begin : tensor.end])
        weights[tensor.name] = np.frombuffer(numbers, STORED[tensor.format]).reshape(tensor.shape)
        if not np.isfinite(to_fp32(weights[tensor.name])).all():
            raise NotFinite(f"The adapter in {folder} has values that are not finite, in {tensor.name}; train it again.")
    return weights


def _check_sum(folder: Path, name: str, found: str) -> None:
    """Raises Damaged if a file of a published folder has changed; other folders have no manifest, and no sums."""
    if not (folder / publish.MANIFEST).exists():
        return
    entry = publish.read_manifest(folder)["files"].get(name)
    if entry is None or entry["sha256"] != found:
        raise Damaged(f"{folder / name} is not as it was published; delete this revision and train or import it again.")


def check_base_fingerprint(folder: Path, fingerprint: str, base: str) -> None:
    """Raises WrongBase if a folder published here was trained on other weights than those of `base`, by their fingerprint.

    Other folders have no fingerprint; shapes are compared when they are read.
    """
    if not (folder / publish.MANIFEST).is_file():
        return
    about = publish.read_manifest(folder).get("about")
    trained_on = about.get("base_fingerprint") if isinstance(about, dict) else None
    if trained_on and trained_on != fingerprint:
        raise WrongBase(f"The adapter in {folder} was trained on other weights than those of {base}; load its own base.")
