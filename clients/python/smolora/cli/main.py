"""The command `smolora-client`.

Results go to stdout, progress and errors to stderr. `--json` writes JSON to stdout, shaped as the contract's messages: one
object, or one a line for what streams; an error too is an object there: `{"error": {"reason", "message", "violations"}}`.

Exit codes: 0 done, 1 failed, 2 usage, 69 no daemon, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from smolora._errors import DaemonNotRunning, SmoloraError
from smolora.cli.flags import Parser, common
from smolora.cli.output import Output, UsageError
from smolora.common.argv import join_negative

# Verb → its line in the help. Its module has `arguments(parser)` and `run(args, client, out)`, which returns the exit code.
VERBS: Mapping[str, str] = {
    "status": "what runs, and what it uses",
    "prepare": "make a dataset of your text",
    "preview": "show rows of a dataset as the model will see them",
    "train": "train an adapter on a dataset",
    "jobs": "list, show, watch, pause, resume, cancel jobs",
    "merge": "merge an adapter into its base",
    "load": "load a model",
    "unload": "unload the model and free its memory",
    "models": "list, show, remove models",
    "adapters": "list, show, remove, export, import adapters",
    "datasets": "list, show, compare, remove datasets; their reports",
    "generate": "continue a prompt, or answer in a conversation",
    "count-tokens": "count the tokens of a text",
    "import": "copy a model into the daemon's home",
    "chat": "comes with a later version",
    "compare": "comes with a later version",
}
_MODULES = {"count-tokens": "count_tokens", "import": "import_model", "chat": "planned", "compare": "planned"}
FAILED, USAGE, NO_DAEMON, INTERRUPTED = 1, 2, 69, 130


def module_of(verb: str) -> str:
    """The module that has the verb's arguments and runs it."""
    return f"smolora.cli.{_MODULES.get(verb, verb)}"


class _VerbParser(Parser):
    """Reads one verb's arguments; it asks the verb's module for them only when the verb is called, so `--help` stays fast."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        _, verb, *action = self.prog.split()
        if not action and self.get_default("module") is None:
            module = importlib.import_module(module_of(verb))
            self.set_defaults(module=module)
            common(self)
            module.arguments(self)
        return super().parse_known_args(args, namespace)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"smolora-client {version('smolora')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="smolora-client",
        description="Talks to smolorad, the daemon that trains and serves a small language model on this machine.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 69 no daemon, 130 interrupted",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show this program's version")
    common(parser)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_VerbParser)
    for verb, line in VERBS.items():
        verbs.add_parser(verb, help=line, description=line[0].upper() + line[1:] + ".")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(join_negative(sys.argv[1:] if argv is None else argv))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know fewer characters than a model writes
        sys.stdout.reconfigure(errors="replace")
    out = Output(json=getattr(args, "json", False))
    try:
        code = _run(args, out)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone; without this the interpreter would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(args: argparse.Namespace, out: Output) -> int:
    from smolora._sync.client import Client

    try:
        with Client(getattr(args, "socket", None)) as client:
            return int(args.module.run(args, client, out))
    except UsageError as error:
        out.error("USAGE", str(error))
        return USAGE
    except SmoloraError as error:
        out.error(error.reason, error.message, error.violations)
        return NO_DAEMON if isinstance(error, DaemonNotRunning) else FAILED


if __name__ == "__main__":
    sys.exit(main())
