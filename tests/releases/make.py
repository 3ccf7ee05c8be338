"""Keeps a release as a fixture; needs a checkout: `python -m tests.releases.make dist/smolora-0.1.0-py3-none-any.whl`.

The wheel's own daemon and client make the home, in /tmp/smolora-VERSION, on a tiny model. It has jobs in every state: at the
end one training runs and another waits, and the daemon is killed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.daemon_process import DaemonProcess
from tests.faults.process import ended
from tests.releases.release import RELEASES, SPEAKERS, CommandLine, Release, taken_from
from tests.tiny import CORPUS, tiny_model

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
_STEPS = 150  # some seconds: the daemon has to be killed before the end
_TRAIN = ("--r", "4", "--learning-rate", "5e-3", "--logging-steps", "5", "--save-steps", "10")
_KILLED_AT = 20


def _write_data(folder: Path) -> None:
    """Lines of text, conversations, and rows of which one is broken."""
    rows = [f"{number}: {CORPUS[number % len(CORPUS)]}" for number in range(48)]
    (folder / "notes.txt").write_text("\n".join(rows), encoding="utf-8")
    talks = [
        [{"role": "user", "content": f"What is {number} and {number}?"}, {"role": "assistant", "content": f"{2 * number}."}]
        for number in range(24)
    ]
    (folder / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"text": "whole"}\n{"text": \n', encoding="utf-8")


def _train_until(line: CommandLine, adapter: str, step: int) -> str:
    """Starts a long training, and returns its job's id when a checkpoint of `step` or later is there."""
    long = ("--detach", "--max-steps", str(_STEPS))
    job = str(line.last("train", "--dataset", "notes", "--adapter", adapter, *long, *_TRAIN)["job"]["id"])
    with line.start("jobs", "watch", job) as watch:
        assert watch.stdout is not None
        events = (json.loads(one).get("job_event", {}) for one in watch.stdout)
        next(one for one in events if "checkpoint" in one and one["checkpoint"]["step"] >= step)
        watch.terminate()
    return job


def _fill(line: CommandLine, folder: Path) -> dict[str, Any]:
    """Does everything once that ends; returns the jobs by what became of them, and all answers."""
    line.last("import", str(folder / "tiny"), "--name", "tiny")
    line.last("load", "tiny", "--dtype", "float32")
    line.last("prepare", str(folder / "notes.txt"), "--name", "notes", "--validation", "0.1")
    line.last("prepare", str(folder / "talks.jsonl"), "--name", "talks", "--validation", "0.1")
    line.last("prepare", str(folder / "broken.jsonl"), "--name", "broken", status=1)
    line.last("train", "--dataset", "notes", "--adapter", "poet", "--max-steps", "30", *_TRAIN)
    line.last("train", "--dataset", "talks", "--adapter", "poet", "--parent", "poet", "--max-steps", "30", *_TRAIN)
    line.last("merge", "poet@1", "--name", "poet-merged")
    answers = {speaker: line.answers(model, adapter) for speaker, (model, adapter) in SPEAKERS.items()}
    line.last("load", "tiny", "--dtype", "float32")
    cancelled = _train_until(line, "dropped", 10)
    line.last("jobs", "cancel", cancelled)
    paused = _train_until(line, "held", 10)
    line.last("jobs", "pause", paused)
    return {"answers": answers, "jobs_by": {"cancelled": cancelled, "paused": paused}}


def _leave_unfinished(line: CommandLine, daemon: DaemonProcess) -> dict[str, str]:
    """Has one training run and another wait, and kills the daemon; returns both jobs."""
    running = _train_until(line, "struck", _KILLED_AT)
    queued = line.last("train", "--dataset", "talks", "--adapter", "later", "--detach", "--max-steps", "5", *_TRAIN)["job"][
        "id"
    ]
    with ended(line.last("status")["engine_pid"]):
        daemon.kill()
    return {"running": running, "queued": queued}


def _pack(home: Path, to: Path) -> None:
    """The home's files and folders, without what no daemon reads again: locks, sockets, SQLite's shared memory."""
    with tarfile.open(to, "w:xz", preset=9) as archive:
        for path in sorted(home.rglob("*")):
            if path.suffix in (".sock", ".lock", ".db-shm") or path == home / "lock":
                continue
            entry = archive.gettarinfo(path, path.relative_to(home).as_posix())
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            archive.addfile(entry, io.BytesIO(path.read_bytes()) if path.is_file() else None)


def make(wheel: Path, to: Release) -> None:
    """Makes the release's folder."""
    root = to.made_at
    root.mkdir()
    try:
        installed = root / "installed"
        zipfile.ZipFile(wheel).extractall(installed)
        tiny_model(root / "tiny", **_SMALL)
        _write_data(root)
        own = {
            "SMOLORA_DEVICE": "cpu",
            "SMOLORA_DTYPE": "float32",
            "XDG_CACHE_HOME": str(root / "cache"),
            **taken_from(installed),
        }
        daemon = DaemonProcess(root, own).start()
        try:
            line = CommandLine(daemon.environ)
            assert line.last("status")["version"] == to.version
            said = _fill(line, root)
            said |= line.lists()
            said["jobs_by"] |= _leave_unfinished(line, daemon)
            assert {one["state"] for one in said["jobs"]} == {"succeeded", "failed", "cancelled", "paused"}
        finally:
            daemon.kill()
        to.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheel, to.wheel)
        _pack(daemon.home, to.archive)
        (to.folder / "said.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(root)


def main() -> None:
    """Makes the fixture of the wheel named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    for name in [name for name in os.environ if name.startswith("SMOLORA_")]:
        del os.environ[name]
    release = Release(RELEASES / wheel.name.split("-")[1])
    make(wheel, release)
    for path in sorted(release.folder.iterdir()):
        print(f"{path.stat().st_size:9,} {path.name}")


if __name__ == "__main__":
    main()
