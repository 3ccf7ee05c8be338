"""Train: the engine trains an adapter on its base. Checkpoints stay between runs, so a training continues where it stopped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from smolorad.children.engine import Engine, TrainEvent, Training
from smolorad.children.worker import Workers
from smolorad.domain import (
    Estimate,
    Job,
    LoraSettings,
    Note,
    Ref,
    ResidentModel,
    Trained,
    TrainProgress,
    TrainSpec,
    check,
    check_name,
    check_texts,
)
from smolorad.errors import InvalidRequest, SmoloraError
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.job_runner import Emit
from smolorad.jobs.merge import MERGED_KEY
from smolorad.log import Log
from smolorad.paths import Home
from smolorad.residency import Base, Residency, Resolver
from smolorad.store.library import Library

log = Log(__name__)

_SAMPLES = 16
# Users who merged before often merge again. The merge worker starts only in the last minute of a training.
_MERGE_FOLLOWS_S = 60.0
_INIT = re.compile(r"true|gaussian|olora|pissa|pissa_niter_[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class FinishedTraining:
    """The result of a training, and its base."""

    trained: Trained
    base: ResidentModel


class Train:
    """The handler of train jobs."""

    def __init__(
        self, home: Home, library: Library, artifacts: Artifacts, residency: Residency, resolver: Resolver, workers: Workers
    ) -> None:
        self._home = home
        self._library = library
        self._artifacts = artifacts
        self._residency = residency
        self._resolver = resolver
        self._workers = workers
        self._engines: dict[str, Engine] = {}  # by the job that trains on them

    async def plan(self, spec: TrainSpec, given: Collection[str] = ()) -> TrainSpec:
        """The request with `dataset` and `model` as full references; raises InvalidRequest or NotFound.

        `given` are the settings of `lora` that were asked for, also where they are the defaults.
        """
        check_name(spec.adapter, "adapter")
        self._artifacts.check_place("adapter", spec.adapter)
        check(spec.trainer, "trainer.")
        check_texts(spec.trainer, "trainer.")
        _check_lora(spec.lora)
        if spec.trainer.early_stopping_patience and not spec.trainer.eval_steps:
            raise InvalidRequest.field("trainer.early_stopping_patience", "needs evaluations to compare; give eval_steps too")
        if len(spec.trainer.sample_prompts) > _SAMPLES or "" in spec.trainer.sample_prompts:
            raise InvalidRequest.field("trainer.sample_prompts", f"must be at most {_SAMPLES} texts, none of them empty")
        dataset = await self._library.dataset(Ref.parse(spec.dataset, "dataset"))
        if dataset.train_rows < 1:
            raise InvalidRequest.field("dataset", f"{dataset.ref} has no row to train on; prepare it with less validation")
        if spec.trainer.early_stopping_patience and dataset.validation_rows < 1:
            raise InvalidRequest.field(
                "trainer.early_stopping_patience",
                f"needs held-out rows, and {dataset.ref} has none; prepare it with validation",
            )
        spec = dataclasses.replace(spec, dataset=str(dataset.ref))
        if spec.parent:
            spec = await self._from_parent(spec, given)
        model = await self._residency.choose(spec.model)
        await self._resolver.check(model)
        return dataclasses.replace(spec, model=model)

    async def _from_parent(self, spec: TrainSpec, given: Collection[str]) -> TrainSpec:
        """The request with the parent's full reference, its shape, and its base where none is named."""
        parent = await self._library.adapter(Ref.parse(spec.parent, "parent"))
        if other := [name for name in given if getattr(spec.lora, name) != getattr(parent.lora, name)]:
            raise InvalidRequest.field("lora", f"has {other[0]}, but {parent.ref} keeps its own shape; leave it out")
        return dataclasses.replace(spec, parent=str(parent.ref), lora=parent.lora, model=spec.model or parent.base_model)

    async def work(self, job: Job, emit: Emit) -> FinishedTraining:
        """Loads the base and trains on it."""
        spec = _spec(job)
        dataset = await self._library.dataset(Ref.parse(spec.dataset))
        parent = await self._library.adapter(Ref.parse(spec.parent)) if spec.parent else None
        curves = self._home.tensorboard / f"{spec.adapter}-{job.id}" if spec.trainer.tensorboard else None
        if curves is not None and job.attempts == 1:
            await emit(Note(f"The curves are in {curves}; type `tensorboard --logdir {self._home.tensorboard}` to see them."))
        resident = self._residency.resident
        if resident is not None and resident.name != spec.model:
            await emit(Note(f"Loads {spec.model} in place of {resident.name}."))
        merges = await self._library.recall(MERGED_KEY) is not None
        async with self._residency.lease(spec.model, training=True) as lease:
            if parent is not None:
                lease.check_base(parent)
            wanted = Training(Path(dataset.path), spec.lora, spec.trainer, Path(parent.path) if parent else None, curves)
            self._engines[job.id] = lease.engine
            try:
                events = lease.engine.train(job.id, wanted, self._home.job(job.id))
                async with aclosing(events):
                    async for event in events:
                        left_s = _left_s(event)
                        if merges and left_s is not None and left_s <= _MERGE_FOLLOWS_S:
                            self._expect_merge(left_s, lease.base)
                        if isinstance(event, Trained):
                            return FinishedTraining(event, lease.model)
                        await emit(event)
            finally:
                del self._engines[job.id]
        raise AssertionError("a training ends with its result or raises")

    def _expect_merge(self, left_s: float, base: Base) -> None:
        known = None if base.trust_remote_code else base.path
        self._workers.expect_merge(left_s + _MERGE_FOLLOWS_S, known)

    async def pause(self, job_id: str) -> bool:
        """Asks the training to checkpoint at its next step and end; false where it has not started."""
        engine = self._engines.get(job_id)
        return engine is not None and await engine.pause_training()

    async def publish(self, job: Job, made: FinishedTraining) -> str:
        """Publishes the revision and loads it into the engine: the next Generate may name it."""
        adapter = await self._artifacts.put_adapter(job, _spec(job), made.trained, made.base)
        try:
            await self._residency.attach(adapter)
        except SmoloraError as error:
            # It is published, and the first Generate that names it loads it.
            log.warning("cannot load the new adapter yet", adapter=adapter.ref, why=error.message)
        return str(adapter.ref)


def _left_s(event: TrainEvent) -> float | None:
    """The seconds that a training still takes after this event, if it says so."""
    match event:
        case Estimate(seconds=seconds) | TrainProgress(eta_s=seconds):
            return seconds
        case Trained():
            return 0.0
    return None


def _check_lora(lora: LoraSettings) -> None:
    check(lora, "lora.")
    check_texts(lora, "lora.")
    if not _INIT.fullmatch(lora.init_lora_weights):
        raise InvalidRequest.field(
            "lora.init_lora_weights",
            f"is {lora.init_lora_weights!r}, but must be one of true, gaussian, olora, pissa, pissa_niter_N",
        )
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if "" in getattr(lora, name):
            raise InvalidRequest.field(f"lora.{name}", "has an empty name")
    for name, most in (("rank_pattern", 1024), ("alpha_pattern", 65536)):
        for module, number in getattr(lora, name).items():
            if not 1 <= number <= most:
                raise InvalidRequest.field(f"lora.{name}", f"{module} is {number}, but must be at least 1 and at most {most:,}")
    if any(layer < 0 for layer in lora.layers_to_transform):
        raise InvalidRequest.field("lora.layers_to_transform", "has a negative number; layers count from 0")


def _spec(job: Job) -> TrainSpec:
    assert isinstance(job.spec, TrainSpec)
    return job.spec
