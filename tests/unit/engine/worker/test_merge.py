"""Merge: PEFT's own folders, tiny models, and every fault that the proof is there to catch."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolora.v1 import common_pb2
from smolorad import publish
from smolorad.domain import Dtype, PhaseProgress
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.worker import merge_check
from smolorad.engine.worker.merge import attach, merge, merged
from smolorad.engine.worker.merge_prefetch import prefetch
from smolorad.errors import Cancelled, Damaged, MergeMismatch, NotFinite, NotFound, SmoloraError, UnsupportedModel, WrongBase
from smolorad.link.v1 import link_pb2 as pb
from tests.tiny import tiny_model
from tests.worker import Worker, running_worker

PROMPTS = ["In the beginning", "The quick brown fox", "Да, и ещё", "ten times 10"]

# PEFT's advice, which the proof makes needless.
TIED = pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`", "ignore:Input and output embeddings")


def load(folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def make_adapter(base: Path, folder: Path, *, strength: float = 0.1, **settings: object) -> Path:
    """An adapter with random weights, as PEFT saves it."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = get_peft_model(load(base), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                torch.nn.init.normal_(parameter.data, std=strength)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_adapter(base, base.parent / "adapter")


def greedy(model: torch.nn.Module, folder: Path, prompt: str) -> list[int]:
    ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    with torch.inference_mode():
        answer: list[int] = model.generate(**ids, do_sample=False, max_new_tokens=32)[0].tolist()
    return answer


def test_in_fp32_the_merged_model_answers_as_the_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    seen: list[PhaseProgress] = []
    done = merge(base, adapter, tmp_path / "output", report=seen.append)
    assert done.proof.prompts == len(merge_check.PROMPTS)
    assert 0 < done.proof.max_logit_difference < done.proof.bound < 0.01
    assert done.proof.greedy_agreement == 1.0
    assert done.facts == ModelFolder.open(tmp_path / "output").inspect()
    assert done.facts.fingerprint != ModelFolder.open(base).inspect().fingerprint
    assert done.facts.parameters == ModelFolder.open(base).inspect().parameters
    assert list(dict.fromkeys(one.phase for one in seen)) == ["read", "verify", "merge", "write"]
    # Nothing of ours is needed to read it.
    plain, unmerged = load(tmp_path / "output"), PeftModel.from_pretrained(load(base), adapter).eval()
    answers = [greedy(plain, tmp_path / "output", prompt) for prompt in PROMPTS]
    assert answers == [greedy(unmerged, base, prompt) for prompt in PROMPTS]
    assert answers != [greedy(load(base), base, prompt) for prompt in PROMPTS]


def test_tokenizer_template_and_generation_config_come_along(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge(base, adapter, tmp_path / "output")
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in (tmp_path / "output").iterdir()} == names
    for name in names - {"config.json", "model.safetensors"}:
        assert (tmp_path / "output" / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize("dtype", [Dtype.BFLOAT16, Dtype.FLOAT16, None])
def test_it_is_saved_in_the_format_that_is_asked_for_or_the_bases_own(
    base: Path, adapter: Path, tmp_path: Path, dtype: Dtype | None
) -> None:
    half = tmp_path / "half"
    shutil.copytree(base, half)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    done = merge(half, adapter, tmp_path / "output", dtype=dtype)
    saved = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {getattr(torch, dtype or "bfloat16")}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "output").dtype == getattr(torch, dtype or "bfloat16")
    assert merge_check.MIN_AGREEMENT < done.proof.greedy_agreement <= 1.0


@pytest.mark.parametrize(
    "architecture", ["gpt2", "gpt_neox", *(pytest.param(name, marks=pytest.mark.long) for name in ("qwen2", "mistral"))]
)
def test_architectures(architecture: str, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    targets = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"]}.get(architecture, ["q_proj", "v_proj"])
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=architecture == "gpt2")
    assert merge(base, adapter, tmp_path / "output").proof.greedy_agreement == 1.0


