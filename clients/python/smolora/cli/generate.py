"""`smolora-client generate`: continues a prompt, or answers it as a conversation."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from smolora import _models as values
from smolora._fields import SAMPLING
from smolora.cli.flags import add_flags, duration, given
from smolora.cli.output import Output

if TYPE_CHECKING:
    from smolora._sync.client import Client
    from smolora._sync.streams import Generation

_FLAGS = tuple(field for field in SAMPLING if field.name != "stop")  # a stop string may hold a comma


def prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, and whether it is a conversation."""
    parser.add_argument("prompt", metavar="PROMPT", help="the text; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a conversation, through the model's chat template")
    parser.add_argument("--system", metavar="TEXT", help="the conversation's system message; goes with --chat, and implies it")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, who answers, and how tokens are chosen."""
    prompt_arguments(parser)
    parser.add_argument("--adapter", default="", metavar="NAME", help="`name` or `name@revision`; by default the base alone")
    parser.add_argument("--model", default="", metavar="NAME", help="the model; by default the resident one")
    add_flags(parser, _FLAGS, {"max_tokens": "--max-new-tokens"})
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end where this appears; may be given several times")
    parser.add_argument("--keep-alive", type=duration, metavar="TIME", help="how long the model stays afterwards: 10m, 2h, -1")
    parser.add_argument("--no-stream", action="store_true", help="write the answer when it is whole")


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The prompt, or the conversation, as keywords of the client's calls."""
    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not args.chat and args.system is None:
        return {"prompt": text}
    system = [values.ChatMessage("system", args.system)] if args.system is not None else []
    return {"messages": [*system, values.ChatMessage("user", text)]}


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Writes the answer to stdout as it is made. Ctrl-C ends the generation."""
    generation = client.generate(
        **asked(args),
        model=args.model,
        adapter=args.adapter,
        stop=args.stop,
        keep_alive=args.keep_alive,
        **given(args, _FLAGS),
    )
    if args.no_stream:
        text = generation.text()
        if out.json:
            out.emit(text=text, outcome=generation.outcome)
        else:
            out.text(text)
    elif out.json:
        for piece in generation:
            out.emit(text=piece)
        out.emit(outcome=generation.outcome)
    else:
        _stream(generation)
    return 0


def _stream(generation: Generation) -> None:
    has_begun = False
    try:
        for piece in generation:
            has_begun = True
            sys.stdout.write(piece)
            sys.stdout.flush()
    finally:
        if has_begun or generation.outcome is not None:  # a request that is refused writes nothing
            print()
