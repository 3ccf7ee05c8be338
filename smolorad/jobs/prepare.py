"""Prepare: the corpus worker reads the user's files and writes a dataset; each run begins anew from the uploaded files."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import aclosing
from dataclasses import replace

from smolorad.children.worker import Workers
from smolorad.domain import Job, Prepared, PrepareSpec, check, check_name
from smolorad.errors import InvalidRequest, NotFound, SmoloraError
from smolorad.jobs.machine import Tell
from smolorad.jobs.shelf import Shelf
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.residency import Base, Residency, Resolver

log = Log(__name__)

_HUB_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_TOKENIZER = "tokenizer.json"


class Prepare:
    """What a prepare job does."""

    def __init__(self, home: Home, workers: Workers, shelf: Shelf, residency: Residency, resolver: Resolver) -> None:
        self._home = home
        self._workers = workers
        self._shelf = shelf
        self._residency = residency
        self._resolver = resolver

    async def plan(self, spec: PrepareSpec) -> PrepareSpec:
        """The request, if it can be carried out; raises InvalidRequest or NotFound."""
        check_name(spec.name)
        check(spec)
        if bool(spec.upload_id) == (spec.hub is not None):
            raise InvalidRequest.field("upload_id", "give exactly one of upload_id and hub")
        if spec.upload_id and not (self._home.uploads / check_name(spec.upload_id, "upload_id")).is_dir():
            raise NotFound(f"There is no upload {spec.upload_id!r}; send the files with UploadFile first.")
        if spec.hub is not None and not _HUB_DATASET.fullmatch(spec.hub.repo_id):
            raise InvalidRequest.field("hub.repo_id", f"{spec.hub.repo_id!r} is not a dataset of the hub; write owner/name")
        if spec.model:
            await self._resolver.check(spec.model)
        return spec

    async def work(self, job: Job, tell: Tell) -> Prepared:
        """Has the worker write the dataset into the job's output folder."""
        spec = _spec(job)
        files = self._home.uploads / spec.upload_id if spec.upload_id else None
        if files is not None and not files.is_dir():
            raise NotFound("The uploaded files are gone; prepare the dataset again from the files.")
        tokenizer = None
        if (base := await self._counting(spec.model)) is not None and (base.path / _TOKENIZER).is_file():
            tokenizer = base.path / _TOKENIZER
            spec = replace(spec, model=base.name)  # the report names the model as the user knows it, not its folder
        output = self._home.job(job.id).output
        async with aclosing(self._workers.prepare(spec, files, tokenizer, output)) as events:
            async for event in events:
                if isinstance(event, Prepared):
                    return event
                await tell(event)
        raise AssertionError("a preparation ends with its result or raises")

    async def publish(self, job: Job, made: Prepared) -> str:
        """Publishes the revision, and throws the uploaded files away."""
        dataset = await self._shelf.put_dataset(job, _spec(job).name, made)
        if upload_id := _spec(job).upload_id:
            await asyncio.to_thread(shutil.rmtree, self._home.uploads / upload_id, ignore_errors=True)
        return str(dataset.ref)

    async def _counting(self, model: str) -> Base | None:
        """The model whose tokenizer counts: the one named, else the resident one; None where that cannot be had."""
        base = self._residency.base
        if model and (base is None or base.name != model):
            return await self._resolver.find(model, lambda progress: None)
        if base is None:
            try:
                return await self._resolver.at_hand(await self._residency.choose())
            except SmoloraError as error:
                log.info("tokens are not counted", why=error.message)
        return base


def _spec(job: Job) -> PrepareSpec:
    assert isinstance(job.spec, PrepareSpec)
    return job.spec
