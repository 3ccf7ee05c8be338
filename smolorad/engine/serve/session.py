"""What is loaded: a base model, its adapters, the prefix cache, and the adapter of the training that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from smolora.common.paths import cache_path
from smolorad.domain import Dtype, GenerateSpec, LoadEstimate
from smolorad.engine.adapters.adapter import Adapter
from smolorad.engine.adapters.registry import AdapterRegistry, read_adapter
from smolorad.engine.device_check import compare_with_cpu
from smolorad.engine.generate.prefix_cache import PrefixCache
from smolorad.engine.generate.prefix_identity import open_store
from smolorad.engine.generate.prefix_store import FOLDER, PrefixStore
from smolorad.engine.generate.prefix_writer import PrefixWriter, StoredPrefixes
from smolorad.engine.generate.request import GenerationRequest
from smolorad.engine.model.base_model import BaseModel, LoadReport
from smolorad.engine.model.estimate import NOTHING_LOADED, Loaded
from smolorad.engine.model.load import load
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.runtime.free_memory import MeasureMemory, measure_memory
from smolorad.engine.train.training_host import Snapshot
from smolorad.errors import NoModel, NotFound
from smolorad.link.convert import from_message
from smolorad.link.v1 import link_pb2 as pb

_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A base model, and what belongs to it alone."""

    base: BaseModel
    adapters: AdapterRegistry
    prefixes: PrefixCache = field(default_factory=PrefixCache)
    store: PrefixStore | None = None  # prefixes on disk


class Session:
    """One base model at a time, with its adapters and cached prefixes."""

    def __init__(
        self, threads: int | None = None, measure: MeasureMemory = measure_memory, *, prefix_cache_disk_bytes: int = 0
    ) -> None:
        """`threads`: as in `load`; `measure` finds out how much memory is free.

        `prefix_cache_disk_bytes`: how many bytes the prefix cache may take on disk; 0: there is none.
        """
        self._threads = threads
        self._measure = measure
        self._disk_bytes = prefix_cache_disk_bytes
        self.prefix_writer = PrefixWriter()
        self._loaded: _Loaded | None = None
        self._live: tuple[str, Snapshot] | None = None  # with the training's job

    @property
    def base(self) -> BaseModel:
        """The base model; raises NoModel."""
        return self._needed().base

    @property
    def dtype(self) -> Dtype | None:
        """The base model's number format; None before the first load."""
        return self._loaded.base.dtype if self._loaded is not None else None

    @property
    def adapter_keys(self) -> tuple[str, ...]:
        """The keys of the adapters in memory."""
        return self._loaded.adapters.keys() if self._loaded is not None else ()

    def load(
        self, command: pb.Load, report: LoadReport, on_estimate: Callable[[LoadEstimate], None] = lambda found: None
    ) -> BaseModel:
        """Reads a model, in place of the one before once it is there; raises as `load`.

        `on_estimate` gets what it takes, before its weights are read.
        """
        base = load(
            Path(command.path),
            command.name,
            from_message(LoadOptions, command),
            compare_with_cpu,
            threads=self._threads,
            report=report,
            memory_check=MemoryCheck(self._measure, self._loaded_now, on_estimate),
        )
        self.use(base)
        return base

    def use(self, base: BaseModel) -> None:
        """Takes a model in place of the one before, which requests in progress keep to their end."""
        self.prefix_writer.flush(_FLUSH_S)  # what it writes is of the model before
        self.prefix_writer.hold()
        self._loaded = _Loaded(base, AdapterRegistry(base), store=open_store(base, cache_path() / FOLDER, self._disk_bytes))
        base.release_idle_memory()

    def release_idle_memory(self) -> None:
        """Gives back memory that is not in use."""
        if self._loaded is not None:
            self._loaded.base.release_idle_memory()

    def attach(self, folder: pb.AdapterFolder) -> Adapter:
        """The adapter of a folder, read if it is not in memory; raises NoModel, and as `AdapterRegistry.attach`."""
        return self._needed().adapters.attach(folder.key, Path(folder.path))

    def check_adapter(self, folder: Path) -> Adapter:
        """The adapter of a folder, which does not stay in memory; raises as `attach`."""
        return read_adapter(self.base, folder)

    def detach(self, key: str) -> None:
        """Drops an adapter and its cached prefixes; nothing happens if it is not in memory."""
        if self._loaded is not None:
            self._loaded.adapters.detach(key)
            self._loaded.prefixes.forget(key)

    def offer(self, job_id: str, snapshot: Snapshot | None) -> None:
        """Lets requests have the adapter of a job's training, which runs; None ends that."""
        self._live = None if snapshot is None else (job_id, snapshot)

    def request(self, call: int, command: pb.Generate, arrived: float) -> GenerationRequest:
        """The request of a Generate command; raises NoModel, NotFound, and as `attach` and `GenerationRequest`."""
        loaded, folder = self._needed(), command.adapter
        adapter, name, key = None, "", ""
        stored = StoredPrefixes(loaded.store, self.prefix_writer) if loaded.store is not None else None
        if folder.HasField("live"):
            step, adapter = self._live_adapter(folder.live)
            name = f"{folder.name}@step-{step}"
            key = f"{name}#{folder.live.job_id}"  # as a checkpoint's, which is the same adapter
            stored = None  # the next step has another adapter
        elif command.HasField("adapter"):
            adapter, name, key = self.attach(folder), folder.name or folder.key, folder.key
            lora = adapter.native.lora if adapter.native is not None else None
            stored = dataclasses.replace(stored, adapter=lora.fingerprint) if stored is not None and lora is not None else None
        return GenerationRequest(
            call,
            loaded.base,
            from_message(GenerateSpec, command.request),
            adapter=adapter,
            adapter_name=name,
            prefixes=loaded.prefixes.of(key, stored),
            arrived=arrived,
        )

    @property
    def prefix_cache_bytes(self) -> int:
        """Bytes of the cached prefixes."""
        return self._loaded.prefixes.nbytes if self._loaded is not None else 0

    @property
    def _loaded_now(self) -> Loaded:
        if self._loaded is None:
            return NOTHING_LOADED
        found = self._loaded.base.describe(0.0)
        return Loaded(found.name, found.memory_bytes)

    def _needed(self) -> _Loaded:
        if self._loaded is None:
            raise NoModel("No model is loaded; load one with `smolora-client load MODEL`.")
        return self._loaded

    def _live_adapter(self, wanted: pb.LiveAdapter) -> tuple[int, Adapter]:
        if self._live is None:
            raise NotFound("No training has reached its first step yet; ask again in a moment, or name a finished adapter.")
        job_id, snapshot = self._live
        if job_id != wanted.job_id:  # it ended, and another began, while the request waited
            raise NotFound(f"Job {wanted.job_id} does not train any more; ask again, or name a finished adapter.")
        step, adapter = snapshot()
        if wanted.HasField("step") and wanted.step != step:
            raise NotFound(f"The training is at step {step}, and step-{wanted.step} is no checkpoint; ask for it as @latest.")
        return step, adapter
