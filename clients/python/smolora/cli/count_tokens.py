"""`smolora-client count-tokens`: the tokens of a text, as the loaded model sees it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora.cli.generate import prompt_arguments, prompt_fields
from smolora.cli.output import Output

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """The text."""
    prompt_arguments(parser)


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Counts."""
    count = client.count_tokens(**prompt_fields(args))
    if out.json:
        out.emit(tokens=count.tokens, token_ids=count.token_ids)
    else:
        out.text(str(count.tokens))
    return 0
