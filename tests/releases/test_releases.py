"""The present daemon opens each release's home, at another place, and each release's client does the main job with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import smolora
from tests.daemon_process import DaemonProcess, daemon_process
from tests.releases import old_client
from tests.releases.release import SPEAKERS, CommandLine, Release, releases, taken_from

pytestmark = pytest.mark.timeout(300)

MOST_BYTES = 1_000_000
CLIENT = Path(old_client.__file__)


@dataclass(frozen=True)
class Opened:
    """A copy of a release's home, opened by the present daemon; the jobs that it found unfinished have ended."""

    release: Release
    daemon: DaemonProcess
    client: smolora.Client
    lists: dict[str, Any]  # what the release's own client saw while they ran
    events: dict[str, list[smolora.JobEvent]]  # of the unfinished jobs, by what had become of them

    def job(self, role: str) -> smolora.Job:
        """The job that was running, queued, paused or cancelled when the fixture was made."""
        return self.client.job(self.release.said["jobs_by"][role])

    @property
    def line(self) -> CommandLine:
        """The release's own command line."""
        return CommandLine(self.daemon.environ | taken_from(self.release.wheel))


@pytest.fixture(scope="module", params=releases(), ids=lambda release: release.version)
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    release: Release = request.param
    settings = {"SMOLORA_DEVICE": "cpu", "SMOLORA_DTYPE": "float32", "SMOLORA_KEEP_ALIVE": "-1"}
    with daemon_process(release.unpack, **settings) as daemon, smolora.Client(daemon.socket, timeout=60.0) as client:
        lists = CommandLine(daemon.environ | taken_from(release.wheel)).lists()
        events = {role: list(client.watch(release.said["jobs_by"][role])) for role in ("running", "queued")}
        yield Opened(release, daemon, client, lists, events)


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.version)
def test_a_release_takes_less_than_a_megabyte(release: Release) -> None:
    assert sum(path.stat().st_size for path in release.folder.iterdir()) < MOST_BYTES
    assert {path.name for path in release.folder.iterdir()} == {release.wheel.name, release.archive.name, "said.json"}


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.version)
def test_a_release_names_no_machine_s_folders(release: Release, tmp_path: Path) -> None:
    """All absolute paths in the home's records are below the folder in which every release's home is made."""
    with tarfile.open(release.archive) as archive:
        assert all(entry.uid == entry.gid == 0 and not entry.uname for entry in archive)
    files = [path for path in release.unpack(tmp_path / "home").rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in files if path.suffix != ".safetensors"]
    texts.append((release.folder / "said.json").read_bytes())
    paths = {found for text in texts for found in re.findall(rb'"(/[\w.-]+/[\w./-]*)', text)}
    assert paths, "no path was found, so this would prove nothing"
    assert [path for path in paths if not path.startswith(str(release.made_at).encode() + b"/")] == []
    with zipfile.ZipFile(release.wheel) as wheel:
        assert {name.partition("/")[0] for name in wheel.namelist()} >= {"smolora", "smolorad"}


def test_everything_is_listed_as_it_was(opened: Opened) -> None:
    said, home = opened.release.said, str(opened.daemon.home)
    moved = json.loads(json.dumps(said).replace(f"{opened.release.made_at}/home", home))
    for kind in ("datasets", "adapters", "models", "jobs"):
        now = {one.get("id") or (one["name"], one.get("revision")): one for one in opened.lists[kind]}
        for before in moved[kind]:
            one = now[before.get("id") or (before["name"], before.get("revision"))]
            assert {**one, "resident": None} == {**before, "resident": None}
    assert [one["id"] for one in opened.lists["jobs"]][:2] == [said["jobs_by"]["queued"], said["jobs_by"]["running"]]


def test_the_training_that_was_killed_resumes_and_succeeds(opened: Opened) -> None:
    events, job = opened.events["running"], opened.job("running")
    assert (job.state, job.attempts, job.result) == ("succeeded", 2, "struck@1")
    assert [one.sequence for one in events] == list(range(1, len(events) + 1))
    states = [str(one.body.state) for one in events if isinstance(one.body, smolora.StateChange)]
    assert states == ["queued", "running", "interrupted", "queued", "running", "succeeded"]
    killed = next(n for n, one in enumerate(events) if getattr(one.body, "state", "") == "interrupted")
    checkpoint = max(one.body.step for one in events[:killed] if isinstance(one.body, smolora.Checkpoint))
    steps = [one.body.step for one in events[killed:] if isinstance(one.body, smolora.TrainProgress)]
    assert checkpoint >= 10
    assert steps == list(range(steps[0], steps[-1] + 1, 5))
    assert checkpoint < steps[0] <= checkpoint + 5, "it did not resume from its checkpoint"
    adapter = opened.client.adapter("struck")
    assert adapter.steps == steps[-1]
    assert adapter.eval_loss_before is not None
    assert adapter.eval_loss_after is not None
    assert adapter.eval_loss_after < adapter.eval_loss_before
    assert (opened.job("queued").state, opened.job("queued").attempts) == ("succeeded", 1)


@pytest.mark.parametrize("role", ["paused", pytest.param("cancelled", marks=pytest.mark.long)])  # of the same checkpoints
def test_a_training_that_was_stopped_can_be_resumed(opened: Opened, role: str) -> None:
    before = opened.job(role)
    assert before.state == role
    opened.client.resume(before.id)
    steps = []
    for event in opened.client.watch(before.id, after=before.last_sequence):
        if isinstance(event.body, smolora.TrainProgress):
            steps.append(event.body.step)
    assert opened.job(role).state == "succeeded"
    assert steps[0] > 10, "it did not resume from its checkpoint"


