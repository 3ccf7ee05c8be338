"""`smolora-client datasets`: list, show, report, preview, diff, rm."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smolora._errors import InvalidRequest
from smolora.cli import preview as rows
from smolora.cli.dataset_page import page
from smolora.cli.dataset_report import show, speed
from smolora.cli.flags import EVERY_REVISION, ONE_REVISION, Actions
from smolora.cli.output import Output, number, plural, when

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The actions."""
    actions = Actions(parser)
    actions.add("list", "list datasets, newest first, each with its newest revision")
    actions.add("show", "show one dataset with its report", name=ONE_REVISION)
    report = actions.add("report", "write the report as one HTML page, with plots; with --json also as data", name=ONE_REVISION)
    report.add_argument("--output", metavar="FILE", help="where to; by default NAME-REVISION.html, - for stdout")
    rows.arguments(actions.add("preview", "show some rows, as the model will see them"))
    diff = actions.add("diff", "show what a later dataset added and removed", before=ONE_REVISION, after=ONE_REVISION)
    diff.add_argument("--limit", type=int, default=20, metavar="N", help="rows of each kind to show; by default 20")
    actions.add("rm", "remove one revision, or all of a dataset", name=EVERY_REVISION)


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Does what the action names."""
    actions = {"list": _list, "show": _show, "report": _report, "preview": rows.run, "diff": _diff, "rm": _remove}
    actions[args.action](args, client, out)
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
        show(dataset, out, speed(client))


def _report(args: argparse.Namespace, client: Client, out: Output) -> None:
    dataset = client.dataset(args.name)
    content = page(dataset, speed(client))
    if args.output == "-":
        if out.json:
            out.emit(dataset=dataset)
        else:
            out.text(content)
        return
    path = Path(args.output or f"{dataset.name}-{dataset.revision}.html")
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written ({error.strerror}); choose another place with --output.") from error
    if out.json:
        out.emit(path=str(path), dataset=dataset)
    else:
        out.text(str(path))


def _diff(args: argparse.Namespace, client: Client, out: Output) -> None:
    diff = client.diff_datasets(args.before, args.after, limit=args.limit)
    if out.json:
        out.emit(diff=diff)
        return
    for sign, texts, count in (("-", diff.removed, diff.removed_rows), ("+", diff.added, diff.added_rows)):
        for text in texts:
            out.text("\n".join(f"{sign} {line}" for line in text.splitlines()))
        if count > len(texts):
            out.text(f"{sign} ... and {plural(count - len(texts), 'row')} more")
    out.note(f"{plural(diff.added_rows, 'row')} added, {number(diff.removed_rows)} removed, {number(diff.same_rows)} the same")


def _remove(args: argparse.Namespace, client: Client, out: Output) -> None:
    revisions = client.delete_dataset(args.name)
    if out.json:
        out.emit(revisions=revisions)
    else:
        out.text(f"{plural(revisions, 'revision')} removed.")
