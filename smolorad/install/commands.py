"""Runs the commands of the service manager, or only prints them."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smolorad.errors import BadState

COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's exit status, and all it said."""

    status: int
    output: str = ""


Runner = Callable[[Sequence[str]], Answer]


def run(command: Sequence[str]) -> Answer:
    """Runs a command; raises BadState where there is no such command, or where it hangs."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise BadState(f"There is no {command[0]} here; start the daemon yourself with `smolorad serve`.") from None
    except subprocess.TimeoutExpired:
        raise BadState(f"`{shlex.join(command)}` did not end within {COMMAND_TIMEOUT_S:.0f} s; try it by hand.") from None
    return Answer(done.returncode, done.stdout)


def rehearsal(say: Callable[[str], None]) -> Runner:
    """A runner that only prints each command, and answers as if nothing were installed."""

    def show(command: Sequence[str]) -> Answer:
        say(shlex.join(command))
        asks_for_service = list(command[:2]) == ["launchctl", "print"] and command[2].count("/") == 2
        return Answer(113 if asks_for_service else 0)

    return show


def must(run: Runner, *command: str) -> Answer:
    """Runs a command that has to succeed; raises BadState with what it said."""
    answer = run(command)
    if answer.status != 0:
        said = " ".join(answer.output.split()) or f"exit status {answer.status}"
        raise BadState(f"`{shlex.join(command)}` failed ({said}); correct that and run `smolorad install` again.")
    return answer
