"""`import_adapter`: what is sent of a folder, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

import smolora
from smolora.v1 import models_pb2, system_pb2
from tests.unit.client.fake_daemon import FakeDaemon, adapter, answers, fail


def peft_folder(folder: Path, **config: Any) -> Path:
    """What a trainer leaves: the adapter, and what only it needs."""
    (folder / "checkpoint-5").mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | config))
    for name in ("adapter_model.safetensors", "training_args.bin", "optimizer.pt", "checkpoint-5/rng_state.pth", "README.md"):
        (folder / name).write_bytes(b"x")
    return folder


def names_are_right(daemon: FakeDaemon) -> None:
    daemon.script["ListAdapters"] = answers(models_pb2.ListAdaptersResponse())
    daemon.script["GetStatus"] = answers(system_pb2.GetStatusResponse())
    daemon.script["GetModel"] = answers(models_pb2.GetModelResponse(model=models_pb2.Model(name="mine")))


async def test_of_an_adapter_folder_only_the_adapter_is_sent(
    daemon: FakeDaemon, client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    names_are_right(daemon)
    daemon.script["ImportAdapter"] = answers(models_pb2.ImportAdapterResponse(adapter=adapter()))
    folder = peft_folder(tmp_path / "out", lora_alpha=16.5)
    assert (await client.import_adapter(folder, "poet", base_model="mine")).name == "poet"
    assert list(uploads) == ["adapter_config.json", "adapter_model.safetensors"]
    assert daemon.asked("ImportAdapter")[0].upload_id == "u1"
    assert daemon.asked("GetModel")[0].name == "mine"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"r": 0}, smolora.Damaged),
        ({"lora_alpha": "8"}, smolora.Damaged),
        ({"peft_type": "IA3"}, smolora.UnsupportedModel),
        ({"init_lora_weights": "pissa"}, smolora.UnsupportedModel),
        ({"trainable_token_indices": [1]}, smolora.UnsupportedModel),
    ],
)
async def test_an_adapter_that_cannot_be_imported_is_not_sent(
    daemon: FakeDaemon, client: Any, uploads: dict[str, bytes], tmp_path: Path, config: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await client.import_adapter(peft_folder(tmp_path / "out", **config), "poet")
    assert daemon.requests == []
    assert uploads == {}


async def test_a_wrong_name_or_base_is_found_before_anything_is_sent(
    daemon: FakeDaemon, client: Any, uploads: dict[str, bytes], tmp_path: Path
) -> None:
    names_are_right(daemon)

    async def no_model(_request: Any, context: Any) -> None:
        await fail(context, "NOT_FOUND", "There is no model 'mine'.", code=grpc.StatusCode.NOT_FOUND)

    async def no_name(_request: Any, context: Any) -> None:
        await fail(context, "INVALID_REQUEST", "name: 'A B' is not a name", code=grpc.StatusCode.INVALID_ARGUMENT)

    folder = peft_folder(tmp_path / "out")
    daemon.script["GetModel"] = no_model
    with pytest.raises(smolora.NotFound):
        await client.import_adapter(folder, "poet", base_model="mine")
    daemon.script["ListAdapters"] = no_name
    with pytest.raises(smolora.InvalidRequest):
        await client.import_adapter(folder, "A B")
    assert uploads == {}


@pytest.mark.parametrize("missing", ["folder", "adapter_config.json", "adapter_model.safetensors"])
async def test_a_folder_without_an_adapter_is_not_sent(client: Any, tmp_path: Path, missing: str) -> None:
    folder = peft_folder(tmp_path / "out")
    if missing == "folder":
        folder = tmp_path / "nowhere"
    else:
        (folder / missing).unlink()
    kind = smolora.UnsupportedModel if missing.endswith("safetensors") else smolora.NotFound
    with pytest.raises(kind):
        await client.import_adapter(folder, "poet")
