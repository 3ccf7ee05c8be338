"""Merge: the weights worker folds an adapter into its base, compares both, and writes a model; each run starts again."""

from __future__ import annotations

import contextlib
import dataclasses
from contextlib import aclosing
from pathlib import Path

from smolorad.children.worker import Workers
from smolorad.domain import Job, LoadProgress, Merged, MergeSpec, Origin, Ref, check_name
from smolorad.errors import NoSpace, WrongBase
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.job_runner import Emit
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.residency import Resolver
from smolorad.store.database import CannotWrite
from smolorad.store.library import Library

log = Log(__name__)

MERGED_KEY = "merge.last"  # the model that was merged here last


class Merge:
    """The handler of merge jobs."""

    def __init__(self, home: Home, library: Library, artifacts: Artifacts, workers: Workers, resolver: Resolver) -> None:
        self._home = home
        self._library = library
        self._artifacts = artifacts
        self._workers = workers
        self._resolver = resolver

    async def plan(self, spec: MergeSpec) -> MergeSpec:
        """The request with `adapter` as a full reference; raises InvalidRequest, NotFound, AlreadyExists."""
        check_name(spec.name)
        adapter = await self._library.adapter(Ref.parse(spec.adapter, "adapter"))
        await self._artifacts.check_free(spec.name)
        await self._resolver.check(adapter.base_model)
        return dataclasses.replace(spec, adapter=str(adapter.ref), dtype=spec.dtype or adapter.base_dtype)

    async def work(self, job: Job, emit: Emit) -> Merged:
        """Finds the base that the adapter belongs to, and merges in the worker."""
        spec = _spec(job)
        adapter = await self._library.adapter(Ref.parse(spec.adapter))
        base = await self._resolver.find(adapter.base_model, _log_progress)
        if base.fingerprint and adapter.base_fingerprint and base.fingerprint != adapter.base_fingerprint:
            raise WrongBase(
                f"{adapter.base_model} is not the model that {adapter.ref} was trained on any more; bring that one back."
            )
        output = self._home.job(job.id).output
        events = self._workers.merge(
            base.path, Path(adapter.path), output, spec.dtype, trust_remote_code=base.trust_remote_code
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Merged):
                    return event
                await emit(event)
        raise AssertionError("a merge ends with its result or raises")

    async def publish(self, job: Job, made: Merged) -> str:
        """Publishes the model."""
        spec = _spec(job)
        model = await self._artifacts.put_model(
            job, spec.name, Origin.MERGE, spec.adapter, made.facts, proof=made.proof, sums=made.sums
        )
        with contextlib.suppress(NoSpace, CannotWrite):  # it only makes the next merge faster
            await self._library.remember(MERGED_KEY, model.name)
        return model.name


def _log_progress(progress: LoadProgress) -> None:
    log.debug("fetching the base", detail=progress.detail, done=progress.done_bytes, total=progress.total_bytes)


def _spec(job: Job) -> MergeSpec:
    assert isinstance(job.spec, MergeSpec)
    return job.spec
