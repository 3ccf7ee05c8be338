"""Checkpoints of a training: complete or absent, and continued only by the run that wrote them.

Trainer writes file after file into its folder and later takes the one with the highest number, complete or not. So it writes
into the stage, and a checkpoint exists once it was published: a manifest with sums, everything flushed, one rename.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import load_file, save_file
from torch import Tensor

from smolora.common.adapter_config import CONFIG, WEIGHTS
from smolorad import publish
from smolorad.domain import LoraSettings, TrainerSettings
from smolorad.errors import BadState, Damaged

KEPT, ADAPTERS_KEPT = 2, 100
_BEST = "best"
_LIBRARIES = ("accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunState:
    """What a run keeps besides Trainer's own state, so that a resumed run reports what an undisturbed one does."""

    loss_sum: float = 0.0  # of all steps, natural logarithm per scored token
    reported_loss_sum: float = 0.0  # the same, at the last report
    reported_step: int = 0
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    scored_tokens: int = 0
    # Only where the run may stop early:
    best_eval_loss: float | None = None
    best_step: int = 0
    evaluations_in_vain: int = 0  # since then


@dataclass(frozen=True, slots=True)
class Identity:
    """What must not change between two parts of one run; each is a SHA-256 in hexadecimal."""

    settings: str
    dataset: str
    base: str

    @classmethod
    def of(
        cls, lora: LoraSettings, trainer: TrainerSettings, dataset: Path, base_fingerprint: str, parent: Path | None = None
    ) -> Identity:
        """The identity of a run, which may continue from an adapter; raises Damaged where a file is not as it was published."""
        start = "" if parent is None else _fingerprint(parent)
        settings = json.dumps([dataclasses.asdict(lora), dataclasses.asdict(trainer), start], sort_keys=True)
        return cls(hashlib.sha256(settings.encode()).hexdigest(), _fingerprint(dataset), base_fingerprint)


@dataclass(frozen=True, slots=True)
class _About:
    """What a checkpoint's manifest says about it."""

    identity: Mapping[str, str]
    environment: Mapping[str, str]
    run: RunState


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint."""

    path: Path
    step: int
    run: RunState
    environment: Mapping[str, str]  # as `environment()` was when it was written


class Checkpoints:
    """The published checkpoints of one run, one folder a step."""

    def __init__(self, folder: Path, identity: Identity, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._identity = identity
        self._environment = environment

    def newest(self) -> Saved | None:
        """The newest complete checkpoint; incomplete ones are removed.

        Raises BadState where it was written with other settings, data or weights: to start over would throw work away unasked.
        """
        for grave in self._folder.glob(".removed-*"):  # left by a process that was killed while it removed one
            shutil.rmtree(grave, ignore_errors=True)
        for path in reversed(self._published()):
            try:
                about = msgspec.convert(publish.verify(path).get("about"), _About)
            except (Damaged, msgspec.ValidationError) as error:
                _log.warning("passed over a checkpoint that is not complete: %s", error)
                publish.remove(path)
                continue
            self._check(path, about.identity)
            return Saved(path, int(path.name), about.run, about.environment)
        return None

    def publish(self, stage: Path, step: int, run: RunState) -> None:
        """Makes what Trainer wrote into `stage` the checkpoint of `step`, and removes all but the newest few.

        Of those that go the adapter stays, beside the checkpoints, as long as it is one of the newest hundred.
        """
        final = self._folder / str(step)
        publish.remove(final)
        about = {
            "step": step,
            "identity": dataclasses.asdict(self._identity),
            "environment": dict(self._environment),
            "run": dataclasses.asdict(run),
        }
        publish.publish(stage, final, about)
        for path in self._published()[:-KEPT]:
            self._keep_adapter(path)
            publish.remove(path)

    def _keep_adapter(self, checkpoint: Path) -> None:
        """For requests to the adapter of this step; resuming does not need it, so it is not flushed."""
        steps = self._folder.with_name("steps")
        stage = steps / ".stage"
        with publish.fresh(stage):
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(checkpoint / name, stage / name)
            publish.remove(steps / checkpoint.name)
            stage.rename(steps / checkpoint.name)
        for path in _by_number(steps)[:-ADAPTERS_KEPT]:
            publish.remove(path)

    def keep_best(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Keeps an adapter apart from the checkpoints, in place of an earlier one.

        A run that is killed in between repeats this, from the checkpoint before.
        """
        stage = self._folder / ".best-stage"
        with publish.fresh(stage):
            save_file(dict(tensors), stage / WEIGHTS)
            publish.remove(self._folder / _BEST)
            publish.publish(stage, self._folder / _BEST, {"step": step})

    def best(self) -> dict[str, Tensor]:
        """The adapter that was kept; raises Damaged."""
        publish.verify(self._folder / _BEST)
        tensors: dict[str, Tensor] = load_file(self._folder / _BEST / WEIGHTS)
        return tensors

    def _published(self) -> list[Path]:
        return _by_number(self._folder)

    def _check(self, path: Path, written: Mapping[str, Any]) -> None:
        now = dataclasses.asdict(self._identity)
        changed = [name for name, digest in now.items() if written.get(name) != digest]
        if changed:
            raise BadState(
                f"The checkpoint of step {path.name} was written with other {' and '.join(changed)} than this run has; "
                "start a new job to train with these."
            )


def _by_number(folder: Path) -> list[Path]:
    """The steps in a folder, oldest first; by number, since clocks can be set back."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def environment(device: str, dtype: str) -> dict[str, str]:
    """What computes: a run may continue in another, but then not bit for bit."""
    return {name: version(name) for name in _LIBRARIES} | {"device": device, "dtype": dtype}


def _fingerprint(folder: Path) -> str:
    there = (folder / publish.MANIFEST).exists()
    return publish.fingerprint(publish.verify(folder) if there else {"files": publish.describe(folder)})
