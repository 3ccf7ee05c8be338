"""`smolora-client prepare`: a dataset of files, folders, or a dataset of the hub."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from smolora import _values as values
from smolora._fields import PREPARE
from smolora.cli.dataset_report import show, speed
from smolora.cli.flags import add_flags, given
from smolora.cli.output import Output, UsageError, when
from smolora.cli.progress import Progress
from smolora.cli.watch import follow

if TYPE_CHECKING:
    from smolora._sync.client import Client
    from smolora._sync.streams import JobRun


def arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the name, and how it is read."""
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, folders (recursively, hidden files left out), patterns; - is stdin"
    )
    parser.add_argument("--name", required=True, help="the dataset's name; one that exists gets a new revision")
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
    began = datetime.now(UTC)
    with ExitStack() as stack:
        paths = [stack.enter_context(_stdin(args.file_type)) if path == "-" else path for path in args.paths]
        prepared = _start(args, paths, hub, client, out)
    dataset = follow(prepared, out, "dataset")
    if not out.json:
        if dataset.create_time < began:
            out.note(f"The files are as they were at {when(dataset.create_time)}, so nothing was done.")
        show(dataset, out, speed(client) if dataset.report.tokens_read else None)
    return 0


def _start(
    args: argparse.Namespace, paths: list[str], hub: values.HubDataset | None, client: Client, out: Output
) -> JobRun[values.Dataset]:
    settings = given(args, PREPARE)
    if settings.get("delimiter") == r"\t":  # a tab can hardly be typed in a shell
        settings["delimiter"] = "\t"
    try:
        with Progress(out) as progress:
            return client.prepare(args.name, paths, hub=hub, on_sent=progress.sent, **settings)
    except KeyboardInterrupt:
        out.note("\nInterrupted during the upload; no job was started.")
        raise


@contextmanager
def _stdin(file_type: str | None) -> Iterator[str]:
    """Standard input as a file; read as JSON Lines where it begins with a brace, else as text, unless a type is given."""
    with tempfile.TemporaryDirectory(prefix="smolora-") as folder:
        first = sys.stdin.buffer.read(2**16)
        begins = first.lstrip()[:1]
        kind = file_type or {b"{": "jsonl", b"[": "json"}.get(begins, "txt")
        path = Path(folder, f"stdin.{'md' if kind == 'markdown' else kind}")
        with path.open("wb") as file:
            file.write(first)
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)
