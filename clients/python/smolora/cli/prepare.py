"""`smolora-client prepare`: a dataset of files, folders, or a dataset of the hub."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora import _models as values
from smolora._fields import PREPARE
from smolora.cli.flags import add_flags, given
from smolora.cli.follow import follow
from smolora.cli.output import Output, UsageError, number, plural
from smolora.cli.progress import Progress

if TYPE_CHECKING:
    from smolora._sync.client import Client

FILE_TYPES = ("txt", "jsonl", "csv", "saved_dataset")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the name, and how it is read."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, and folders: recursively, hidden files left out")
    parser.add_argument("--name", required=True, help="the dataset's name; one that exists gets a new revision")
    parser.add_argument("--file-type", choices=FILE_TYPES, help="what the files are read as; by default by the ending")
    parser.add_argument("--on-error", choices=("fail", "drop"), help="what to do with a malformed row; by default fail")
    add_flags(parser, PREPARE)
    hub = parser.add_argument_group("a dataset of the hub, in place of PATH")
    hub.add_argument("--hub", metavar="REPO", help="`owner/name` or `name`")
    hub.add_argument("--config", default="", metavar="NAME", help="its configuration")
    hub.add_argument("--split", default="", metavar="NAME", help="its split; by default train")
    hub.add_argument("--revision", default="", metavar="REV", help="a branch, tag or commit; by default the main branch")


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Uploads, prepares, and prints the report."""
    if bool(args.paths) == bool(args.hub):
        raise UsageError("give either PATH... or --hub REPO")
    hub = values.HubDataset(args.hub, args.config, args.split, args.revision) if args.hub else None
    if hub is None and (args.config or args.split or args.revision):
        raise UsageError("--config, --split and --revision go with --hub")
    with Progress(out) as progress:
        upload_id = _upload(args.paths, client, out, progress) if args.paths else ""
    prepared = client.prepare(
        args.name,
        upload_id=upload_id,
        hub=hub,
        file_type=args.file_type,
        on_error=args.on_error,
        **given(args, PREPARE),
    )
    dataset = follow(prepared, out, "dataset")
    if not out.json:
        show(dataset, out)
    return 0


def _upload(paths: list[str], client: Client, out: Output, progress: Progress) -> str:
    try:
        return client.upload(paths, progress.sent)
    except KeyboardInterrupt:
        out.note("\nInterrupted during the upload; no job was started.")
        raise


def show(dataset: values.Dataset, out: Output) -> None:
    """A dataset and its report, below each other."""
    report = dataset.report
    dropped = {"empty": report.rows_empty, "duplicate": report.rows_duplicate, "malformed": report.rows_malformed}
    tokens = f"{number(report.tokens)} (by {report.tokenizer})" if report.tokenizer else ""
    out.facts(
        [
            ("dataset", f"{dataset.name}@{dataset.revision}"),
            ("rows read", f"{number(report.rows_read)} from {plural(report.files, 'file')}"),
            ("rows kept", f"{number(report.rows_kept)} ({number(dataset.train_rows)} to train on, "
                          f"{number(dataset.validation_rows)} held out)"),
            ("rows dropped", ", ".join(f"{number(count)} {why}" for why, count in dropped.items() if count)),
            ("words", number(report.words)),
            ("tokens", tokens),
            ("path", dataset.path),
        ]
    )  # fmt: skip
    for problem in report.problems:
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        out.text(f"  {place}: {problem.why}")
