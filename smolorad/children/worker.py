"""Work that must not disturb the engine: each piece in a child process of its own, which ends with it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from smolora.v1 import datasets_pb2
from smolorad.children.child import Child
from smolorad.children.standby import Standby
from smolorad.domain import (
    Dataset,
    DatasetDiff,
    Dtype,
    Fetched,
    LoadEstimate,
    Merged,
    Note,
    PhaseProgress,
    Placing,
    Prepared,
    PrepareSpec,
    Preview,
    ResidentModel,
)
from smolorad.errors import EngineUnavailable, Internal
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb
from smolorad.log import Log

log = Log(__name__)

T = TypeVar("T", Prepared, Merged, Fetched)

# What is cancelled cleans up by itself, unless it is deep in a library, as in a download, where no cancel is heard.
_PATIENCE_S = 3.0
_CORPUS, _WEIGHTS, _STANDBY = "smolorad.corpus", "smolorad.engine.worker", "smolorad.engine.worker.standby"
_NAMES = {_CORPUS: "corpus worker", _WEIGHTS: "weights worker", _STANDBY: "weights worker"}


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """A model to be estimated: its folder, or a hub id or GGUF file that may have one on this machine."""

    name: str
    path: Path | None = None
    source: str = ""
    trust_remote_code: bool = False


class Workers(Protocol):
    """One-shot work. Every stream ends with its result. Leaving one early ends its process, and nothing is left in `output`."""

    def prepare(
        self, spec: PrepareSpec, files: Path | None, tokenizer: Path | None, output: Path
    ) -> AsyncGenerator[PhaseProgress | Note | Prepared, None]:
        """Makes a dataset of a folder of files, or of the spec's hub dataset, in `output`."""

    def merge(
        self, base: Path, adapter: Path, output: Path, dtype: Dtype | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Merged, None]:
        """Makes a model of a base and an adapter in `output`, in a number format or the base folder's own."""

    def fetch(
        self, source: str, revision: str = "", output: Path | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Fetched, None]:
        """Brings a model's files to `output`, or where they may stay."""

    async def estimate_load(self, model: NotLoaded, placing: Placing, loaded: ResidentModel | None) -> LoadEstimate:
        """What a model would take in memory beside the loaded one; raises NotFound where it is not on this machine."""

    async def check_adapter(self, adapter: Path, base: Path, name: str, *, trust_remote_code: bool = False) -> int:
        """Whether an adapter fits the model in `base`, called `name`; the number of its parameters."""

    def expect_merge(self, within_s: float, base: Path | None = None) -> None:
        """A merge is likely within this time, perhaps into this model: the worker may start its process ahead."""

    async def preview(self, dataset: Dataset, split: str, offset: int, limit: int, tokenizer: Path | None = None) -> Preview:
        """Some rows of a split, as the model with this `tokenizer.json` reads them."""

    async def diff(self, before: Dataset, after: Dataset, limit: int) -> DatasetDiff:
        """The rows that only one of two datasets has; at most `limit` of each kind."""

    async def close(self) -> None:
        """Ends the idle processes; callers end the work under way."""


