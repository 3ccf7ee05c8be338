"""The library's folders: what is made is published and recorded here, and taken away here, one thing at a time."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

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
    Ref,
    ResidentModel,
    Trained,
    TrainSpec,
)
from smolorad.errors import AlreadyExists, BadState, InvalidRequest, NotFound
from smolorad.jobs.peft_folder import copy_adapter, name_base
from smolorad.paths import Home
from smolorad.portable import Source, remove_paths, source_of
from smolorad.residency import STARTER
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library


class Shelf:
    """Puts artefacts on the shelf and takes them down."""

    def __init__(self, home: Home, store: JobStore, library: Library) -> None:
        self._home = home
        self._store = store
        self._library = library
        self._one_at_a_time = asyncio.Lock()  # two revisions of one name must not get one number

    async def put_dataset(self, job: Job, name: str, made: Prepared, source_fingerprint: str = "") -> Dataset:
        """Publishes what a prepare job wrote, as the name's next revision."""
        async with self._one_at_a_time:
            ref = Ref(name, await self._library.next_revision("dataset", name))
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
            await asyncio.to_thread(publish.publish, stage, final, _about(dataset))
            await self._library.add_dataset(dataset)
        return dataset

    async def put_adapter(self, job: Job, spec: TrainSpec, made: Trained, base: ResidentModel) -> Adapter:
        """Publishes what a training wrote, as the name's next revision."""
        stage = self._home.job(job.id).output
        async with self._one_at_a_time:
            ref = Ref(spec.adapter, await self._library.next_revision("adapter", spec.adapter))
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
            await self._put_adapter(stage, adapter)
        return adapter

    async def import_adapter(
        self,
        folder: Path,
        name: str,
        lora: LoraSettings,
        parameters: int,
        base_model: str,
        base_fingerprint: str,
        source: Source,
    ) -> Adapter:
        """Publishes a copy of an uploaded PEFT folder that was checked; `source` is what its base is called elsewhere."""
        stage = self._home.uploads / f".import-{secrets.token_hex(8)}"
        try:
            await asyncio.to_thread(copy_adapter, folder, stage, source)
            async with self._one_at_a_time:
                ref = Ref(name, await self._library.next_revision("adapter", name))
                adapter = Adapter(
                    name=name,
                    revision=ref.revision or 0,
                    create_time=datetime.now(UTC),
                    origin=Origin.FOLDER,
                    base_model=base_model,
                    base_fingerprint=base_fingerprint,
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
                await self._put_adapter(stage, adapter)
        finally:
            await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        return adapter

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
            await asyncio.to_thread(publish.publish, stage, final, _about(model), sums)
            await self._library.add_model(model)
        return model

    async def check_free(self, name: str) -> None:
        """Raises AlreadyExists if a model has this name, or a job is about to give it to one."""
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

    async def remove_dataset(self, ref: Ref) -> int:
        """Takes a revision, or all, of a dataset away; returns how many. Raises NotFound; BadState where a job needs one."""
        for job in await self._store.unfinished():
            if isinstance(job.spec, TrainSpec) and _covers(ref, Ref.parse(job.spec.dataset)):
                raise BadState(_needed(job))
        async with self._one_at_a_time:
            removed = await self._library.remove_dataset(ref)
            await _remove_folders([Path(dataset.path) for dataset in removed])
        return len(removed)

    async def remove_adapter(self, ref: Ref) -> list[str]:
        """Takes a revision, or all, of an adapter away; returns which. Raises NotFound; BadState where a job needs one."""
        for job in await self._store.unfinished():
            needed = job.spec.adapter if isinstance(job.spec, MergeSpec) else getattr(job.spec, "parent", "")
            if needed and _covers(ref, Ref.parse(needed)):
                raise BadState(_needed(job))
        async with self._one_at_a_time:
            removed = await self._library.remove_adapter(ref)
            await _remove_folders([Path(adapter.path) for adapter in removed])
        return [str(adapter.ref) for adapter in removed]

    async def remove_model(self, name: str, resident: str) -> None:
        """Takes a model away. Raises NotFound, and BadState where it is resident or a job needs it."""
        model = await self._library.model(name)
        if name == resident:
            raise BadState(f"{name} is loaded; type `smolora-client unload` first.")
        for job in await self._store.unfinished():
            if isinstance(job.spec, TrainSpec) and job.spec.model == name:
                raise BadState(_needed(job))
        async with self._one_at_a_time:
            await self._library.remove_model(name)
            await _remove_folders([Path(model.path)])

    async def export_adapter(self, adapter: Adapter, path: Path) -> None:
        """Copies an adapter's PEFT folder to a place that does not exist yet; it is there whole or not at all.

        Raises Damaged where a file is not as it was published.
        """
        if not path.is_absolute():
            raise InvalidRequest.field("path", f"{str(path)!r} is not absolute; give the whole path of the new folder")
        try:
            base = self._home.model(adapter.base_model) if "/" not in adapter.base_model else None
            await asyncio.to_thread(_export, Path(adapter.path), path, source_of(adapter.base_model, base))
        except PermissionError as error:
            raise InvalidRequest.field("path", f"{path} cannot be written by the daemon; choose another place") from error

    async def _put_adapter(self, stage: Path, adapter: Adapter) -> None:
        await asyncio.to_thread(publish.publish, stage, Path(adapter.path), _about(adapter))
        await self._library.add_adapter(adapter)


def _about(item: Dataset | Adapter | Model) -> Mapping[str, Any]:
    """The record as the manifest has it: without the folder's own place, which is where the manifest lies."""
    return {name: value for name, value in msgspec.to_builtins(item).items() if name != "path"}


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
        shutil.copytree(source, stage, ignore=shutil.ignore_patterns(publish.MANIFEST))
        name_base(stage, base)  # an earlier version named it by a path
        remove_paths(stage)
        publish.flush_tree(stage)
        stage.rename(path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


async def _remove_folders(folders: list[Path]) -> None:
    for folder in folders:
        await asyncio.to_thread(publish.remove, folder)
