"""`smolora-client models`: list, show, rm."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora.cli.flags import Actions
from smolora.cli.output import Output, number, size, when

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = Actions(parser)
    actions.add("list", "list models, newest first")
    actions.add("show", "show one model", name="as `models list` shows it")
    actions.add("rm", "remove a model; not while it is loaded", name="as `models list` shows it")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Does what the action names."""
    if args.action == "rm":
        client.delete_model(args.name)
        if out.json:
            out.emit()
        else:
            out.text(f"{args.name} is removed.")
    elif args.action == "show":
        model = client.model(args.name)
        if out.json:
            out.emit(model=model)
        else:
            show(model, out)
    else:
        _list(client.models(), out)
    return 0


def _list(models: list[values.Model], out: Output) -> None:
    if out.json:
        out.emit(models=models)
        return
    rows = [
        (m.name, m.origin, number(m.parameters), size(m.size_bytes), "yes" if m.resident else "", when(m.create_time))
        for m in models
    ]
    out.table(("NAME", "ORIGIN", "PARAMETERS", "SIZE", "LOADED", "CREATED"), rows)


def show(model: values.Model, out: Output) -> None:
    """A model, below each other, with what Merge proved."""
    proof = model.merge_proof
    out.facts(
        [
            ("model", model.name),
            ("origin", f"{model.origin}: {model.source}" if model.source else model.origin),
            ("architecture", model.architecture),
            ("parameters", number(model.parameters)),
            ("size", size(model.size_bytes)),
            ("loaded", "yes" if model.resident else ""),
            ("logits", proof and f"differ by {proof.max_logit_difference:.2g} at most, {proof.bound:.2g} is allowed"),
            ("greedy", proof and f"{proof.greedy_agreement:.2%} of positions agree, on {proof.prompts} prompts"),
            ("path", model.path),
        ]
    )
