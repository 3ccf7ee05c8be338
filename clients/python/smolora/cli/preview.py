"""`smolora-client preview`: rows of a dataset as the model will see them, what is masked dimmed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora.cli.flags import ONE_REVISION
from smolora.cli.output import Output, number, safe

if TYPE_CHECKING:
    from smolora._sync.client import Client

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The dataset, and which of its rows."""
    parser.add_argument("name", metavar="NAME", help=ONE_REVISION)
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="which rows; by default train")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="the first row, from 0")
    parser.add_argument("--limit", type=int, default=5, metavar="N", help="how many; by default 5")
    parser.add_argument(
        "--model", default="", metavar="NAME", help="the model whose chat template is used; by default the loaded one"
    )


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Prints the rows."""
    preview = client.preview(args.name, split=args.split, offset=args.offset, limit=args.limit, model=args.model)
    if out.json:
        out.emit(rows=preview.rows, total_rows=preview.total_rows, shown=preview.shown)
        return 0
    for row in preview.shown:
        out.text(rendered(row, colour=sys.stdout.isatty()))
    out.note(f"{len(preview.rows)} of {number(preview.total_rows)} rows")
    return 0


def rendered(row: values.PreviewRow, *, colour: bool) -> str:
    """A row; on a terminal its masked part is dim, and elsewhere it stands in brackets of its own: ⟦masked⟧."""
    before, behind = (_DIM, _PLAIN) if colour else ("⟦", "⟧")
    return "".join(safe(span.text) if span.scored else f"{before}{safe(span.text)}{behind}" for span in row.spans)
