"""Releases that are kept as they were: the wheel, a home that its daemon made, and what its client said about that home."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELEASES = Path(__file__).parent
ANSWERED = ("In the beginning the", "The quick brown fox", "Ein kleines Modell lernt")
GREEDY = ("--no-stream", "--temperature", "0", "--max-new-tokens", "16")
# What answers: the base, both revisions of the adapter, the merged model; each as `load` and `--adapter` name it.
SPEAKERS = {
    "base": ("tiny", ""),
    "poet@1": ("tiny", "poet@1"),
    "poet@2": ("tiny", "poet@2"),
    "poet-merged": ("poet-merged", ""),
}
LISTS = ("datasets", "adapters", "models", "jobs")


@dataclass(frozen=True, slots=True)
class Release:
    """One release's folder."""

    folder: Path

    @property
    def version(self) -> str:
        """Of the wheel."""
        return self.folder.name

    @property
    def wheel(self) -> Path:
        """The wheel that was released, whole: client and daemon."""
        return self.folder / f"smolora-{self.version}-py3-none-any.whl"

    @property
    def archive(self) -> Path:
        """The home, as its daemon left it when it was killed in a training."""
        return self.folder / "home.tar.xz"

    @property
    def said(self) -> dict[str, Any]:
        """What its own client said about the home: lists, `answers` by speaker and prompt, job ids by state in `jobs_by`."""
        said: dict[str, Any] = json.loads((self.folder / "said.json").read_text(encoding="utf-8"))
        return said

    @property
    def made_at(self) -> Path:
        """The folder in which the home was made; the home's files name it."""
        return Path(f"/tmp/smolora-{self.version}")

    def unpack(self, home: Path) -> Path:
        """A copy of the home."""
        with tarfile.open(self.archive) as archive:
            archive.extractall(home, filter="data")
        return home


def releases() -> list[Release]:
    """Every release that is kept, oldest first by name."""
    return [Release(path.parent) for path in sorted(RELEASES.glob("*/home.tar.xz"))]


def taken_from(place: Path) -> dict[str, str]:
    """The environment in which Python takes `smolora` and `smolorad` from a wheel or a folder, whatever else is installed."""
    return {"PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}


class CommandLine:
    """`smolora-client --json` in a process of its own, as the environment has it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command whose lines are read as they come."""
        command = [sys.executable, "-m", "smolora.cli.main", "--json", *arguments]
        return subprocess.Popen(command, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def last(self, *arguments: str, status: int = 0) -> Any:
        """The last object that a command writes; it must end with `status`."""
        with self.start(*arguments) as process:
            out, _ = process.communicate()
        assert process.returncode == status, f"{arguments}: {process.returncode}\n{out[-2000:]}"
        return json.loads(out.splitlines()[-1])

    def answers(self, model: str, adapter: str = "") -> dict[str, list[int]]:
        """The tokens of the greedy answer to each prompt."""
        self.last("load", model, "--dtype", "float32")
        more = ("--adapter", adapter) if adapter else ()
        return {prompt: self.last("generate", prompt, *GREEDY, *more)["outcome"]["token_ids"] for prompt in ANSWERED}

    def lists(self) -> dict[str, Any]:
        """What there is, of each kind."""
        return {kind: self.last(kind, "list")[kind] for kind in LISTS}
