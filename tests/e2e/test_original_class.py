"""`smolora.SmoLoRA`, the class that the project began with, through a real daemon."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import smolora
from examples import usage
from smolora import SmoLoRA
from tests.daemon_process import DaemonProcess, daemon_process
from tests.tiny import tiny_model

pytestmark = pytest.mark.timeout(600)

PROMPTS = ["The lamp", "Once<|im_end|> upon a time"]
NEW_TOKENS = 8
TEXTS = [f"On day {day} the lamp burned {day % 5} hours." for day in range(20)]
STEPS = 10


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with daemon_process(SMOLORA_KEEP_ALIVE="-1") as started:
        yield started


# The whole job on a tiny model, and in `make test-long` on the starter


@dataclass
class Job:
    """What each stage of the job answered, and what it left."""

    base: Path
    trainer: SmoLoRA
    before: list[str]
    tuned: list[str]
    merged: list[str]
    handles: tuple[object, object]
    shown: str
    logged: list[str]


@pytest.fixture(scope="module", params=["tiny", pytest.param("starter", marks=[pytest.mark.model, pytest.mark.long])])
def job(
    daemon: DaemonProcess, base: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Job]:
    is_tiny, folder = request.param == "tiny", tmp_path_factory.mktemp("job")
    model = base if is_tiny else request.getfixturevalue("starter_model")
    (folder / "texts").mkdir()
    (folder / "texts" / "log.txt").write_text("\n".join(TEXTS))
    capture, log = pytest.MonkeyPatch(), _Records()
    shown: list[str] = []
    capture.setattr("smolora.cli.progress.Progress.line", lambda self, line: shown.append(line))
    logger = logging.getLogger("smolora")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        trainer = SmoLoRA(
            model if is_tiny else "starter",
            folder / "texts",
            output_dir=folder / "Fine Tuned",
            socket=daemon.socket,
            dtype="float32",  # so that plain libraries are asked the same question
            max_steps=STEPS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            learning_rate=0.1 if is_tiny else 5e-3,
            logging_steps=1,
        )
        before = answers(trainer)
        trainer.train()
        tuned = answers(trainer)
        trainer.save()
        handles = trainer.load_model(trainer.merged_model_path or "")
        yield Job(model, trainer, before, tuned, answers(trainer), handles, "\n".join(shown), log.lines)
    finally:
        capture.undo()
        logger.removeHandler(log)
        logger.setLevel(logging.NOTSET)
        trainer.close()


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def answers(trainer: SmoLoRA) -> list[str]:
    """Its greedy answers."""
    return [trainer.inference(prompt, max_new_tokens=NEW_TOKENS, do_sample=False) for prompt in PROMPTS]


def reference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the original did: generate, then decode all of it without special tokens."""
    said = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id)
        said.append(tokenizer.decode(out[0], skip_special_tokens=True))
    return said


def test_plain_peft_and_transformers_open_both_folders_and_answer_as_inference_does(job: Job) -> None:
    tokenizer = AutoTokenizer.from_pretrained(job.base)
    base = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    assert job.before == reference(base, tokenizer)
    assert job.trainer.adapter_checkpoint is not None
    assert job.trainer.merged_model_path is not None
    adapted = PeftModel.from_pretrained(base, job.trainer.adapter_checkpoint)
    assert job.tuned == reference(adapted, AutoTokenizer.from_pretrained(job.trainer.adapter_checkpoint))
    assert job.tuned != job.before, "the adapter changes nothing, so this would prove nothing"
    merged = AutoModelForCausalLM.from_pretrained(job.trainer.merged_model_path, dtype=torch.float32)
    assert job.merged == reference(merged, AutoTokenizer.from_pretrained(job.trainer.merged_model_path))
    assert job.merged == job.tuned


