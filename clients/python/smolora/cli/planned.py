"""`smolora-client chat` and `compare`: verbs that are named, and not there yet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora.cli.output import Output

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes whatever is given."""
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(verb=parser.prog.split()[-1])


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Says so, as an error."""
    out.error("NOT_YET", f"{args.verb} comes with a later version; until then: smolora-client generate PROMPT --adapter NAME")
    return 1
