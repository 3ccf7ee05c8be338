"""`smolora-client generate`: continues a prompt, or answers it as a conversation."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolora import _values as values
from smolora._fields import SAMPLING
from smolora.cli.flags import add_flags, duration, given
from smolora.cli.output import Output

if TYPE_CHECKING:
    from smolora._sync.client import Client
    from smolora._sync.streams import Generation

_TEXTS = ("stop", "bad_words")  # may hold a comma, so each is given by itself
_FLAGS = tuple(field for field in SAMPLING if field.name not in _TEXTS)


def prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, and whether it is a conversation."""
    parser.add_argument("prompt", metavar="PROMPT", help="the text; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="send it as a conversation, through the model's chat template")
    parser.add_argument("--system", metavar="TEXT", help="the conversation's system message; goes with --chat, and implies it")
    parser.add_argument(
        "--parse-special", action="store_true", help="read control tokens such as <|im_end|> in the text as such, not as text"
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, who answers, and how tokens are chosen."""
    prompt_arguments(parser)
    parser.add_argument("--adapter", default="", metavar="NAME", help="`name` or `name@revision`; by default the base alone")
    parser.add_argument("--model", default="", metavar="NAME", help="the model; by default the loaded one")
    add_flags(parser, _FLAGS, {"max_tokens": "--max-new-tokens", "min_tokens": "--min-new-tokens"})
    parser.add_argument("--stop", action="append", metavar="TEXT", help="stop where this appears; may be given several times")
    parser.add_argument(
        "--bad-words", action="append", metavar="TEXT", help="text that must not appear; may be given several times"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json-schema", type=_schema, metavar="FILE", help="answer with JSON that is valid by the schema in FILE"
    )
    form.add_argument("--json-object", action="store_true", help="answer with a JSON object")
    form.add_argument("--regex", metavar="REGEX", help="answer with a text that this matches as a whole")
    parser.add_argument("--logprobs", action="store_true", help="show how likely each token was, below the answer")
    parser.add_argument("--top-logprobs", type=int, default=0, metavar="N", help="and the N likeliest tokens; 0 to 20")
    parser.add_argument(
        "--keep-alive", type=duration, metavar="TIME", help="how long the model stays loaded afterwards: 10m, 2h; -1: for ever"
    )
    parser.add_argument("--no-stream", action="store_true", help="write the answer when it is whole")


def prompt_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The prompt, or the conversation, as keywords of the client's calls."""
    text = _standard_input() if args.prompt == "-" else args.prompt
    if not args.chat and args.system is None:
        return {"prompt": text, "parse_special": args.parse_special}
    system = [values.ChatMessage("system", args.system)] if args.system is not None else []
    return {"messages": [*system, values.ChatMessage("user", text)], "parse_special": args.parse_special}


def _standard_input() -> str:
    if isinstance(sys.stdin, io.TextIOWrapper):  # as Python reads the arguments, so that the client refuses both alike
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin.read()


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Writes the answer to stdout as it is made. Ctrl-C ends the generation."""
    generation = client.generate(
        **prompt_fields(args),
        model=args.model,
        adapter=args.adapter,
        stop=args.stop,
        bad_words=args.bad_words,
        json_schema=args.json_schema,
        json_object=args.json_object,
        regex=args.regex,
        logprobs=args.logprobs or args.top_logprobs > 0,
        top_logprobs=args.top_logprobs,
        keep_alive=args.keep_alive,
        **given(args, _FLAGS),
    )
    if args.no_stream:
        text = generation.text()
        if out.json:
            tokens = {"logprobs": generation.logprobs} if generation.logprobs else {}
            out.emit(text=text, outcome=generation.outcome, **tokens)
        else:
            out.text(text)
    elif out.json:
        _stream_json(generation, out)
    else:
        _stream(generation)
    if generation.logprobs and not out.json:
        _table(generation.logprobs, out)
    return 0


def _stream_json(generation: Generation, out: Output) -> None:
    shown = 0
    for piece in generation:
        for one in generation.logprobs[shown:]:
            out.emit(token_logprob=one)
        shown = len(generation.logprobs)
        out.emit(text=piece)
    for one in generation.logprobs[shown:]:
        out.emit(token_logprob=one)
    out.emit(outcome=generation.outcome)


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


def _table(tokens: Sequence[values.TokenLogprob], out: Output) -> None:
    """Each token as a JSON string, so that spaces and line ends are seen."""

    def cells(one: values.TokenLogprob | values.TopLogprob) -> tuple[str, str]:
        return json.dumps(one.token, ensure_ascii=False), f"{one.logprob:.4f}"

    rows = [(*cells(one), " ".join(" ".join(cells(top)) for top in one.top_logprobs)) for one in tokens]
    out.table(("token", "logprob", "likeliest"), rows)


def _schema(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: it is not UTF-8 text") from None
