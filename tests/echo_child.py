"""A child for the tests of `smolorad.children.child`: it does what the fields of a Generate command say.

The prompt names it: `say A B` answers with the words as text; `hang` waits until the call is cancelled; `fail` ends with a
Failure; `die` kills the process; `exit` ends it. CountTokens answers at once, so that a test sees what came before is done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from smolora.v1 import generation_pb2
from smolorad.errors import BadData, Violation
from smolorad.link.child import Inbox, open_inbox


def serve(inbox: Inbox, call: int, prompt: str) -> None:
    """One Generate command."""
    word, *rest = prompt.split()
    if word == "say":
        for text in rest:
            inbox.emit(call, text=text)
    elif word == "fail":
        inbox.fail(call, BadData("Line 3 is broken; correct it.", [Violation("rows.txt:3", "broken")]))
        return
    elif word == "die":
        inbox.emit(call, text="last words")
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "exit":
        os._exit(7)
    inbox.emit(call, outcome=generation_pb2.GenerateOutcome(model=prompt))


def main() -> None:
    """Takes commands until the daemon is gone."""
    inbox = open_inbox(sys.argv[1:])
    inbox.start()
    while not inbox.draining.is_set():
        command = inbox.take(block=True)
        assert command is not None
        match command.WhichOneof("body"):
            case "generate" if command.generate.request.prompt == "hang":
                inbox.emit(command.call, text="hanging")
                waiting = threading.Event()
                while not inbox.cancelled(command.call):
                    waiting.wait(0.001)
                inbox.emit(command.call, text="one more")
                inbox.emit(command.call, outcome=generation_pb2.GenerateOutcome(model="cancelled"))
            case "generate":
                serve(inbox, command.call, command.generate.request.prompt)
            case "count_tokens":
                inbox.emit(command.call, counted=generation_pb2.CountTokensResponse(tokens=1))


if __name__ == "__main__":
    main()
