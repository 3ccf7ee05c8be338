"""`smolora-client merge`: a model of an adapter and its base."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora._values import Dtype
from smolora.cli.flags import ONE_REVISION
from smolora.cli.models import show
from smolora.cli.output import Output
from smolora.cli.watch import follow

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The adapter, and the new model's name."""
    parser.add_argument("adapter", metavar="ADAPTER", help=ONE_REVISION)
    parser.add_argument("--name", required=True, help="the new model's name; it must be free")
    parser.add_argument("--dtype", choices=[dtype.value for dtype in Dtype], help="the number format; by default the base's")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Merges, and shows the proof."""
    model = follow(client.merge(args.adapter, args.name, dtype=args.dtype), out, "model")
    if not out.json:
        show(model, out)
    return 0
