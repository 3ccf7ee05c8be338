"""Nothing that is exported or published has a path of this machine in it, wherever the user's home lies."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

import smolora
from smolora import SmoLoRA
from smolorad.publish import MANIFEST
from tests.daemon_process import DaemonProcess
from tests.tiny import tiny_model
from tests.unit.engine.kit import make_adapter
from tests.unit.engine.train.train_kit import write_dataset

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

USER = "Jö's home"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = [f"On day {day} the lamp burned {day % 5} hours." for day in range(24)]
STEPS: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "logging_steps": 1, "gradient_accumulation_steps": 1}


@dataclass(frozen=True)
class Made:
    """A user's home, and the folders that were made for others in it."""

    root: Path
    snapshot: Path
    folders: dict[str, Path]

    def config(self, name: str) -> Any:
        return json.loads((self.folders[name] / "adapter_config.json").read_text())


@pytest.fixture(scope="module", params=["/tmp", "/var/tmp"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    root = Path(tempfile.mkdtemp(prefix="s é-", dir=request.param))
    user = root / USER
    user.mkdir()
    daemon = DaemonProcess(root, {"HOME": str(user), "HF_HOME": str(user / "hf")})
    try:
        daemon.start()
        with smolora.Client(daemon.socket) as client:
            yield everything(root, user, daemon, client)
    finally:
        daemon.kill()
        shutil.rmtree(root, ignore_errors=True)


def everything(root: Path, user: Path, daemon: DaemonProcess, client: smolora.Client) -> Made:
    snapshot = noted(tiny_model(user / "hf" / "hub" / "models--org--tiny-model" / "snapshots" / COMMIT), user)
    plain = noted(tiny_model(user / "models" / "my model"), user)
    (user / "log.txt").write_text("\n".join(TEXTS))
    client.load(snapshot, dtype="float32").result()
    dataset = client.prepare("log", user / "log.txt").result()
    trained = client.train("log", "keeper", tensorboard=True, **STEPS).result()
    merged = client.merge("keeper", "keeper-merged").result()
    out = user / "out"
    out.mkdir()
    client.export_adapter("keeper", out / "exported")

    # An adapter that names its base by a path, as PEFT itself does.
    client.import_adapter(make_adapter(snapshot, user / "foreign"), "foreign")
    client.export_adapter("foreign", out / "foreign")
    imported = client.import_model(plain, "mine").result()
    client.load("mine", dtype="float32").result()
    of_mine = client.train("log", "of-mine", **STEPS).result()
    client.export_adapter("of-mine", out / "of-mine")

    with SmoLoRA(plain, user / "log.txt", output_dir=out / "class", socket=daemon.socket, **STEPS) as trainer:
        trainer.train()
        trainer.save()

    write_dataset(user / "rows", train_rows=20, held_out_rows=2)
    job = {"model": str(snapshot), "dataset": "rows", "output": "out/alone", "dtype": "float32", "trainer": STEPS}
    (user / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "smolorad.cli", "train-job", str(user / "job.json")]
    subprocess.run(command, env=daemon.environ, check=True, capture_output=True)
    published = {"adapter": trained, "of-mine's": of_mine, "merged": merged, "imported": imported, "dataset": dataset}
    folders = {path.name: path for path in out.iterdir()}
    folders |= {name: Path(one.path) for name, one in published.items()}
    folders |= {"curves": daemon.home / "tensorboard", "jobs": daemon.home / "jobs"}
    return Made(root, snapshot, folders)


def noted(model: Path, user: Path) -> Path:
    """The model, its configs as older libraries write them: with the places that they were read from."""
    for name, fields in {
        "config.json": ("_name_or_path",),
        "generation_config.json": ("_name_or_path",),
        "tokenizer_config.json": ("name_or_path", "_name_or_path", "special_tokens_map_file", "tokenizer_file"),
    }.items():
        path = model / name
        path.write_text(json.dumps(json.loads(path.read_text()) | dict.fromkeys(fields, str(user / "models" / "x"))))
    return model


def spellings(text: str) -> set[bytes]:
    """A path as files spell it: as it is, in JSON, and in a URL."""
    return {one.encode() for one in (text, json.dumps(text)[1:-1], urllib.parse.quote(text))}


def test_no_file_has_a_path_of_this_machine(made: Made) -> None:
    needles = spellings(str(made.root)) | spellings(made.root.name) | spellings(USER)
    seen = 0
    for name, folder in made.folders.items():
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files or name == "jobs", name
        for path in files:
            # The home's own record of where a model came from, which is never exported.
            if path.name == MANIFEST and path.is_relative_to(made.root / "home"):
                continue
            content = path.read_bytes()
            found = [needle for needle in needles if needle in content]
            assert not found, f"{name}: {path} has {found}"
            seen += 1
    assert seen > 40


def test_exports_bring_no_manifest(made: Made) -> None:
    for name in ("exported", "foreign", "of-mine", "class"):
        assert not list(made.folders[name].rglob(MANIFEST))


@pytest.mark.parametrize("name", ["exported", "adapter", "foreign", "alone"])
def test_a_base_of_the_hub_is_named_by_id_and_revision(made: Made, name: str) -> None:
    config = made.config(name)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny-model", COMMIT)


def test_another_base_is_named_by_its_name(made: Made) -> None:
    assert made.config("of-mine")["base_model_name_or_path"] == "mine"
    by_class = json.loads((made.folders["class"] / "adapter_checkpoint" / "adapter_config.json").read_text())
    assert by_class["base_model_name_or_path"] == "my model"


def test_peft_loads_what_was_exported(made: Made) -> None:
    base = AutoModelForCausalLM.from_pretrained(made.snapshot)
    model = PeftModel.from_pretrained(base, made.folders["exported"])
    assert model.peft_config["default"].base_model_name_or_path == "org/tiny-model"
    assert any(float(parameter.abs().max()) > 0 for name, parameter in model.named_parameters() if "lora_B" in name)
