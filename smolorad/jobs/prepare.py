"""Prepare: the corpus worker reads the user's files and writes a dataset; each run starts from the uploaded files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from smolorad.children.worker import Workers
from smolorad.domain import ChunkUnit, Dataset, Job, JobState, Prepared, PrepareSpec, Ref, check, check_name, check_texts
from smolorad.errors import InvalidRequest, NotFound, SmoloraError
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.job_runner import Emit
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.residency import Base, Residency, Resolver, no_progress
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library

log = Log(__name__)

_HUB_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_TOKENIZER = "tokenizer.json"
_FINGERPRINT_BYTES = 128
# The names that `corpus/fields.py` knows fields by.
COLUMNS = (
    *("text", "prompt", "completion", "chosen", "rejected", "messages", "conversations", "conversation"),
    *("system", "instruction", "input", "output", "history"),
)


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """A model's name, and its `tokenizer.json`."""

    model: str
    path: Path


class Prepare:
    """The handler of prepare jobs."""

    def __init__(
        self,
        home: Home,
        workers: Workers,
        store: JobStore,
        library: Library,
        artifacts: Artifacts,
        residency: Residency,
        resolver: Resolver,
    ) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._workers = workers
        self._artifacts = artifacts
        self._residency = residency
        self._resolver = resolver

    async def plan(self, spec: PrepareSpec) -> PrepareSpec:
        """The request, if it can be carried out; raises InvalidRequest or NotFound."""
        _check(spec)
        self._artifacts.check_place("dataset", spec.name)
        if bool(spec.upload_id) == (spec.hub is not None):
            raise InvalidRequest.field("upload_id", "give exactly one of upload_id and hub")
        if spec.upload_id and not (self._home.uploads / check_name(spec.upload_id, "upload_id")).is_dir():
            raise NotFound(f"There is no upload {spec.upload_id!r}; send the files with UploadFile first.")
        if spec.hub is not None and not _HUB_DATASET.fullmatch(spec.hub.repo_id):
            raise InvalidRequest.field("hub.repo_id", f"{spec.hub.repo_id!r} is not a dataset of the hub; write owner/name")
        if spec.model:
            await self._resolver.check(spec.model)
        return spec

    async def work(self, job: Job, emit: Emit) -> Prepared:
        """Writes the dataset into the job's output folder, in the worker."""
        spec = _spec(job)
        files = self._home.uploads / spec.upload_id if spec.upload_id else None
        if files is not None and not files.is_dir():
            raise NotFound("The uploaded files are gone; prepare the dataset again from the files.")
        tokenizer = await self.tokenizer(spec.model)
        if tokenizer is not None:
            spec = replace(spec, model=tokenizer.model)  # the report names the model as the user knows it, not its folder
        self._residency.expect_training()
        output = self._home.job(job.id).output
        path = None if tokenizer is None else tokenizer.path
        async with aclosing(self._workers.prepare(spec, files, path, output)) as events:
            async for event in events:
                if isinstance(event, Prepared):
                    return event
                await emit(event)
        raise AssertionError("a preparation ends with its result or raises")

    async def publish(self, job: Job, made: Prepared) -> str:
        """Publishes the revision and removes the uploaded files."""
        dataset = await self._artifacts.put_dataset(job, _spec(job).name, made, _source_fingerprint(_spec(job)))
        await self._remove_uploads(job)
        return str(dataset.ref)

    async def discard(self, job: Job) -> None:
        """Removes the uploaded files, but those of a failure only once another preparation of that dataset has ended.

        Until then the caller may prepare them in another way, without the malformed rows for instance, or resume the job.
        """
        await self._remove_uploads(job)

    async def _remove_uploads(self, job: Job) -> None:
        """Removes a job's upload, and those of earlier failures of its dataset, unless another job or failure needs them."""
        unfinished = [other for other in await self._store.unfinished() if other.id != job.id]
        failed = [other for other in await self._store.failed_preparations() if other.target != job.target]
        needed = uploads_of([*unfinished, *failed, *([job] if job.state is JobState.FAILED else [])])
        for upload_id in uploads_of([job, *await self._store.failures_of(job.target)]) - needed:
            await asyncio.to_thread(shutil.rmtree, self._home.uploads / upload_id, ignore_errors=True)

    async def known(self, spec: PrepareSpec) -> Dataset:
        """The name's newest revision, if it was made of the same files in the same way for the same model.

        Raises NotFound where it was not, InvalidRequest.
        """
        _check(spec)
        dataset = await self._library.dataset(Ref(spec.name))
        tokenizer = await self.tokenizer(spec.model)
        if dataset.source_fingerprint != _source_fingerprint(spec) or dataset.report.tokenizer != (
            "" if tokenizer is None else tokenizer.model
        ):
            raise NotFound(f"{dataset.ref} was made of other files or in another way; send the files with UploadFile.")
        self._residency.expect_training()
        return dataset

    async def tokenizer(self, model: str) -> ModelTokenizer | None:
        """The tokenizer of the named model, else of the loaded one; None where there is none."""
        base = await self._counting(model)
        if base is None or not (base.path / _TOKENIZER).is_file():
            return None
        return ModelTokenizer(base.name, base.path / _TOKENIZER)

    async def _counting(self, model: str) -> Base | None:
        """The model whose tokenizer counts: the named one, else the loaded one; None where there is none on this machine."""
        base = self._residency.base
        if model and (base is None or base.name != model):
            return await self._resolver.find(model, no_progress)
        if base is None:
            try:
                return await self._resolver.find_local(await self._residency.choose())
            except SmoloraError as error:
                log.info("no tokenizer to count tokens with", why=error.message)
        return base


def uploads_of(jobs: Iterable[Job]) -> set[str]:
    """The uploads that preparations among these jobs read."""
    return {job.spec.upload_id for job in jobs if isinstance(job.spec, PrepareSpec)} - {""}


def _check(spec: PrepareSpec) -> None:
    """Raises InvalidRequest for a field out of its bounds, and for fields that do not go together."""
    check_name(spec.name)
    check(spec)
    check_texts(spec)
    if len(spec.delimiter) > 1:
        raise InvalidRequest.field("delimiter", f"is {spec.delimiter!r}, but must be one character")
    if unknown := [name for name in spec.columns if name not in COLUMNS]:
        why = f"names {unknown[0]!r}, but what files may call otherwise is one of {', '.join(COLUMNS)}"
        raise InvalidRequest.field("columns", why)
    if len(spec.source_fingerprint.encode()) > _FINGERPRINT_BYTES:
        raise InvalidRequest.field("source_fingerprint", f"is longer than {_FINGERPRINT_BYTES} bytes")
    if spec.chunk_overlap and (spec.chunk_unit is not ChunkUnit.TOKENS or spec.chunk_overlap >= spec.chunk_size):
        raise InvalidRequest.field("chunk_overlap", "must be below chunk_size, and goes with chunk_unit tokens alone")


def _source_fingerprint(spec: PrepareSpec) -> str:
    """SHA-256 of what the files were and what was asked for, in hexadecimal; empty where the caller gives no fingerprint."""
    if not spec.source_fingerprint:
        return ""
    asked = msgspec.to_builtins(replace(spec, upload_id="", model=""))
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _spec(job: Job) -> PrepareSpec:
    assert isinstance(job.spec, PrepareSpec)
    return job.spec
