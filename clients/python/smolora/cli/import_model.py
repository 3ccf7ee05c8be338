"""`smolora-client import`: copies a model into the daemon's home."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora.cli.models import show
from smolora.cli.output import Output
from smolora.cli.watch import follow

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where it comes from, and its name."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a model folder (./folder), a GGUF file, a hub id `owner/name`, or `starter`"
    )
    parser.add_argument("--name", required=True, help="the name it gets; it must be free")
    parser.add_argument("--revision", default="", metavar="REV", help="a branch, tag or commit of the hub")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Imports, and shows the model."""
    model = follow(client.import_model(args.source, args.name, revision=args.revision), out, "model")
    if not out.json:
        show(model, out)
    return 0