class WorkerProcesses:
    """The real workers. `cache` is where downloads may be kept between runs; `standby` has the one that may merge next."""

    def __init__(self, environ: Mapping[str, str], cache: Path) -> None:
        self._environ = environ
        self._cache = cache
        self.standby = Standby(lambda *arguments: self._spawn(_STANDBY, *arguments, start_s=None))

    def expect_merge(self, within_s: float, base: Path | None = None) -> None:
        """See Workers."""
        self.standby.keep(within_s, *(("--base", str(base)) if base else ()))

    async def close(self) -> None:
        """See Workers."""
        await self.standby.close()

    async def prepare(
        self, spec: PrepareSpec, files: Path | None, tokenizer: Path | None, output: Path
    ) -> AsyncGenerator[PhaseProgress | Note | Prepared, None]:
        """See Workers."""
        command = pb.Prepare(
            files_path=str(files or ""),
            request=to_message(datasets_pb2.PrepareDatasetRequest, spec),
            tokenizer_path=str(tokenizer or ""),
            output_path=str(output),
        )
        async with aclosing(self._work(_CORPUS, "prepared", Prepared, output, prepare=command)) as events:
            async for event in events:
                yield event

    async def merge(
        self, base: Path, adapter: Path, output: Path, dtype: Dtype | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Merged, None]:
        """See Workers."""
        command = pb.Merge(
            base_path=str(base),
            adapter_path=str(adapter),
            output_path=str(output),
            dtype=f"DTYPE_{dtype.name}" if dtype else None,
            trust_remote_code=trust_remote_code,
        )
        async with aclosing(self._work(_WEIGHTS, "merged", Merged, output, merge=command)) as events:
            async for event in events:
                yield event

    async def fetch(
        self, source: str, revision: str = "", output: Path | None = None, *, trust_remote_code: bool = False
    ) -> AsyncGenerator[PhaseProgress | Note | Fetched, None]:
        """See Workers."""
        command = pb.Fetch(
            source=source,
            revision=revision,
            output_path=str(output or ""),
            cache_path=str(self._cache),
            trust_remote_code=trust_remote_code,
        )
        async with aclosing(self._work(_WEIGHTS, "fetched", Fetched, output, fetch=command)) as events:
            async for event in events:
                yield event

    async def estimate_load(self, model: NotLoaded, placing: Placing, loaded: ResidentModel | None) -> LoadEstimate:
        """See Workers."""
        load = to_message(pb.Load, placing, name=model.name, path=str(model.path or ""))
        load.trust_remote_code = model.trust_remote_code
        command = pb.EstimateLoad(
            load=load,
            source=model.source,
            cache_path=str(self._cache),
            loaded_name=loaded.name if loaded is not None else "",
            loaded_bytes=loaded.memory_bytes if loaded is not None else 0,
        )
        async with aclosing(self._events(_WEIGHTS, estimate_load=command)) as events:
            async for event in events:
                if event.WhichOneof("body") == "load_estimate":  # not the progress of reading a GGUF file
                    return from_message(LoadEstimate, event.load_estimate)
        raise Internal("The weights worker gave no estimate; please report it with the daemon's log.")

    async def check_adapter(self, adapter: Path, base: Path, name: str, *, trust_remote_code: bool = False) -> int:
        """See Workers."""
        command = pb.CheckAdapter(
            adapter_path=str(adapter), base_path=str(base), base_name=name, trust_remote_code=trust_remote_code
        )
        return int((await self._answer(_WEIGHTS, check_adapter=command)).attached.parameters)

    async def preview(self, dataset: Dataset, split: str, offset: int, limit: int, tokenizer: Path | None = None) -> Preview:
        """See Workers."""
        request = datasets_pb2.PreviewDatasetRequest(name=str(dataset.ref), split=split, offset=offset, limit=limit)
        command = pb.Preview(dataset_path=dataset.path, request=request, tokenizer_path=str(tokenizer or ""))
        return from_message(Preview, (await self._answer(_CORPUS, preview=command)).preview)

    async def diff(self, before: Dataset, after: Dataset, limit: int) -> DatasetDiff:
        """See Workers."""
        command = pb.Diff(before_path=before.path, after_path=after.path, limit=limit)
        return from_message(DatasetDiff, (await self._answer(_CORPUS, diff=command)).diff)

    async def _answer(self, module: str, **command: Any) -> pb.Event:
        """The one event of a question to a worker."""
        async with aclosing(self._events(module, **command)) as events:
            async for event in events:
                return event
        raise Internal(f"The {_NAMES[module]} gave no answer; please report it with the daemon's log.")

    async def _work(
        self, module: str, result: str, cls: type[T], output: Path | None, **command: Any
    ) -> AsyncGenerator[PhaseProgress | Note | T, None]:
        ended = False
        try:
            async with aclosing(self._events(module, **command)) as events:
                async for event in events:
                    match event.WhichOneof("body"):
                        case "phase":
                            yield from_message(PhaseProgress, event.phase)
                        case "note":
                            yield from_message(Note, event.note)
                        case _:
                            ended = True
                            yield from_message(cls, getattr(event, result))
        finally:
            if not ended and output is not None:  # a process that was killed could not
                await asyncio.to_thread(shutil.rmtree, output, ignore_errors=True)

    async def _events(self, module: str, **command: Any) -> AsyncGenerator[pb.Event, None]:
        """The events of one command to its own child, which has ended when they end."""
        if "merge" in command and (ready := await self.standby.take()) is not None:
            started = False
            try:
                async with aclosing(_only(ready, command)) as events:
                    async for event in events:
                        started = True
                        yield event
                return
            except EngineUnavailable as error:
                if started:
                    raise
                log.info("the worker that stood ready has died; another one takes its work", why=error.message)
        async with aclosing(_only(await self._spawn(module), command)) as events:
            async for event in events:
                yield event

    async def _spawn(self, module: str, *arguments: str, start_s: float | None = 60.0) -> Child:
        return await Child.spawn(
            module, *arguments, name=_NAMES[module], environ=self._environ, patience_s=_PATIENCE_S, start_s=start_s
        )


async def _only(child: Child, command: Mapping[str, Any]) -> AsyncGenerator[pb.Event, None]:
    """The events of a child's only command; the child has ended when they end."""
    try:
        async with aclosing(child.call(**command)) as events:
            async for event in events:
                yield event
    finally:
        await child.kill()