def test_a_failed_job_keeps_its_error(opened: Opened) -> None:
    (failed,) = [one for one in opened.client.jobs() if one.state == "failed"]
    assert failed.error is not None
    assert (failed.error.reason, failed.target) == ("BAD_DATA", "broken")
    assert failed.error.message.startswith("broken.jsonl:2 is not JSON")
    assert opened.client.watch(failed.id).result() == failed


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_the_answers_are_those_of_the_release(opened: Opened, speaker: str) -> None:
    model, adapter = SPEAKERS[speaker]
    opened.client.load(model, dtype="float32").result()
    for prompt, expected in opened.release.said["answers"][speaker].items():
        generation = opened.client.generate(prompt, adapter=adapter, temperature=0, max_tokens=len(expected))
        generation.text()
        assert generation.outcome is not None
        assert list(generation.outcome.token_ids) == expected


@pytest.mark.parametrize("dataset", ["notes", "talks"])
def test_a_dataset_is_shown_and_trained_on(opened: Opened, dataset: str) -> None:
    opened.client.load("tiny", dtype="float32").result()
    assert Path(opened.client.dataset(dataset).path, "tokens", "train.arrow").is_file()
    shown = opened.client.preview(dataset, limit=2)
    assert shown.total_rows == opened.client.dataset(dataset).train_rows
    assert any(span.scored and span.text for row in shown.shown for span in row.spans)
    adapter = opened.client.train(dataset, f"of-{dataset}", parent="poet@1", max_steps=3, r=4).result()
    assert (adapter.steps, adapter.parent) == (3, "poet@1")


def test_an_old_adapter_is_merged_and_removed(opened: Opened) -> None:
    merged = opened.client.merge("poet@2", "poet-of-today").result()
    assert merged.merge_proof is not None
    assert merged.merge_proof.max_logit_difference <= merged.merge_proof.bound
    folder = Path(merged.path)
    assert folder.is_relative_to(opened.daemon.home)
    opened.client.delete_model("poet-of-today")
    assert not folder.exists()


def test_the_old_client_does_the_main_job(opened: Opened, tmp_path: Path) -> None:
    environ = opened.daemon.environ | taken_from(opened.release.wheel)
    command = [sys.executable, str(CLIENT), str(opened.daemon.socket), str(tmp_path)]
    done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["from"].startswith(str(opened.release.wheel))

    look = got["look"]
    assert look["resident"] == "tiny"
    assert {"notes", "talks"} <= set(look["datasets"])
    assert look["adapters"] == ["poet@2", "poet@1"]
    assert {"tiny", "poet-merged"} <= set(look["models"])
    assert look["jobs"] >= len(opened.release.said["jobs"])
    assert "poets" in look["missing"]

    answer = got["answer"]
    assert answer["whole"] == answer["streamed"] == got["at_once"][1]
    assert answer["base"] == got["at_once"][0] != answer["whole"]
    assert set(answer["form"]) == {"yes"}
    assert answer["logprobs"] == answer["talk_tokens"] > 0
    assert answer["count"] > 0
    assert answer["decoded"] == old_client.PROMPT

    made = got["made"]
    assert (made["rows"], made["preview"]) == ([18, 2], 18)
    assert all("of a fresh file." in text for text in made["spans"])
    assert made["sequences"] == list(range(1, len(made["sequences"]) + 1))
    assert made["steps"] == [1, 2, 3, 4]
    assert (made["adapter"], made["job"], made["imported"], made["removed"]) == (["young@1", 4], "succeeded", "tiny", 1)
    assert made["same"]
    assert made["merged"]


def test_the_old_command_line_does_the_main_job(opened: Opened, tmp_path: Path) -> None:
    line, rows = opened.line, tmp_path / "typed.txt"
    rows.write_text("".join(f"Typed line {number}.\n" for number in range(20)), encoding="utf-8")
    assert line.last("status")["home"] == str(opened.daemon.home)
    assert line.last("load", "tiny", "--dtype", "float32")["resident"]["name"] == "tiny"
    assert line.last("prepare", str(rows), "--name", "typed")["dataset"]["report"]["rows_kept"] == 20
    assert "Typed line" in line.last("preview", "typed", "--limit", "1")["shown"][0]["spans"][0]["text"]
    job = line.last("train", "--dataset", "typed", "--adapter", "typist", "--max-steps", "3", "--r", "2", "--detach")["job"][
        "id"
    ]
    assert line.last("jobs", "watch", job)["job"]["result"] == "typist@1"
    assert line.last("generate", old_client.PROMPT, "--adapter", "typist", "--no-stream", "--max-tokens", "4")["outcome"]
    assert line.last("count-tokens", old_client.PROMPT)["tokens"] > 0
    line.last("adapters", "export", "typist", str(tmp_path / "typist"))
    assert line.last("adapters", "import", str(tmp_path / "typist"), "--name", "typist")["adapter"]["revision"] == 2
    assert (
        line.last("import", str(opened.daemon.home / "models" / "tiny"), "--name", "tiny-again")["model"]["name"]
        == "tiny-again"
    )
    assert line.last("generate", "x", "--adapter", "nothing", status=1)["error"]["reason"] == "NOT_FOUND"
    line.last("datasets", "report", "typed", "--output", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 0