def test_the_folders_appear_where_they_always_did(job: Job) -> None:
    output = job.trainer.output_dir
    assert output.name == "Fine Tuned"
    assert job.trainer.adapter_checkpoint == str(output / "adapter_checkpoint")
    assert job.trainer.merged_model_path == str(output / "final_merged")
    assert sorted(path.name for path in output.iterdir()) == ["adapter_checkpoint", "final_merged"]
    config = json.loads((output / "adapter_checkpoint" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["bias"]) == (8, 16, 0.1, "none")
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]
    assert not list(output.rglob("manifest.json")), "that one is about the daemon's own copy"


def test_the_merged_model_lives_in_the_output_folder_alone(job: Job, daemon: DaemonProcess) -> None:
    with smolora.Client(daemon.socket) as client:
        assert client.models() == []
        (adapter,) = client.adapters()
        assert (adapter.name, adapter.steps, adapter.eval_loss_after) == ("fine-tuned", STEPS, None)
        assert client.dataset(adapter.dataset).train_rows == len(TEXTS), "every row is for training, as it was"


def test_the_handles_answer_for_model_and_tokenizer(job: Job) -> None:
    model, tokenizer = job.trainer.model, job.trainer.tokenizer
    assert (model, tokenizer) == job.handles
    assert (job.trainer.device, model.device, model.config.dtype) == ("cpu", "cpu", "float32")
    plain = AutoTokenizer.from_pretrained(job.base)
    for text in (*PROMPTS, "Ünïcode 🙂", ""):
        ids = tokenizer.encode(text)
        assert ids == plain(text).input_ids
        assert tokenizer.count_tokens(text) == len(ids)
        assert tokenizer.decode(ids) == plain.decode(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == plain.decode(ids, skip_special_tokens=True)
    continued = model.generate(PROMPTS[0], max_new_tokens=NEW_TOKENS, temperature=0).text()
    assert PROMPTS[0] + continued == job.merged[0]


def test_the_phases_are_logged_with_their_times_and_training_shows_each_step(job: Job) -> None:
    for phase in ("Initialisation", "Training", "Saving", "Loading", "Inference"):
        assert f"{phase} begins." in job.logged
        assert any(line.startswith(f"{phase} took ") and line.endswith(" s.") for line in job.logged)
    assert all(f"step {step}/{STEPS}  loss" in job.shown for step in range(1, STEPS + 1))


def test_sampling_is_the_default_and_can_be_cold(job: Job, base: Path) -> None:
    drawn = {job.trainer.inference("The lamp", 8) for _ in range(3)}
    assert len(drawn) > 1
    assert all(text.startswith("The lamp") for text in drawn)
    prompt = "On day 3 the lamp burned 3"
    coldest = job.trainer.inference(prompt, 1, do_sample=False)
    assert {job.trainer.inference(prompt, 1, True, 0.01) for _ in range(3)} == {coldest}
    if job.base != base:  # the starter, whose texts leave no doubt about this one word
        assert coldest == f"{prompt} hours"


# What may be given, and what may not, on a tiny model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def make(daemon: DaemonProcess, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SmoLoRA]:
    """Makes a trainer on the tiny model, each with an output folder of its own."""

    def made(dataset: object, model: str | Path = base, **more: object) -> SmoLoRA:
        output = more.pop("output_dir", tmp_path_factory.mktemp("out"))
        return SmoLoRA(model, dataset, output_dir=output, socket=daemon.socket, start_daemon=False, **more)  # type: ignore[arg-type]

    return made


def one_sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, which is one sentence."""
    said = str(error.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def test_the_dataset_may_be_a_path_texts_or_rows(make: Callable[..., SmoLoRA], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,from a file\n")
    with make(tmp_path / "a.csv", text_field="body") as trainer:
        assert trainer.dataset["text"][:] == ["from a file"]
        trainer.dataset = ["two\nlines", 'quotes "and" so on', "Ünïcode \u2028 🙂"]
        assert trainer.dataset["text"][:] == ["two\nlines", 'quotes "and" so on', "Ünïcode \u2028 🙂"]
        trainer.dataset = datasets.Dataset.from_dict({"id": [1, 2], "text": ["a", "b"]})
        assert trainer.dataset["text"][:] == ["a", "b"]
        trainer.dataset = datasets.Dataset.from_dict({"body": ["a field of that name"]})
        assert trainer.dataset["text"][:] == ["a field of that name"]
        trainer.dataset = datasets.Dataset.from_dict({"text": ["streamed"]}).to_iterable_dataset()
        assert trainer.dataset["text"][:] == ["streamed"]
        trainer.dataset = datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["of the split train"]}))
        assert trainer.dataset["text"][:] == ["of the split train"]
        datasets.Dataset.from_dict({"body": ["saved"]}).save_to_disk(tmp_path / "saved")
        trainer.dataset = str(tmp_path / "saved")
        assert trainer.dataset["text"][:] == ["saved"]


@pytest.mark.long
def test_a_second_run_takes_the_place_of_the_first_and_is_what_is_loaded_then(
    make: Callable[..., SmoLoRA], tmp_path: Path
) -> None:
    quick = {"max_steps": 2, "max_length": 32, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    said, fingerprints = [], set()
    for text in ("first first first", "second second second"):
        texts = [text, text + " more"]
        # In float32, as a merged model's weights are rounded to the number format, and an adapter's sums are not.
        with make(texts, output_dir=tmp_path / "out", learning_rate=1.0, dtype="float32", **quick) as trainer:
            trainer.train()
            said.append(trainer.inference("The", 12, do_sample=False))
            trainer.save()
            model, _ = trainer.load_model(tmp_path / "out" / "final_merged")
            fingerprints.add(model.config.fingerprint)
            assert trainer.inference("The", 12, do_sample=False) == said[-1]
    assert len(fingerprints) == 2, "the folder's new weights are read, though its path was resident"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter_checkpoint", "final_merged"]


def test_each_of_two_trainers_answers_from_its_own_model(
    make: Callable[..., SmoLoRA], daemon: DaemonProcess, tmp_path: Path
) -> None:
    other = tiny_model(tmp_path / "other", architecture="gpt2")
    with make(["a text"]) as one, make(["a text"], model=other) as two, smolora.Client(daemon.socket) as client:
        assert one.model.config.architecture == "llama"
        expected = one.inference("The", 8, do_sample=False)
        two.inference("The", 8, do_sample=False)
        assert one.inference("The", 8, do_sample=False) == expected
        assert two.model.generate("The", max_new_tokens=1).text() is not None
        resident = client.status().resident
        assert resident is not None
        assert resident.name == two.model.name


def test_a_dataset_that_cannot_be_used_is_one_sentence(make: Callable[..., SmoLoRA], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "a", "id": 1}\n')
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes("text\n".encode("utf-16"))
    (tmp_path / "empty.txt").write_text("\n\n")
    rows = datasets.Dataset.from_dict({"body": ["a"], "id": [1]})
    cases: list[tuple[object, type[Exception], str]] = [
        (tmp_path / "gone", smolora.NotFound, "There is no file or folder"),
        ("./gone.jsonl", smolora.NotFound, "There is no file or folder ./gone.jsonl"),
        ("gone.jsonl", smolora.NotFound, "There is no file or folder gone.jsonl"),
        (tmp_path / "a.jsonl", smolora.BadData, "has no field 'text': its fields are 'body', 'id'"),
        (rows, smolora.BadData, "has no column 'text': its columns are body, id"),
        (tmp_path / "latin.txt", smolora.BadData, "latin.txt:1 is not UTF-8"),
        (tmp_path / "wide.txt", smolora.BadData, "UTF-16; save the file as UTF-8"),
        (tmp_path / "empty.txt", smolora.BadData, "There is no text to train on"),
        ([], smolora.BadData, "The dataset has no rows"),
        (["", " "], smolora.BadData, "There is no text to train on"),
        (["a", None], TypeError, "Row 2 of the dataset is of type NoneType"),
        (7, TypeError, "not int"),
    ]
    with make(["a text"]) as trainer:
        for source, kind, why in cases:
            with pytest.raises(kind) as caught:
                trainer.dataset = source
            assert why in one_sentence(caught)
        assert trainer.dataset["text"][:] == ["a text"], "the one before stays"
    with pytest.raises(smolora.BadData) as caught:
        make(tmp_path / "a.jsonl")
    assert "'body'" in one_sentence(caught)


def test_a_model_that_cannot_be_used_is_one_sentence(make: Callable[..., SmoLoRA], base: Path, tmp_path: Path) -> None:
    classifier = tiny_model(tmp_path / "classifier")
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    cases: list[tuple[str | Path, type[Exception], str]] = [
        (tmp_path / "gone", smolora.NotFound, "does not exist"),
        ("./gone", smolora.NotFound, "./gone is not a model's folder: it does not exist"),
        (tmp_path, smolora.NotFound, "it has no config.json"),
        ("gone", smolora.NotFound, "gone"),
        (tmp_path / "adapter", smolora.InvalidRequest, "holds an adapter, not a model; call save()"),
        (classifier, smolora.UnsupportedModel, "does not generate text; choose a causal language model"),
    ]
    with make(["a text"]) as trainer:
        answer = trainer.inference("The", 4, do_sample=False)
        for model, kind, why in cases:
            with pytest.raises(kind) as caught:
                trainer.load_model(model)
            assert why in one_sentence(caught)
        assert trainer.inference("The", 4, do_sample=False) == answer, "the one before stays"
    with pytest.raises(smolora.UnsupportedModel) as caught:
        make(["a text"], model=classifier)
    assert "causal" in one_sentence(caught)


def test_what_comes_too_early_or_too_late_is_one_sentence(make: Callable[..., SmoLoRA]) -> None:
    with pytest.raises(TypeError, match="did you mean 'max_steps'"):
        make(["a text"], max_step=3)
    with make(["a text"]) as trainer:
        assert (trainer.adapter_checkpoint, trainer.merged_model_path) == (None, None)
        with pytest.raises(smolora.BadState) as caught:
            trainer.save()
        assert "call train() first" in one_sentence(caught)
        with pytest.raises(smolora.InvalidRequest) as invalid:
            trainer.inference("The", max_new_tokens=0)
        assert "max_tokens: is 0, but must be at least 1" in str(invalid.value)
    with pytest.raises(smolora.NoModel) as closed:
        trainer.inference("The")
    assert "was closed" in one_sentence(closed)
    assert not list(trainer.output_dir.iterdir())


@pytest.fixture
def options(daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The usage example's, on a tiny model."""
    monkeypatch.setenv("SMOLORA_SOCKET", str(daemon.socket))
    base = tiny_model(tmp_path / "base", max_position_embeddings=1024)
    return argparse.Namespace(model=str(base), steps=1, new_tokens=4, output=str(tmp_path / "out"))


def check_usage(shown: str, output: Path, runs: int) -> None:
    assert all(shown.count(prompt) >= runs for prompt in usage.PROMPTS)
    for phase in (*usage.PHASES, "all"):
        assert re.search(rf"{phase} +│ +\d+\.\d\d │ +\d+\.\d\d │", shown), phase
    assert AutoModelForCausalLM.from_pretrained(output / "final_merged").config.model_type == "llama"


def test_the_usage_example_does_the_job_and_shows_the_seconds(
    options: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    seconds = usage.job(options, console)
    usage.show(console, seconds, seconds)
    check_usage(capsys.readouterr().out, tmp_path / "out", runs=1)


@pytest.mark.long
def test_the_usage_example_does_the_job_twice(
    options: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage.main([word for name, value in vars(options).items() for word in (f"--{name.replace('_', '-')}", str(value))])
    check_usage(capsys.readouterr().out, tmp_path / "out", runs=2)
