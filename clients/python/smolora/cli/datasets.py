"""`smolora-client datasets`: list, show, rm."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora.cli.flags import Actions
from smolora.cli.output import Output, number, plural, when
from smolora.cli.prepare import show

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = Actions(parser)
    actions.add("list", "list datasets, newest first, each with its newest revision")
    actions.add("show", "show one dataset with its report: NAME or NAME@REVISION", "name")
    preview = actions.add("preview", "show some rows, as training will read them", "name")
    preview.add_argument("--split", choices=("train", "validation"), default="train", help="which rows; by default train")
    preview.add_argument("--offset", type=int, default=0, metavar="N", help="the first row, from 0")
    preview.add_argument("--limit", type=int, default=5, metavar="N", help="how many; by default 5")
    actions.add("rm", "remove NAME@REVISION, or with NAME every revision", "name")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Does what the action names."""
    {"list": _list, "show": _show, "preview": _preview, "rm": _remove}[args.action](args, client, out)
    return 0


def _list(args: argparse.Namespace, client: Client, out: Output) -> None:
    datasets = client.datasets()
    if out.json:
        out.emit(datasets=datasets)
        return
    rows = [
        (
            f"{d.name}@{d.revision}",
            number(d.train_rows),
            number(d.validation_rows),
            number(d.report.tokens),
            when(d.create_time),
        )
        for d in datasets
    ]
    out.table(("DATASET", "TRAIN ROWS", "HELD OUT", "TOKENS", "CREATED"), rows)


def _show(args: argparse.Namespace, client: Client, out: Output) -> None:
    dataset = client.dataset(args.name)
    if out.json:
        out.emit(dataset=dataset)
    else:
        show(dataset, out)


def _preview(args: argparse.Namespace, client: Client, out: Output) -> None:
    preview = client.preview(args.name, split=args.split, offset=args.offset, limit=args.limit)
    if out.json:
        out.emit(rows=preview.rows, total_rows=preview.total_rows)
        return
    for row in preview.rows:
        out.text(row)
    out.note(f"{len(preview.rows)} of {number(preview.total_rows)} rows")


def _remove(args: argparse.Namespace, client: Client, out: Output) -> None:
    revisions = client.delete_dataset(args.name)
    if out.json:
        out.emit(revisions=revisions)
    else:
        out.text(f"{plural(revisions, 'revision')} removed.")
