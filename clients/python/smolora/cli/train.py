"""`smolora-client train`: an adapter of a dataset. Every flag of the run is made of the contract's settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora._fields import LORA, TRAINER
from smolora.cli.flags import ONE_REVISION, add_flags, given
from smolora.cli.output import Output
from smolora.cli.watch import follow

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dataset, the adapter's name, and the settings."""
    parser.add_argument("--dataset", required=True, metavar="NAME", help=ONE_REVISION)
    parser.add_argument(
        "--adapter", required=True, metavar="NAME", help="the adapter's name; one that exists gets a new revision"
    )
    parser.add_argument("--model", default="", metavar="NAME", help="the base model; by default the loaded one")
    parser.add_argument("--parent", default="", metavar="NAME", help="an adapter to continue from, in its shape")
    parser.add_argument("--detach", action="store_true", help="start the job, print its id, and leave")
    add_flags(parser.add_argument_group("the adapter (peft.LoraConfig)"), LORA)
    run_flags = parser.add_argument_group("the run (trl.SFTConfig)")
    add_flags(run_flags, TRAINER, {"per_device_train_batch_size": "--batch-size"})


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Trains, and shows how it goes."""
    training = client.train(args.dataset, args.adapter, model=args.model, parent=args.parent, **given(args, (*LORA, *TRAINER)))
    if args.detach:
        training.close()
        if out.json:
            out.emit(job=client.job(training.job_id))
        else:
            out.text(training.job_id)
            out.note(f"Watch it: smolora-client jobs watch {training.job_id}")
        return 0
    adapter = follow(training, out, "adapter")
    if not out.json:
        show(adapter, out)
    return 0


def show(adapter: values.Adapter, out: Output) -> None:
    """An adapter, below each other."""
    out.facts(
        [
            ("adapter", f"{adapter.name}@{adapter.revision}"),
            ("base", adapter.base_model),
            ("continues", adapter.parent),
            ("dataset", adapter.dataset),
            ("steps", adapter.steps or ""),
            ("training loss", f"{adapter.train_loss:.4f}" if adapter.steps else ""),
            ("learned", f"{adapter.scored_share:.0%} of the tokens" if 0 < adapter.scored_share < 0.995 else ""),
            ("held-out loss", losses(adapter)),
            ("rank", f"{adapter.lora.r}, alpha {adapter.lora.lora_alpha}, on {', '.join(adapter.lora.target_modules)}"),
            ("parameters", f"{adapter.parameters:,}"),
            ("path", adapter.path),
        ]
    )


def losses(adapter: values.Adapter) -> str:
    """The held-out loss before and after; empty where nothing was held out."""
    if adapter.eval_loss_before is None or adapter.eval_loss_after is None:
        return ""
    return f"{adapter.eval_loss_before:.4f} before, {adapter.eval_loss_after:.4f} after"
