"""LoadModel and PrepareDataset by hub id: a real daemon, worker and engine, and a hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import smolora
from tests.daemon_process import daemon_process
from tests.hub import Hub, running_hub
from tests.tiny import tiny_model

pytestmark = pytest.mark.timeout(180)

REPO = "tests/tiny-llama"
READ_AT_ONCE = 10 * 2**20  # huggingface_hub reads so much at a time, and resumes there


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", hidden_size=512, intermediate_size=1536)


@pytest.fixture(scope="module")
def hub(model: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.add(REPO, model)
        yield hub


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[smolora.Client]:
    cache = tmp_path_factory.mktemp("huggingface")
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "SMOLORA_DTYPE": "float32"}
    with daemon_process(**environ) as daemon, smolora.Client(daemon.socket) as client:
        yield client


def test_a_broken_download_is_resumed_and_the_model_answers(client: smolora.Client, hub: Hub, model: Path) -> None:
    hub.break_once("model.safetensors", after=READ_AT_ONCE + 2**20)
    loading = client.load(REPO)
    stages = [stage.stage for stage in loading]
    assert list(dict.fromkeys(stages)) == ["download", "read", "move", "warm_up"]
    resident = loading.result()
    assert (resident.name, resident.dtype) == (REPO, "float32")
    first, second = hub.downloads("model.safetensors")
    assert (first.start, second.start) == (0, READ_AT_ONCE)
    answer = client.generate("one two", max_tokens=8, temperature=0).text()
    client.load(model).result()
    assert client.generate("one two", max_tokens=8, temperature=0).text() == answer


def test_a_missing_model_is_named_and_the_old_one_stays(client: smolora.Client, hub: Hub, model: Path) -> None:
    client.load(model).result()
    with pytest.raises(smolora.NotFound, match="tests/tiny-lama") as error:
        client.load("tests/tiny-lama").result()
    assert "spelling" in str(error.value)
    assert client.generate("one two", max_tokens=2).text() is not None
    resident = client.status().resident
    assert resident is not None
    assert resident.name == str(model)


def test_a_dataset_of_the_hub_is_prepared(client: smolora.Client, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,verse\n1,one\n2,two\n3,one\n")
    hub.add("datasets/tests/verses", tmp_path)
    dataset = client.prepare("verses", hub="tests/verses", text_field="verse").result()
    assert (dataset.train_rows + dataset.validation_rows, dataset.report.rows_duplicate) == (2, 1)
    with pytest.raises(smolora.NotFound, match="no dataset tests/verse on the hub"):
        client.prepare("verses", hub="tests/verse").result()
