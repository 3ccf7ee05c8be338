"""`smolora-client unload`: unloads the model and frees its memory."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smolora.cli.output import Output

if TYPE_CHECKING:
    from smolora._sync.client import Client


def arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace, client: Client, out: Output) -> int:
    """Unloads, and says what was loaded."""
    name = client.unload()
    if out.json:
        out.emit(name=name)
    else:
        out.text(f"{name} is unloaded." if name else "No model was loaded.")
    return 0
