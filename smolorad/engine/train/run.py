"""One training on the loaded base model, from the daemon's command to the finished adapter folder."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from peft import LoraConfig
from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from smolorad.domain import Dtype, LoraSettings, Trained, TrainerSettings, check
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.runtime.device import trim_memory
from smolorad.engine.runtime.errors import is_out_of_memory
from smolorad.engine.runtime.short_matmul import splitting_long_products
from smolorad.engine.train.build import Run, assemble
from smolorad.engine.train.checkpoint import Checkpoints, Identity, Saved, environment
from smolorad.engine.train.estimate import smaller
from smolorad.engine.train.lora import adapter_tensors, as_plain_lora, changes_base, resolved, write_adapter
from smolorad.engine.train.trainer import HostedTrainer
from smolorad.engine.train.training_host import Host, HostCall
from smolorad.errors import NoSpace, OutOfMemory, ShuttingDown, is_disk_full
from smolorad.link.convert import from_message, to_message
from smolorad.link.v1 import link_pb2 as pb
from smolorad.portable import remove_paths


def train(command: pb.Train, call: int, base: BaseModel, host: Host, processes: int = 1) -> pb.Trained:
    """Trains an adapter and writes it to `command.output_path`; continues from the newest complete checkpoint, if there is one.

    Emits TrainProgress, Evaluation, Checkpoint and Note events. The base is left as it was, also when the training fails; then
    nothing is at `output_path`. `processes` is how many share the run, this one among them; the first one writes.

    Raises InvalidRequest for settings that do not fit the model, BadData and Damaged for the dataset, BadState for a checkpoint
    of another run, NotFinite, Cancelled, ShuttingDown (after a checkpoint), OutOfMemory, NoSpace.
    """
    lora, settings = from_message(LoraSettings, command.lora), from_message(TrainerSettings, command.trainer)
    if not command.parent_path:  # an adapter that is continued keeps its own shape
        check(lora, "lora.")
    check(settings, "trainer.")
    shutil.rmtree(command.output_path, ignore_errors=True)
    run = Run(
        base=base,
        host=HostCall(host, call),
        lora=lora,
        settings=settings,
        dataset=Path(command.dataset_path),
        stage=Path(command.stage_path),
        parent=Path(command.parent_path) if command.parent_path else None,
        tensorboard=Path(command.tensorboard_path) if settings.tensorboard and command.tensorboard_path else None,
        processes=processes,
    )
    with _own_errors(settings), _as_it_was(base), splitting_long_products(base.device):
        try:
            return _train(run, Path(command.checkpoints_path), Path(command.output_path))
        finally:
            run.host.offer(None)


def _train(run: Run, checkpoints_folder: Path, output: Path) -> pb.Trained:
    base, settings = run.base, run.settings
    identity = Identity.of(run.lora, settings, run.dataset, base.fingerprint, run.parent)
    now = environment(base.device, base.dtype)
    checkpoints = Checkpoints(checkpoints_folder, identity, now)
    saved = checkpoints.newest()
    for text in _notes(base, settings, saved, now):
        run.note(text)
    trainer = assemble(run, checkpoints, done=None if saved is None else saved.step)
    with closing(trainer.reports):
        tensors, config = _run(trainer, saved)
    state = trainer.run
    trainer.accelerator.wait_for_everyone()
    if settings.early_stopping_patience:
        tensors = checkpoints.best()
        run.note(f"The adapter is the one of step {state.best_step:,}, whose held-out loss was the lowest.")
    if changes_base(config):
        tensors, config = as_plain_lora(tensors, trainer.start, config)
    if trainer.is_world_process_zero():
        _write(output, tensors, config, base)
    trained = Trained(
        steps=state.best_step or trainer.state.global_step,
        train_loss=state.loss_sum / trainer.state.global_step,
        eval_loss_before=state.eval_loss_before,
        eval_loss_after=state.eval_loss_after,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        lora=resolved(run.lora, config),
        scored_share=state.scored_tokens / max(trainer.state.num_input_tokens_seen, 1),
    )
    return to_message(pb.Trained, trained)


def _run(trainer: HostedTrainer, saved: Saved | None) -> tuple[dict[str, Tensor], LoraConfig]:
    """Trains the remaining steps; the adapter's tensors and config. Raises ShuttingDown if the engine is to end before."""
    if saved is None:
        trainer.train()
    else:
        trainer.run = saved.run
        state = TrainerState.load_from_json(str(saved.path / TRAINER_STATE_NAME))
        if state.global_step < state.max_steps and not trainer.stopped_early:
            trainer.train(resume_from_checkpoint=str(saved.path))
        else:
            trainer.restore(saved.path, state)
    if not trainer.finished:
        raise ShuttingDown("The training was stopped; it continues from its checkpoint when it is its turn again.")
    return adapter_tensors(trainer.model), trainer.model.peft_config["default"]


def _write(output: Path, tensors: dict[str, Tensor], config: LoraConfig, base: BaseModel) -> None:
    """The finished folder: PEFT's two files, and the tokenizer's."""
    write_adapter(output, tensors, config, base.source)
    base.transformers_model().tokenizer.save_pretrained(output)
    remove_paths(output)


def _notes(base: BaseModel, settings: TrainerSettings, saved: Saved | None, now: Mapping[str, str]) -> Iterator[str]:
    """What the user should know before the first step."""
    if settings.max_length > base.context_length:
        yield f"Rows are cut to {base.context_length:,} tokens, which is all that {base.name} can see."
    if base.dtype is Dtype.FLOAT16:
        yield "The base is in float16, in which small gradients vanish; load it in bfloat16 or float32 to train well."
    if saved is not None:
        yield f"Continues from the checkpoint of step {saved.step:,}."
        before = saved.environment
        changed = [f"{name} {before.get(name)} is now {value}" for name, value in now.items() if before.get(name) != value]
        if changed:
            yield f"The result may differ in its last bits from an undisturbed run: {', '.join(changed)}."


@contextmanager
def _as_it_was(base: BaseModel) -> Iterator[None]:
    """Frees the training's memory and restores the base's flags: the parameters that PEFT freezes in a view are the base's."""
    flags = [(parameter, parameter.requires_grad) for parameter in base.model.parameters()]
    try:
        yield
    except BaseException as error:
        # The frames of a traceback keep the trainer alive, with its view and optimiser, for as long as the error is kept.
        link: BaseException | None = error
        while link is not None:
            traceback.clear_frames(link.__traceback__)
            link = link.__context__
        raise
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        trim_memory(base.device)


@contextmanager
def _own_errors(settings: TrainerSettings) -> Iterator[None]:
    """Turns each library's errors of memory and disk into ours."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_disk_full(error):
            raise NoSpace("The disk is full; free some space, then resume the job.") from error
        if is_out_of_memory(error):
            lower = smaller(settings, fast=settings.trainer == "fast")
            more = "" if settings.gradient_checkpointing else ", or turn trainer.gradient_checkpointing on"
            raise OutOfMemory(f"Not enough memory to train; lower {lower}{more}.") from error
        raise
