"""The LoRA adapters in memory: each is independent, so that generation switches nothing."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.folder import check_base_fingerprint, read_config, read_weights
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.native.decoder import NativeRunner
from smolorad.engine.native.lora import read_plain_lora
from smolorad.engine.runtime.gc import gc_paused

LIMIT = 16


class AdapterRegistry:
    """The adapters in memory, by key; where there are too many, the least recently used goes."""

    def __init__(self, base: BaseModel, limit: int = LIMIT) -> None:
        self._base = base
        self._limit = limit
        self._by_key: OrderedDict[str, Adapter] = OrderedDict()

    def attach(self, key: str, path: Path) -> Adapter:
        """The adapter of a published folder, read if it is not in memory.

        Raises NotFound, Damaged, UnsupportedModel (no plain LoRA, or no safetensors), WrongBase, NotFinite.
        """
        if key not in self._by_key:
            self._by_key[key] = read_adapter(self._base, path)
            if len(self._by_key) > self._limit:
                self._by_key.popitem(last=False)
        self._by_key.move_to_end(key)
        return self._by_key[key]

    def detach(self, key: str) -> None:
        """Drops an adapter; nothing happens if it is not in memory. A request in progress keeps it to its end."""
        self._by_key.pop(key, None)

    def keys(self) -> tuple[str, ...]:
        """The keys in memory, the least recently used first."""
        return tuple(self._by_key)


def read_adapter(base: BaseModel, folder: Path) -> Adapter:
    """The adapter of a PEFT folder: for the native step, or else on a view of the base. Raises as `AdapterRegistry.attach`."""
    config = read_config(folder)
    check_base_fingerprint(folder, base.fingerprint, base.name)
    weights = read_weights(folder)
    if base.native is not None and (lora := read_plain_lora(base.native.decoder, config, weights)) is not None:
        return Adapter(None, sum(array.size for array in weights.values()), NativeRunner(base.native, lora))
    with gc_paused():
        from smolorad.engine.adapters import peft  # it imports torch and PEFT, which most adapters do not need

    return peft.adapter_of_folder(base, folder, config, weights)