def test_dora_rslora_and_a_head_trained_whole(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2")
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=True, use_rslora=True, modules_to_save=["lm_head"])
    assert merge(base, adapter, tmp_path / "output").proof.greedy_agreement == 1.0


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`", "ignore:Input and output embeddings are no longer tied"
)
def test_a_head_trained_whole_unties_the_embeddings(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", modules_to_save=["lm_head"])
    done = merge(base, adapter, tmp_path / "output")
    assert done.proof.greedy_agreement == 1.0
    assert json.loads((base / "config.json").read_text())["tie_word_embeddings"] is True
    assert json.loads((tmp_path / "output" / "config.json").read_text())["tie_word_embeddings"] is False
    assert done.facts.parameters > ModelFolder.open(base).inspect().parameters


@TIED
def test_a_lora_on_a_tied_head_cannot_be_merged_and_says_so(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    with pytest.raises(MergeMismatch, match="target_modules"):
        merge(base, adapter, tmp_path / "output")


@pytest.mark.long  # e2e/test_main_job.py merges into the starter, and the tests above know formats
@pytest.mark.model
def test_the_starter_in_its_own_format(starter_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(starter_model, tmp_path / "adapter", strength=0.03)
    done = merge(starter_model, adapter, tmp_path / "output", prompts=PROMPTS)
    assert done.proof.max_logit_difference < 1e-3
    assert done.proof.greedy_agreement > 0.9
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "output").dtype is torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "output").chat_template


@pytest.mark.parametrize("fault", ["dropped delta", "wrong scale", "one layer forgotten"])
def test_the_proof_catches(fault: str, base: Path, adapter: Path) -> None:
    batches = merge_check.tokenize(AutoTokenizer.from_pretrained(base), PROMPTS)
    adapted = attach(load(base), adapter, base.name)
    unmerged = merge_check.logits_of(adapted, batches)
    bound = merge_check.bound_for(unmerged)
    if fault == "dropped delta":
        wrong = load(base)
    else:
        layers = [module for name, module in adapted.named_modules() if name.endswith(("q_proj", "v_proj"))]
        for layer in layers if fault == "wrong scale" else layers[:1]:
            layer.scaling["default"] *= 1.05 if fault == "wrong scale" else 0.0
        wrong = merged(adapted)
    with pytest.raises(MergeMismatch, match="logits differ"):
        merge_check.check_close(unmerged, merge_check.logits_of(wrong, batches), bound)


def test_a_right_merge_is_far_from_the_bound(base: Path, adapter: Path) -> None:
    batches = merge_check.tokenize(AutoTokenizer.from_pretrained(base), PROMPTS)
    adapted = attach(load(base), adapter, base.name)
    unmerged = merge_check.logits_of(adapted, batches)
    bound = merge_check.bound_for(unmerged)
    assert merge_check.check_close(unmerged, merge_check.logits_of(merged(adapted), batches), bound) < bound / 5


def test_not_a_number_is_never_equal() -> None:
    good = [torch.ones(2, 3)]
    with pytest.raises(MergeMismatch):
        merge_check.check_close(good, [torch.full((2, 3), torch.nan)], 1.0)


def test_a_merge_that_differs_writes_nothing(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolorad.engine.worker.merge.merged", lambda adapted: adapted.unload())
    with pytest.raises(MergeMismatch, match="logits differ"):
        merge(base, adapter, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_a_file_that_answers_otherwise_is_removed(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_model(tmp_path / "other", seed=7)

    def write_another(model: object, dtype: object, base: object, output: Path) -> None:
        shutil.copytree(other, output, dirs_exist_ok=True)

    monkeypatch.setattr("smolorad.engine.worker.merge._write", write_another)
    with pytest.raises(MergeMismatch, match="greedy tokens"):
        merge(base, adapter, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def spoilt(adapter: Path, folder: Path, fault: str) -> Path:
    shutil.copytree(adapter, folder)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    match fault:
        case "nan":
            next(iter(tensors.values()))[0, 0] = torch.nan
            save_file(tensors, weights)
        case "pickle":
            weights.rename(folder / "adapter_model.bin")
        case "lost layer":
            save_file({name: tensor for name, tensor in tensors.items() if "layers.1." not in name}, weights)
        case "more layers":
            more = {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in tensors.items()}
            save_file({**tensors, **more}, weights)
        case "no config":
            (folder / "adapter_config.json").unlink()
        case "other kind":
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
        case "cut":
            with weights.open("r+b") as f:
                f.truncate(500)
    return folder


@pytest.mark.parametrize(
    ("fault", "reason", "says"),
    [
        ("nan", "NOT_FINITE", "train it again"),
        ("pickle", "UNSUPPORTED_MODEL", "safetensors"),
        ("lost layer", "WRONG_BASE", "layers.1"),
        ("more layers", "WRONG_BASE", "layers.2"),
        ("no config", "NOT_FOUND", "adapter_config.json"),
        ("other kind", "UNSUPPORTED_MODEL", "LoRA"),
        ("cut", "DAMAGED", "adapter_model.safetensors"),
    ],
)
def test_an_adapter_that_is_none(fault: str, reason: str, says: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(SmoloraError, match=says) as caught:
        merge(base, spoilt(adapter, tmp_path / "adapter", fault), tmp_path / "output")
    assert caught.value.reason == reason
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("architecture", "changes"), [("llama", {"hidden_size": 64}), ("gpt2", {})])
def test_an_adapter_of_another_base(architecture: str, changes: dict[str, int], adapter: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", architecture, **changes)
    with pytest.raises(WrongBase, match=r"fit|needs"):
        merge(other, adapter, tmp_path / "output")


def test_merging_that_overflows_is_told(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", strength=3e38)
    with pytest.raises(NotFinite):
        merge(base, adapter, tmp_path / "output")


@pytest.mark.parametrize("phase", ["read", "verify", "merge", "write"])
def test_it_can_be_stopped_at_every_phase(phase: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    def stop(progress: PhaseProgress) -> None:
        if progress.phase == phase:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        merge(base, adapter, tmp_path / "output", report=stop)
    assert not (tmp_path / "output").exists()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One for the tests that need a process: it imports torch."""
    with running_worker({}) as worker:
        yield worker


def test_the_worker_merges(worker: Worker, base: Path, adapter: Path, tmp_path: Path) -> None:
    command = pb.Merge(
        base_path=str(base),
        adapter_path=str(adapter),
        output_path=str(tmp_path / "output"),
        prompts=PROMPTS,
        dtype=common_pb2.DTYPE_BFLOAT16,
    )
    events = worker.call(merge=command)
    refused = worker.call(merge=pb.Merge(base_path=str(base), adapter_path=str(base), output_path=str(tmp_path / "other")))
    told = events[-1].merged
    assert told.proof.prompts == len(PROMPTS)
    assert told.proof.max_logit_difference <= told.proof.bound
    assert told.facts.fingerprint == ModelFolder.open(tmp_path / "output").inspect().fingerprint
    assert {tensor.dtype for tensor in load_file(tmp_path / "output" / "model.safetensors").values()} == {torch.bfloat16}
    assert {event.phase.phase for event in events[:-1]} == {"read", "verify", "merge", "write"}
    assert refused[-1].failure.reason == "NOT_FOUND"
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits can only be set on Linux")
def test_a_full_disk_is_told(worker: Worker, base: Path, adapter: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "output")
    before = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (100_000, before[1]))
    copied = worker.call(fetch=pb.Fetch(source=str(base), output_path=output))
    merged = worker.call(merge=pb.Merge(base_path=str(base), adapter_path=str(adapter), output_path=output))
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, before)
    for events in (copied, merged):
        assert events[-1].failure.reason == "NO_SPACE", events[-1]
    assert not Path(output).exists()


def test_a_base_that_is_none(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        merge(tmp_path / "nowhere", adapter, tmp_path / "output")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnsupportedModel, match="tokenizer"):
        merge(tmp_path, adapter, tmp_path / "output")


def test_a_base_that_is_not_as_it_was_published(base: Path, adapter: Path, tmp_path: Path) -> None:
    publish.publish(Path(shutil.copytree(base, tmp_path / "stage")), tmp_path / "models" / "m", {})
    weights = tmp_path / "models" / "m" / "model.safetensors"
    with weights.open("r+b") as f:
        f.seek(-3, 2)
        f.write(b"\x55")
    with pytest.raises(Damaged, match="not as it was published"):
        merge(weights.parent, adapter, tmp_path / "output")


def test_what_is_known_ahead_counts_until_a_file_changes(base: Path, adapter: Path, tmp_path: Path) -> None:
    publish.publish(Path(shutil.copytree(base, tmp_path / "stage")), tmp_path / "m", {})
    prefetched = prefetch(tmp_path / "m")
    assert prefetched is not None
    assert prefetched.is_current(tmp_path / "m")
    assert not prefetched.is_current(base)
    done = merge(tmp_path / "m", adapter, tmp_path / "output", prefetched=prefetched)
    assert done == merge(base, adapter, tmp_path / "again", prefetched=prefetched)
    with (tmp_path / "m" / "model.safetensors").open("r+b") as f:
        f.seek(-3, 2)
        f.write(b"\x55")
    assert not prefetched.is_current(tmp_path / "m")
    with pytest.raises(Damaged, match="not as it was published"):
        merge(tmp_path / "m", adapter, tmp_path / "output", prefetched=prefetched)
    assert prefetch(tmp_path / "m") is None


def test_the_sums_are_those_of_the_files(base: Path, adapter: Path, tmp_path: Path) -> None:
    done = merge(base, adapter, tmp_path / "output")
    described = publish.describe(tmp_path / "output")
    assert done.sums == {name: entry["sha256"] for name, entry in described.items()}
    assert publish.describe(tmp_path / "output", done.sums) == described
