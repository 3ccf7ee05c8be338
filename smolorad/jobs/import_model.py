"""ImportModel: the weights worker brings a model's files into this home; interrupted downloads continue."""

from __future__ import annotations

from contextlib import aclosing

from smolorad.children.worker import Workers
from smolorad.domain import Fetched, ImportSpec, Job, Origin, check_name
from smolorad.errors import InvalidRequest
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.job_runner import Emit
from smolorad.paths import Home
from smolorad.residency import STARTER, Resolver


class ImportModel:
    """The handler of import jobs."""

    def __init__(self, home: Home, artifacts: Artifacts, workers: Workers, resolver: Resolver) -> None:
        self._home = home
        self._artifacts = artifacts
        self._workers = workers
        self._resolver = resolver

    async def plan(self, spec: ImportSpec) -> ImportSpec:
        """The request, if it can be carried out; raises InvalidRequest, NotFound, AlreadyExists."""
        check_name(spec.name)
        if spec.name == STARTER:
            raise InvalidRequest.field("name", f"{STARTER!r} always means the starter model; choose another name")
        if spec.source != STARTER and "/" not in spec.source:
            raise InvalidRequest.field(
                "source",
                f"{spec.source!r} is not a model to import; give a folder or a GGUF file (./folder or its "
                "absolute path), a hub id owner/name, or starter",
            )
        await self._resolver.check(spec.source)
        await self._artifacts.check_free(spec.name)
        return spec

    async def work(self, job: Job, emit: Emit) -> Fetched:
        """Fetches the files into the job's output folder, in the worker."""
        spec = _spec(job)
        trust = self._resolver.trusts(spec.source)
        output = self._home.job(job.id).output
        async with aclosing(self._workers.fetch(spec.source, spec.revision, output, trust_remote_code=trust)) as events:
            async for event in events:
                if isinstance(event, Fetched):
                    return event
                await emit(event)
        raise AssertionError("a fetch ends with its result or raises")

    async def publish(self, job: Job, made: Fetched) -> str:
        """Publishes the model."""
        spec = _spec(job)
        origin = Origin.STARTER if spec.source == STARTER else Origin.FOLDER if spec.source.startswith("/") else Origin.HUB
        model = await self._artifacts.put_model(job, spec.name, origin, made.source or spec.source, made.facts)
        return model.name


def _spec(job: Job) -> ImportSpec:
    assert isinstance(job.spec, ImportSpec)
    return job.spec
