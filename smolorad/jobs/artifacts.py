"""Published artefacts: this module alone publishes and removes datasets, adapters and models, one at a time.

Folder and row are one unit: a caller that goes away does not come between them, and where one cannot be written the other is
undone. After a daemon was killed in between, its next start makes them agree, see `store/recover.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from smolorad import publish
from smolorad.domain import (
    Adapter,
    Dataset,
    ImportSpec,
    Job,
    LoraSettings,
    MergeProof,
    MergeSpec,
    Model,
    ModelFacts,
    Origin,
    Prepared,
    PrepareSpec,
    Ref,
    ResidentModel,
    Trained,
    TrainSpec,
)
from smolorad.errors import AlreadyExists, BadState, InvalidRequest, NotFound
from smolorad.jobs.folder_and_row import highest_revision, put, remove
from smolorad.jobs.peft_folder import copy_adapter, name_base
from smolorad.jobs.units import Units, unit
from smolorad.paths import Home
from smolorad.portable import Source, remove_paths, source_of
from smolorad.residency import STARTER
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library, Revisioned


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """The base model of an adapter: its name here, its fingerprint, and the name that other machines know it by."""

    name: str
    fingerprint: str
    source: Source


class Artifacts:
    """Publishes datasets, adapters and models into the home, with their rows, and removes them."""

    def __init__(self, home: Home, store: JobStore, library: Library, units: Units) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._units = units
        self._one_at_a_time = asyncio.Lock()  # two revisions of one name must not get one number

    @unit
    async def put_dataset(self, job: Job, name: str, made: Prepared, source_fingerprint: str = "") -> Dataset:
        """Publishes what a prepare job wrote, as the name's next revision."""
        async with self._one_at_a_time:
            ref = await self._next("dataset", name)
            stage, final = self._home.job(job.id).output, self._home.dataset(ref)
            dataset = Dataset(
                name=name,
                revision=ref.revision or 0,
                create_time=datetime.now(UTC),
                train_rows=made.train_rows,
                validation_rows=made.validation_rows,
                report=made.report,
                fingerprint=await asyncio.to_thread(lambda: publish.fingerprint({"files": publish.describe(stage)})),
                job_id=job.id,
                path=str(final),
                shape=made.shape,
                source_fingerprint=source_fingerprint,
            )
            await put(stage, dataset, self._library.add_dataset)
        return dataset

    @unit
    async def put_adapter(self, job: Job, spec: TrainSpec, made: Trained, base: ResidentModel) -> Adapter:
        """Publishes what a training wrote, as the name's next revision."""
        stage = self._home.job(job.id).output
        async with self._one_at_a_time:
            ref = await self._next("adapter", spec.adapter)
            adapter = Adapter(
                name=spec.adapter,
                revision=ref.revision or 0,
                create_time=datetime.now(UTC),
                origin=Origin.TRAIN,
                base_model=base.name,
                base_fingerprint=base.fingerprint,
                dataset=spec.dataset,
                job_id=job.id,
                lora=made.lora,
                trainer=spec.trainer,
                steps=made.steps,
                train_loss=made.train_loss,
                eval_loss_before=made.eval_loss_before,
                eval_loss_after=made.eval_loss_after,
                parameters=made.parameters,
                size_bytes=await asyncio.to_thread(publish.size_of, stage),
                path=str(self._home.adapter(ref)),
                base_dtype=base.dtype,
                parent=spec.parent,
                scored_share=made.scored_share,
            )
            await put(stage, adapter, self._library.add_adapter)
        return adapter

    @unit
    async def import_adapter(
        self,
        folder: Path,
        name: str,
        lora: LoraSettings,
        parameters: int,
        base: AdapterBase,
    ) -> Adapter:
        """Publishes a copy of an uploaded PEFT folder that was checked, then removes the upload."""
        stage = self._home.uploads / f".import-{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(copy_adapter, folder, stage, base.source)
            async with self._one_at_a_time:
                ref = await self._next("adapter", name)
                adapter = Adapter(
                    name=name,
                    revision=ref.revision or 0,
                    create_time=datetime.now(UTC),
                    origin=Origin.FOLDER,
                    base_model=base.name,
                    base_fingerprint=base.fingerprint,
                    dataset="",
                    job_id="",
                    lora=lora,
                    trainer=None,
                    steps=0,
                    train_loss=0.0,
                    eval_loss_before=None,
                    eval_loss_after=None,
                    parameters=parameters,
                    size_bytes=publish.size_of(stage),
                    path=str(self._home.adapter(ref)),
                )
                await put(stage, adapter, self._library.add_adapter)
        finally:
            await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return adapter

    @unit
    async def put_model(
        self,
        job: Job,
        name: str,
        origin: Origin,
        source: str,
        facts: ModelFacts,
        proof: MergeProof | None = None,
        sums: Mapping[str, str] = MappingProxyType({}),
    ) -> Model:
        """Publishes what a merge or an import wrote; raises AlreadyExists if the name was taken meanwhile.

        `sums` are the SHA-256 that are known of its files.
        """
        stage, final = self._home.job(job.id).output, self._home.model(name)
        async with self._one_at_a_time:
            model = Model(
                name=name,
                create_time=datetime.now(UTC),
                origin=origin,
                source=source,
                fingerprint=facts.fingerprint,
                architecture=facts.architecture,
                parameters=facts.parameters,
                size_bytes=await asyncio.to_thread(publish.size_of, stage),
                path=str(final),
                merge_proof=proof,
                job_id=job.id,
            )
            await put(stage, model, self._library.add_model, sums)
        return model

    async def check_free(self, name: str) -> None:
        """Raises AlreadyExists if a model has this name, a job is about to give it to one, or its place is taken."""
        with contextlib.suppress(NotFound):
            await self._library.model(name)
            raise AlreadyExists(
                f"There is a model {name} already; choose another name, or remove it with `smolora-client models rm {name}`."
            )
        if name == STARTER:
            raise InvalidRequest.field("name", f"{STARTER!r} always means the starter model; choose another name")
        for job in await self._store.unfinished():
            if isinstance(job.spec, (MergeSpec, ImportSpec)) and job.spec.name == name:
                raise AlreadyExists(f"Job {job.id} is about to make a model {name}; choose another name.")
        await asyncio.to_thread(_check_place, self._home.model(name))

    def check_place(self, kind: Revisioned, name: str) -> None:
        """Raises AlreadyExists where something other than a folder has the place of a name's revisions."""
        folder = self._folder(kind, name)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise AlreadyExists(f"{folder} is not a folder of the daemon's; move it away, or choose another name.")

    @unit
    async def remove_dataset(self, ref: Ref) -> int:
        """Removes a revision of a dataset, or all; returns how many. Raises NotFound; BadState where a job needs one."""
        async with self._one_at_a_time:
            for job in await self._store.unfinished():
                if isinstance(job.spec, TrainSpec) and _covers(ref, Ref.parse(job.spec.dataset)):
                    raise BadState(_needed(job))
            removed = await self._library.dataset_revisions(ref)
            await remove([dataset.path for dataset in removed], lambda: self._library.remove_dataset(ref))
        return len(removed)

    @unit
    async def remove_adapter(self, ref: Ref) -> list[str]:
        """Removes a revision of an adapter, or all; returns which. Raises NotFound; BadState where a job needs one."""
        async with self._one_at_a_time:
            for job in await self._store.unfinished():
                needed = job.spec.adapter if isinstance(job.spec, MergeSpec) else getattr(job.spec, "parent", "")
                if needed and _covers(ref, Ref.parse(needed)):
                    raise BadState(_needed(job))
            removed = await self._library.adapter_revisions(ref)
            await remove([adapter.path for adapter in removed], lambda: self._library.remove_adapter(ref))
        return [str(adapter.ref) for adapter in removed]

    @unit
    async def remove_model(self, name: str, is_in_use: Callable[[str], bool]) -> None:
        """Removes a model. Raises NotFound, and BadState where `is_in_use` says that it is loaded, or a job needs it."""
        async with self._one_at_a_time:
            model = await self._library.model(name)
            references = (name, model.path)

            def check() -> None:
                if any(map(is_in_use, references)):
                    raise BadState(f"{name} is loaded, or being loaded; type `smolora-client unload` first.")

            for job in await self._store.unfinished():
                if await self._base_of(job) in references:
                    raise BadState(_needed(job))
            check()
            await remove([model.path], lambda: self._library.remove_model(name), check)

    async def _base_of(self, job: Job) -> str:
        """The model that a job needs, as it is named there; empty where it needs none."""
        if isinstance(job.spec, MergeSpec):
            with contextlib.suppress(NotFound):
                return (await self._library.adapter(Ref.parse(job.spec.adapter))).base_model
        return job.spec.model if isinstance(job.spec, (TrainSpec, PrepareSpec)) else ""

    async def export_adapter(self, adapter: Adapter, path: Path) -> None:
        """Copies an adapter's PEFT folder to a place that does not exist yet; it is there whole or not at all.

        Raises Damaged where a file is not as it was published.
        """
        base = self._home.model(adapter.base_model) if "/" not in adapter.base_model else None
        await asyncio.to_thread(_export, Path(adapter.path), path, source_of(adapter.base_model, base))

    async def _next(self, kind: Revisioned, name: str) -> Ref:
        """The name's next revision: above every one that was ever given, and above folders without a row."""
        given = await self._library.next_revision(kind, name)
        lying = await asyncio.to_thread(highest_revision, self._folder(kind, name))
        return Ref(name, max(given, lying + 1))

    def _folder(self, kind: Revisioned, name: str) -> Path:
        return (self._home.datasets if kind == "dataset" else self._home.adapters) / name


