"""`smolora-client load`: loads a model."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from smolora._values import Device, Dtype, KvDtype, LoadEstimate, Precision
from smolora.cli.flags import duration
from smolora.cli.memory import estimate_facts, estimate_line
from smolora.cli.output import Output
from smolora.cli.progress import Progress, describe_loading
from smolora.cli.status import describe

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, where to, how precise, how long."""
    parser.add_argument(
        "model",
        nargs="?",
        default="",
        metavar="MODEL",
        help="a name of `models`, `starter`, a hub id `owner/name`, a folder, or a GGUF file; by default the daemon's default",
    )
    parser.add_argument("--device", choices=[device.value for device in Device], help="the device; chosen by default")
    parser.add_argument(
        "--dtype", choices=[dtype.value for dtype in Dtype], help="the number format of its weights; chosen by default"
    )
    parser.add_argument(
        "--precision",
        choices=[precision.value for precision in Precision],
        help="how generation reads its weights: int8 and int4 are faster; by default the daemon's setting",
    )
    parser.add_argument(
        "--kv-dtype",
        choices=[kv_dtype.value for kv_dtype in KvDtype],
        help="the number format of KV caches: int8 takes half of bfloat16; by default the daemon's setting",
    )
    parser.add_argument(
        "--keep-alive", type=duration, metavar="TIME", help="how long it stays loaded unused: 10m, 2h; -1: for ever"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say whether it fits into memory, and exit with 1 where it does not; nothing is loaded or downloaded",
    )


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Loads, and shows the stages."""
    model = args.model
    if model.endswith("/") and os.path.isdir(model):  # what a shell's completion makes of a folder here
        model = os.path.abspath(model)
    if args.dry_run:
        return _estimate(args, model, client, out)
    loading = client.load(model, **_options(args), keep_alive=args.keep_alive)
    with Progress(out) as progress:
        shown = False
        for stage in loading:
            if loading.estimate is not None and not shown:
                shown = True
                _show(loading.estimate, progress, out)
            if out.json:
                out.emit(progress=stage)
            else:
                progress.step(describe_loading(stage), stage.done_bytes, stage.total_bytes)
        resident = loading.result()
    if out.json:
        out.emit(resident=resident)
        return 0
    out.text(describe(resident))
    for note in resident.self_test_notes:
        out.note(f"note: {note}")
    return 0


def _options(args: argparse.Namespace) -> dict[str, str | None]:
    return {name: getattr(args, name) for name in ("device", "dtype", "precision", "kv_dtype")}


def _estimate(args: argparse.Namespace, model: str, client: Client, out: Output) -> int:
    """Says what the model would take; 1 where that does not fit."""
    found = client.estimate(model, **_options(args))
    if out.json:
        out.emit(estimate=found)
    else:
        out.facts(estimate_facts(found))
        if found.advice:
            out.note(f"note: {found.advice}")
    return 0 if found.fits else 1


def _show(found: LoadEstimate, progress: Progress, out: Output) -> None:
    """What the model takes, on a line that stays, before its weights are read."""
    if out.json:
        out.emit(estimate=found)
        return
    progress.line(estimate_line(found))
    if found.advice:
        progress.line(f"note: {found.advice}")
