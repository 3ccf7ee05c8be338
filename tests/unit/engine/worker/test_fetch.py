"""Fetch: through the real huggingface_hub, from a hub on loopback, in the real worker process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.worker.fetch import fetch
from smolorad.engine.worker.progress import no_progress
from smolorad.errors import Cancelled, Damaged, NotFound, UnsupportedModel
from smolorad.link.v1 import link_pb2 as pb
from tests.hub import Hub, running_hub
from tests.tiny import tiny_model
from tests.worker import Worker, running_worker

REPO = "tests/tiny-llama"
READ_AT_ONCE = 10 * 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Larger than the 10 MiB that huggingface_hub reads at a time, and so resumes at.
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden_size=512, intermediate_size=1536)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody asked for")
    return folder


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.add(REPO, model)
        yield hub


@pytest.fixture
def worker(hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    hub.asked.clear()
    with running_worker(
        {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "huggingface"), "HF_TOKEN": "secret"}
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def refusing(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One for the tests that bring nothing."""
    with running_worker({"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path_factory.mktemp("huggingface"))}) as worker:
        yield worker


def failure(events: list[pb.Event]) -> tuple[str, str]:
    return events[-1].failure.reason, events[-1].failure.message


def test_a_model_comes_by_its_hub_id(worker: Worker, hub: Hub, model: Path) -> None:
    first = worker.call(fetch=pb.Fetch(source=REPO))
    fetched = first[-1].fetched
    folder = Path(fetched.path)
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert {p.name for p in folder.iterdir()} == {p.name for p in model.iterdir()} - {"pytorch_model.bin"}
    assert fetched.source == f"{REPO}@{folder.name}"
    assert fetched.facts.fingerprint == ModelFolder.open(model).inspect().fingerprint
    assert fetched.facts.architecture == "llama"
    total = sum(p.stat().st_size for p in folder.iterdir())
    phases = [event.phase for event in first if event.WhichOneof("body") == "phase"]
    downloads = [phase for phase in phases if phase.phase == "download"]
    assert (downloads[-1].done, downloads[-1].total, downloads[-1].unit) == (total, total, "bytes")
    assert set(hub.tokens) == {"secret"}

    hub.asked.clear()
    again = worker.call(fetch=pb.Fetch(source=REPO))
    assert again[-1].fetched == fetched
    assert hub.asked == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_download_goes_on(worker: Worker, hub: Hub, model: Path, reset: bool, tmp_path: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    assert size > READ_AT_ONCE + 2**20
    broken_at = READ_AT_ONCE + 2**20
    hub.break_once("model.safetensors", after=broken_at, reset=reset)
    events = worker.call(fetch=pb.Fetch(source=REPO, output_path=str(tmp_path / "output")))
    assert events[-1].WhichOneof("body") == "fetched", events[-1]
    assert (tmp_path / "output" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    first, second = hub.downloads("model.safetensors")
    assert (first.start, first.sent) == (0, broken_at)
    if not reset:  # after a reset the library begins the file again
        assert (second.start, second.sent) == (READ_AT_ONCE, size - READ_AT_ONCE)
    for file in ("config.json", "tokenizer.json"):  # what had come whole was not asked for again
        assert len(hub.downloads(file)) == 1


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", "cut"),
        ("config.json", "flipped"),
        ("model.safetensors", "gone"),
        pytest.param("config.json", "cut", marks=pytest.mark.long),
        pytest.param("model.safetensors", "flipped", marks=pytest.mark.long),
        pytest.param("config.json", "gone", marks=pytest.mark.long),
    ],
)
def test_what_is_damaged_in_the_hubs_cache_is_brought_again(worker: Worker, hub: Hub, name: str, damage: str) -> None:
    there = worker.call(fetch=pb.Fetch(source=REPO))[-1].fetched
    blob = (Path(there.path) / name).resolve()
    content = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content[:-100] if damage == "cut" else b"\xff" + content[1:])
    assert worker.call(fetch=pb.Fetch(source=REPO))[-1].fetched == there
    assert blob.read_bytes() == content


def test_a_missing_model_is_named(refusing: Worker, hub: Hub) -> None:
    reason, message = failure(refusing.call(fetch=pb.Fetch(source="tests/tiny-lama")))
    assert reason == "NOT_FOUND"
    assert "tests/tiny-lama" in message
    assert hub.endpoint in message
    assert "spelling" in message
    assert "HF_TOKEN" in message


def test_a_gated_model_says_what_to_do(refusing: Worker, hub: Hub, model: Path) -> None:
    hub.add("tests/gated", model, gated=True)
    reason, message = failure(refusing.call(fetch=pb.Fetch(source="tests/gated")))
    assert reason == "NOT_FOUND"
    assert f"accept its terms at {hub.endpoint}/tests/gated" in message


def test_a_revision_is_what_it_was(worker: Worker, hub: Hub, tmp_path: Path) -> None:
    old = tiny_model(tmp_path / "old", seed=1)
    commit = hub.add(REPO, old, revision="v1")
    fetched = worker.call(fetch=pb.Fetch(source=REPO, revision="v1"))[-1].fetched
    assert fetched.source == f"{REPO}@{commit}"
    assert fetched.facts.fingerprint == ModelFolder.open(old).inspect().fingerprint
    by_commit = worker.call(fetch=pb.Fetch(source=REPO, revision=commit))[-1].fetched
    assert by_commit == fetched
    reason, message = failure(worker.call(fetch=pb.Fetch(source=REPO, revision="v2")))
    assert reason == "NOT_FOUND"
    assert "'v2'" in message


def test_what_is_no_hub_id_is_refused(refusing: Worker) -> None:
    reason, message = failure(refusing.call(fetch=pb.Fetch(source="../etc/passwd")))
    assert reason == "INVALID_REQUEST"
    assert "owner/name" in message


def test_a_hub_that_is_down_is_told_but_what_is_cached_is_used(worker: Worker, hub: Hub) -> None:
    there = worker.call(fetch=pb.Fetch(source=REPO))[-1].fetched
    hub.down = True
    try:
        assert worker.call(fetch=pb.Fetch(source=REPO))[-1].fetched == there
        reason, message = failure(worker.call(fetch=pb.Fetch(source="tests/other")))
    finally:
        hub.down = False
    assert reason == "HUB_UNREACHABLE"
    assert "starter" in message


def test_offline_a_model_that_is_not_cached_says_so(tmp_path: Path) -> None:
    with running_worker({"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}) as worker:
        reason, message = failure(worker.call(fetch=pb.Fetch(source=REPO)))
    assert reason == "HUB_UNREACHABLE"
    assert "HF_HUB_OFFLINE" in message


def test_a_download_is_cancelled(worker: Worker, hub: Hub, tmp_path: Path) -> None:
    def cancel(event: pb.Event) -> None:
        if not hub.released.is_set():
            worker.cancel()
            hub.released.set()

    hub.hold_once("model.safetensors", after=1000)
    events = worker.call(cancel, fetch=pb.Fetch(source=REPO, output_path=str(tmp_path / "output")))
    assert failure(events)[0] == "CANCELLED"
    assert not (tmp_path / "output").exists()
    assert worker.call(fetch=pb.Fetch(source=REPO))[-1].WhichOneof("body") == "fetched"


def test_a_hub_model_with_pickles_alone_is_refused(refusing: Worker, hub: Hub, model: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(model, old)
    (old / "model.safetensors").unlink()
    hub.add("tests/pickles", old)
    hub.asked.clear()
    reason, message = failure(refusing.call(fetch=pb.Fetch(source="tests/pickles")))
    assert reason == "UNSUPPORTED_MODEL"
    assert "safetensors" in message
    assert hub.downloads("pytorch_model.bin") == []


def bring(source: Path, output: Path | None, cache: Path) -> Path:
    return Path(fetch(str(source), output=output, cache=cache, report=no_progress).path)


def test_a_folder_is_copied_plainly(model: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        (linked / path.name).symlink_to(path)
    output = bring(linked, tmp_path / "output", tmp_path)
    assert {p.name for p in output.iterdir()} == {p.name for p in model.iterdir()} - {"pytorch_model.bin"}
    assert not any(p.is_symlink() for p in output.iterdir())
    ours, theirs = load_file(output / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert bring(linked, None, tmp_path) == linked


def test_a_folder_that_fails_leaves_nothing(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with pytest.raises(NotFound, match="absolute path"):
        bring(tmp_path / "nowhere", output, tmp_path)
    assert not output.exists()
    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        bring(tmp_path, output, tmp_path)
    cut = tmp_path / "cut"
    shutil.copytree(model, cut)
    with (cut / "model.safetensors").open("r+b") as f:
        f.truncate(1000)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        bring(cut, output, tmp_path)
    assert not output.exists()


def test_a_copy_that_is_stopped_leaves_nothing(model: Path, tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        fetch(str(model), output=tmp_path / "output", cache=tmp_path, report=stop)
    assert not (tmp_path / "output").exists()


def test_code_comes_only_where_it_is_allowed(model: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(model, strange)
    config = json.loads((strange / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_strange.Strange"}
    (strange / "config.json").write_text(json.dumps(config))
    (strange / "modeling_strange.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UnsupportedModel, match="allow_remote_code"):
        bring(strange, tmp_path / "output", tmp_path)
    fetch(str(strange), output=tmp_path / "output", cache=tmp_path, report=no_progress, trust_remote_code=True)
    assert (tmp_path / "output" / "modeling_strange.py").is_file()
