"""What the pages show is run: each command and each piece of Python, page by page, in its order, against one real daemon.

The daemon has a tiny model instead of the starter, so that every page takes seconds: `starter` is read as its name, and JOB as
the newest job's id. A block that begins with `<!-- not run: why -->` is left to tests/house/test_commands.py, which parses it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from smolora.cli.main import main
from tests.daemon_process import DaemonProcess, daemon_process
from tests.pages import PAGES, ROOT, Block, blocks
from tests.tiny import CORPUS, tiny_model

pytestmark = pytest.mark.timeout(300)
_SHELL = re.compile(r"[|&;<>$]|^(?!smolora-client )")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: the repository's examples, and the user's files that pages name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "examples").symlink_to(ROOT / "examples")
    turns = ("user", "Who keeps the model?"), ("assistant", "A daemon.")
    talk = json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})
    (folder / "talks.jsonl").write_text("".join(talk.replace("?", f" {i}?") + "\n" for i in range(40)))
    (folder / "pairs.csv").write_text("question,answer\n" + "".join(f"What is {i}?,It is {i}.\n" for i in range(40)))
    (folder / "book.txt").write_text("\n\n".join(f"{i}: {CORPUS[i % len(CORPUS)]}" for i in range(200)), "utf-8")
    (folder / "posts/2025").mkdir(parents=True)
    for i, text in enumerate(CORPUS):
        (folder / f"posts/2025/{i}.md").write_text(f"{text} {i * 7919}\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[DaemonProcess]:
    """A daemon that has the model `tiny`, the dataset `lighthouse` and the adapter `keeper`."""
    model = tiny_model(folder / "tiny-model")
    with daemon_process(SMOLORA_DTYPE="float32", SMOLORA_DEVICE="cpu", SMOLORA_KEEP_ALIVE="-1") as daemon:
        with smolora.Client(daemon.socket) as client:
            client.import_model(model, "tiny").result()
            client.load("tiny").result()
            client.prepare("lighthouse", ROOT / "examples/data/lighthouse").result()
            client.train("lighthouse", "keeper", max_steps=2).result()
        yield daemon


@pytest.fixture
def typed(daemon: DaemonProcess, folder: Path, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """The daemon as each page finds it: `keeper` is there, no model but `tiny`, and the environment is that of its clients."""
    environ = daemon.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    with smolora.Client(daemon.socket) as client:
        client.load("tiny").result()
        for model in client.models():
            if model.name != "tiny":
                client.delete_model(model.name)
        client.prepare("lighthouse", ROOT / "examples/data/lighthouse").result()
    return daemon


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_shows(page: Path, typed: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [block for block in blocks(page) if not block.why]
    for block in shown:
        if block.language == "python":
            exec(compile(_adapted(block.text, typed), f"{page.name}:{block.line}", "exec"), {"__name__": "__main__"})
        for command in block.commands():
            status = _type(_adapted(command, typed))
            said = capsys.readouterr()
            assert status == 0, f"{_place(block)} {command}\n{said.out}{said.err}"


def _place(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


def _adapted(text: str, daemon: DaemonProcess) -> str:
    text = re.sub(r"\bstarter\b", "tiny", text.replace("import starter", "import ./tiny-model"))
    if re.search(r"\bJOB\b", text):
        with smolora.Client(daemon.socket) as client:
            text = re.sub(r"\bJOB\b", client.jobs(limit=1)[0].id, text)
    return text


def _type(command: str) -> int:
    """The exit status. A plain command of the client runs in this process, which takes a tenth of the time."""
    if not _SHELL.search(command):
        return main(shlex.split(command)[1:])
    done = subprocess.run(
        ["bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    return done.returncode
