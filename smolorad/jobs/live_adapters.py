"""Adapters that are still being trained, by name and step: `support@latest`, `support@step-120`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from smolorad import publish
from smolorad.children.engine import AdapterFolder, LiveAdapter
from smolorad.domain import Job, JobState, TrainSpec, check_name
from smolorad.errors import NotFound
from smolorad.paths import Home
from smolorad.store.jobs import JobStore

_STEP = re.compile(r"latest|step-(0|[1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class UnfinishedAdapter:
    """An adapter of a training: in a checkpoint, or in the memory of the running training."""

    reference: str  # as the user names it
    adapter: AdapterFolder | LiveAdapter
    model: str  # its base


class LiveAdapters:
    """Finds the adapters of unfinished trainings."""

    def __init__(self, home: Home, store: JobStore) -> None:
        self._home = home
        self._store = store

    @staticmethod
    def names_one(reference: str) -> bool:
        """Whether a reference has the form of an adapter that is being trained."""
        return bool(_STEP.fullmatch(reference.partition("@")[2]))

    async def find(self, reference: str) -> UnfinishedAdapter:
        """The adapter of a reference that `names_one`; raises InvalidRequest for the name, NotFound."""
        name, _, wanted = reference.partition("@")
        check_name(name, "adapter")
        job, model = await self._job(name)
        saved = self._saved(job)
        step = wanted.removeprefix("step-")
        if step in saved:
            return UnfinishedAdapter(reference, _saved_adapter(name, step, job, saved[step]), model)
        past = step.isdecimal() and job.progress is not None and int(step) < job.progress.step
        if job.state is JobState.RUNNING and not past:
            live = LiveAdapter(name, job.id, int(step) if step.isdecimal() else None)
            return UnfinishedAdapter(reference, live, model)
        if wanted == "latest" and saved:
            newest = max(saved, key=int)
            return UnfinishedAdapter(reference, _saved_adapter(name, newest, job, saved[newest]), model)
        steps = ", ".join(f"{name}@step-{step}" for step in sorted(saved, key=int)) or "nothing yet"
        where = "" if past else " but does not run,"
        raise NotFound(f"Job {job.id} trains {name}{where} and has no {wanted}; there is {steps}.")

    async def _job(self, name: str) -> tuple[Job, str]:
        """The newest unfinished training of an adapter, one that runs first; and its base."""
        jobs = [
            (job.state is JobState.RUNNING, number, job, job.spec.model)
            for number, job in enumerate(await self._store.unfinished())
            if isinstance(job.spec, TrainSpec) and job.spec.adapter == name
        ]
        if not jobs:
            raise NotFound(f"No training of {name} is under way; leave the step out to ask the finished adapter.")
        _, _, job, model = max(jobs, key=lambda found: found[:2])
        return job, model

    def _saved(self, job: Job) -> dict[str, Path]:
        """The adapters of complete checkpoints, by step, and of older ones, which have no more than that."""
        folders = self._home.job(job.id)
        older = folders.steps.iterdir() if folders.steps.is_dir() else ()
        whole = folders.checkpoints.iterdir() if folders.checkpoints.is_dir() else ()
        saved = {path.name: path for path in older if path.name.isdecimal()}
        return saved | {path.name: path for path in whole if path.name.isdecimal() and (path / publish.MANIFEST).is_file()}


def _saved_adapter(name: str, step: str, job: Job, path: Path) -> AdapterFolder:
    label = f"{name}@step-{step}"
    return AdapterFolder(f"{label}#{job.id}", label, path)  # the next job of this name has such a step too