def _check_place(folder: Path) -> None:
    """Raises AlreadyExists where a folder without a row would fail the publication, after minutes of work."""
    with contextlib.suppress(OSError):
        folder.rmdir()  # an empty one that an earlier version left
    if folder.exists() or folder.is_symlink():
        raise AlreadyExists(f"{folder} is there, and no model of this list; move it away, or choose another name.")


def _covers(wanted: Ref, used: Ref) -> bool:
    return wanted.name == used.name and wanted.revision in (None, used.revision)


def _needed(job: Job) -> str:
    return f"Job {job.id} needs it; wait for the job, or type `smolora-client jobs cancel {job.id}`."


def _export(source: Path, path: Path, base: Source) -> None:
    if path.exists() or path.is_symlink():
        raise AlreadyExists(f"{path} exists already; name a folder that does not.")
    if not path.parent.is_dir():
        raise NotFound(f"There is no folder {path.parent}; make it first.")
    publish.verify(source)  # others have no sums to find damage by
    stage = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        _copy(source, stage)
        name_base(stage, base)  # an earlier version named it by a path
        remove_paths(stage)
        publish.flush_tree(stage)
        stage.rename(path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _copy(source: Path, to: Path) -> None:
    """Copies a published folder without its manifest; copytree would hide which file the system refuses, and why."""
    to.mkdir(mode=0o700)
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (to / path.relative_to(source)).mkdir(mode=0o700)
        elif path.name != publish.MANIFEST:
            shutil.copyfile(path, to / path.relative_to(source))
