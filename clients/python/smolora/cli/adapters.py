"""`smolora-client adapters`: list, show, rm, export, import."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora.cli.flags import EVERY_REVISION, ONE_REVISION, Actions
from smolora.cli.output import Output, plural, size, when
from smolora.cli.progress import Progress
from smolora.cli.train import losses, show

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = Actions(parser)
    actions.add("list", "list adapters, newest first, each revision by itself")
    actions.add("show", "show one adapter", name=ONE_REVISION)
    actions.add("rm", "remove one revision, or all of an adapter", name=EVERY_REVISION)
    to = "a folder that does not exist yet"
    actions.add("export", "copy an adapter's PEFT folder", name=ONE_REVISION, path=to)
    bring = actions.add("import", "import a PEFT LoRA folder as a new revision", path="the folder, with adapter_config.json")
    bring.add_argument("--name", required=True, help="the adapter's name")
    bring.add_argument("--base-model", default="", metavar="NAME", help="the base it belongs to; by default the loaded one")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Does what the action names."""
    {"list": _list, "show": _show, "rm": _remove, "export": _export, "import": _import}[args.action](args, client, out)
    return 0


def _list(args: argparse.Namespace, client: Client, out: Output) -> None:
    adapters = client.adapters()
    if out.json:
        out.emit(adapters=adapters)
        return
    rows = [
        (f"{a.name}@{a.revision}", a.base_model, a.dataset, losses(a), size(a.size_bytes), when(a.create_time))
        for a in adapters
    ]
    out.table(("ADAPTER", "BASE", "DATASET", "HELD-OUT LOSS", "SIZE", "CREATED"), rows)


def _show(args: argparse.Namespace, client: Client, out: Output) -> None:
    _print(client.adapter(args.name), out)


def _remove(args: argparse.Namespace, client: Client, out: Output) -> None:
    revisions = client.delete_adapter(args.name)
    if out.json:
        out.emit(revisions=revisions)
    else:
        out.text(f"{plural(revisions, 'revision')} removed.")


def _export(args: argparse.Namespace, client: Client, out: Output) -> None:
    path = client.export_adapter(args.name, args.path)
    if out.json:
        out.emit(path=str(path))
    else:
        out.text(str(path))


def _import(args: argparse.Namespace, client: Client, out: Output) -> None:
    with Progress(out) as progress:
        adapter = client.import_adapter(args.path, args.name, base_model=args.base_model, on_sent=progress.sent)
    _print(adapter, out)


def _print(adapter: values.Adapter, out: Output) -> None:
    if out.json:
        out.emit(adapter=adapter)
    else:
        show(adapter, out)
