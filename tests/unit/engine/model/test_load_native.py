"""Models served without torch: the same numbers and texts as with it, and the whole model where that is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from smolora.common.paths import cache_path
from smolora.v1 import common_pb2
from smolorad.domain import ChatMessage, Device, Dtype, Precision
from smolorad.engine.model import blueprint_cache
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.blueprint import BLUEPRINT
from smolorad.engine.native import decoder
from smolorad.engine.native.decoder import Part
from smolorad.engine.native.library import Library
from smolorad.engine.runtime.device import Hardware
from smolorad.errors import Damaged, NotFound
from smolorad.link.v1 import link_pb2 as pb
from tests.engine_process import engine_process
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, generated_by_transformers, load, make_adapter, plain_model, spec
from tests.unit.engine.serve.test_loop import formed, generate
from tests.unit.engine.train.train_kit import Job, write_dataset

ANY_CPU = Hardware(cpu_bfloat16=True)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-untied": {"tie_word_embeddings": False},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
TOKENS = list(range(3, 60))
PROMPT = "The quick brown fox"


@pytest.fixture(autouse=True)
def _whatever_this_machine_has(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(Library, "min_prefill_tokens", lambda self, format: 16)
    monkeypatch.setattr(decoder, "ACCELERATE", False)


def light(folder: Path, **more: Any) -> BaseModel:
    """A model as it is loaded where nobody has imported torch yet."""
    base = load(folder, "tiny", **{"dtype": Dtype.FLOAT32, "hardware": ANY_CPU, **more})
    assert base.runner is None
    return base


def heavy(folder: Path, **more: Any) -> BaseModel:
    """The same by transformers."""
    base = load(folder, "tiny", **{"dtype": Dtype.FLOAT32, **more})
    assert base.runner is not None
    return base


def logits(base: BaseModel) -> np.ndarray[Any, Any]:
    assert base.native is not None
    return base.native.step([Part(TOKENS, base.native.cache(len(TOKENS)), every=True)])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, pytest.param(Dtype.BFLOAT16, marks=pytest.mark.long)])
def test_it_computes_to_the_last_bit_what_transformers_weights_give(name: str, dtype: Dtype, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", name.partition("-")[0], **SHAPES[name])
    ours, theirs = light(folder, dtype=dtype), heavy(folder, dtype=dtype)
    assert np.array_equal(logits(ours), logits(theirs))
    for one in ("fingerprint", "architecture", "parameters", "weight_bytes", "context_length", "vocabulary_size"):
        assert getattr(ours, one) == getattr(theirs, one), one
    assert (ours.end_ids, ours.embeddings, ours.dtype, ours.device) == (theirs.end_ids, theirs.embeddings, dtype, Device.CPU)
    assert ours.describe(1.0) == theirs.describe(1.0)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [pytest.param(Dtype.FLOAT32, marks=pytest.mark.long), Dtype.BFLOAT16])
@pytest.mark.parametrize("precision", Precision)
def test_whatever_the_files_hold(stored: torch.dtype, dtype: Dtype, precision: Precision, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    plain_model(folder).to(stored).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert (folder / "model.safetensors.index.json").is_file()
    ours, theirs = (make(folder, dtype=dtype, precision=precision) for make in (light, heavy))
    assert np.array_equal(logits(ours), logits(theirs))
    assert (ours.exact_weights is None) is (precision is Precision.EXACT)
    assert ours.describe(1.0) == theirs.describe(1.0)


def test_answers_equal_transformers(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    base, plain = light(folder), plain_model(folder)
    for prompt in (PROMPT, "Да, и ещё немного. 日本語も少し 🙂", "one two three " * 30):
        _, outcome = finish(begin(base, spec(prompt, max_tokens=40)))
        theirs = generated_by_transformers(
            plain, base.transformers_model().tokenizer, prompt, max_new_tokens=40, do_sample=False, use_cache=True
        )
        assert list(outcome.token_ids) == theirs
    talk = (ChatMessage("user", "Who are you?"),)
    assert (
        finish(begin(base, spec(messages=talk, max_tokens=20)))[0]
        == finish(begin(heavy(folder), spec(messages=talk, max_tokens=20)))[0]
    )


def test_an_adapter_needs_no_peft_where_it_is_plain_and_peft_reads_the_others(tmp_path: Path) -> None:
    from smolorad.engine.adapters.registry import read_adapter

    folder = tiny_model(tmp_path / "model")
    ours, theirs, asked = light(folder), heavy(folder), spec(PROMPT, max_tokens=30)
    for name, lora in {"plain": {}, "dora": {"use_dora": True}, "saved": {"modules_to_save": ["norm"]}}.items():
        path = make_adapter(folder, tmp_path / name, **lora)
        one, other = read_adapter(ours, path), read_adapter(theirs, path)
        assert (one.native is None) is (name != "plain")
        assert one.parameters == other.parameters
        said = finish(begin(ours, asked, one))[1].token_ids
        assert said == finish(begin(theirs, asked, other))[1].token_ids
        assert said != finish(begin(ours, asked))[1].token_ids


def test_what_transformers_makes_of_it_shares_its_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "qwen2")
    plain = plain_model(folder)
    base = light(folder)
    before = logits(base)
    shutil.rmtree(folder)  # which nothing needs any more
    ids = torch.tensor([TOKENS])
    with torch.inference_mode():
        assert torch.equal(base.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert base.model is base.transformers_model().model
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    with torch.no_grad():
        base.model.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    assert not np.array_equal(logits(base), before)


@pytest.mark.parametrize("gone", ["cache", "model", "both"])
def test_what_transformers_reads_may_have_been_thrown_away(gone: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    base = light(folder)
    for one, path in {"cache": cache_path(), "model": folder}.items():
        if gone in (one, "both"):
            shutil.rmtree(path)
    if gone == "both":
        with pytest.raises(NotFound, match=f"files in {folder} are gone"):
            base.transformers_model()
    else:
        assert base.transformers_model().model is base.model
    assert finish(begin(base, spec(PROMPT, max_tokens=3)))[1].token_ids


@pytest.mark.parametrize("precision", [Precision.EXACT, Precision.INT4])
def test_a_training_on_it_is_the_same_to_the_last_bit(precision: Precision, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    data = write_dataset(tmp_path / "data")
    written = []
    for name, base in {"light": light(folder, precision=precision), "heavy": heavy(folder)}.items():
        said = finish(begin(base, spec(PROMPT, max_tokens=20)))[1].token_ids
        job = Job(tmp_path / name, data)
        job.run(base)
        base.release_idle_memory()
        assert finish(begin(base, spec(PROMPT, max_tokens=20)))[1].token_ids == said
        written.append(load_file(job.output / "adapter_model.safetensors"))
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][key], written[1][key]) for key in written[0])


def test_what_takes_long_once_is_said_once(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    for expected in (["describing the model, once"], []):
        said: list[str] = []
        light(folder, report=lambda progress, said=said: said.append(progress.detail))
        assert [detail for detail in said if "describing" in detail] == expected


LEFT_TO_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "bamba": {},
    "llama": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
}


@pytest.mark.parametrize("architecture", LEFT_TO_TRANSFORMERS)
def test_what_the_step_does_not_know_is_left_to_transformers(architecture: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", architecture, **LEFT_TO_TRANSFORMERS[architecture])
    assert load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=ANY_CPU).runner is not None


def test_a_head_of_its_own_beside_a_tied_one_is_left_to_transformers(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=ANY_CPU).runner is not None


def test_weights_that_are_missing_are_told(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Damaged, match=r"lack model\.norm\.weight"):
        load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=ANY_CPU)


@pytest.mark.parametrize("precision", [Precision.EXACT, Precision.INT8])
def test_weights_that_are_cut_short_meanwhile_are_told(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    light(folder, precision=precision)
    find = blueprint_cache.find

    def cut(*arguments: Any) -> Any:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
        return find(*arguments)

    monkeypatch.setattr(blueprint_cache, "key_of", lambda folder, dtype: next((cache_path() / "blueprints").iterdir()).name)
    monkeypatch.setattr(blueprint_cache, "find", cut)
    with pytest.raises(Damaged, match="cut short"):
        light(folder, precision=precision)
    assert not list((cache_path() / "weights").glob("*"))


def test_a_blueprint_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model")
    light(folder)
    monkeypatch.setattr(blueprint_cache, "_make", None)
    light(folder)
    same = tiny_model(tmp_path / "other weights", seed=1)  # as it is after a merge
    light(same)
    config = json.loads((folder / "config.json").read_text())
    for name, content in {
        "chat_template.jinja": "{{ messages }}",
        "config.json": json.dumps(config | {"rms_norm_eps": 1.0}),
    }.items():
        (folder / name).write_text(content)
        with pytest.raises(TypeError):
            light(folder)
        shutil.copytree(same, folder, dirs_exist_ok=True)
    with pytest.raises(TypeError):
        light(folder, dtype=Dtype.BFLOAT16)


@pytest.mark.skipif(Hardware.without_torch() is None, reason="this machine may have a GPU")
def test_who_has_transformers_at_hand_makes_it_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model")
    blueprint_cache.prebuild(folder, cache_path())
    monkeypatch.setattr(blueprint_cache, "_make", None)
    known = Hardware.without_torch()
    assert known is not None
    light(folder, dtype=Dtype.BFLOAT16 if known.cpu_bfloat16 else Dtype.FLOAT32)
    blueprint_cache.prebuild(tmp_path / "nowhere", cache_path())  # whose loading will fail


@pytest.mark.parametrize("content", [b"", b"{", b'{"architecture": 1}'])
def test_a_damaged_blueprint_is_no_obstacle(content: bytes, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    light(folder)
    [kept] = (cache_path() / "blueprints").iterdir()
    (kept / BLUEPRINT).write_bytes(content)
    assert load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=ANY_CPU).native is not None


def run_without_torch(code: str) -> str:
    """What a fresh interpreter prints, in which torch was never imported."""
    code += "\nimport sys; assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'something imported it'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_serving_imports_neither_torch_nor_transformers() -> None:
    run_without_torch("import smolorad.engine.serve.loop, smolorad.engine.model.load_native")


@pytest.mark.skipif(Hardware.here() != Hardware(cpu_bfloat16=Hardware.here().cpu_bfloat16), reason="this machine has a GPU")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_linux_tells_of_the_processor_what_torch_does() -> None:
    told = run_without_torch(
        "from smolorad.engine.runtime.device import Hardware, default_threads\n"
        "print(Hardware.without_torch().cpu_bfloat16, default_threads())"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        env={name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told == f"{Hardware.here().cpu_bfloat16} {theirs.stdout.strip()}"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_an_engine_that_serves_has_no_torch_in_memory_until_it_must(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", hidden_size=64)
    adapter = pb.AdapterFolder(key="a@1", path=str(make_adapter(folder, tmp_path / "adapter")))
    dora = pb.AdapterFolder(key="d@1", path=str(make_adapter(folder, tmp_path / "dora", use_dora=True)))
    # In a precision that the native step takes whole prompts in, on every machine.
    asked = {"device": common_pb2.DEVICE_CPU, "dtype": common_pb2.DTYPE_FLOAT32, "precision": common_pb2.PRECISION_INT8}
    with engine_process() as engine:

        def has_torch() -> bool:
            return any("libtorch" in mapped.path for mapped in psutil.Process(engine.process.pid).memory_maps())

        def said(command: pb.Generate) -> str:
            *pieces, last = engine.events(engine.send(generate=command))
            assert last.WhichOneof("body") == "outcome", last
            return "".join(piece.text for piece in pieces)

        assert engine.load(folder, **asked).WhichOneof("body") == "resident"
        plain = said(generate(PROMPT, max_tokens=20))
        assert said(generate(PROMPT, adapter, max_tokens=20)) != plain
        assert said(generate(PROMPT, max_tokens=20, temperature=0.9, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.1))
        assert said(formed(PROMPT, regex="[a-z]{5}"))
        assert said(generate("one two three " * 40, max_tokens=3))
        assert not has_torch()
        assert said(generate(PROMPT, max_tokens=20, temperature=0.9, typical_p=0.5))
        assert has_torch()
        assert said(generate(PROMPT, dora, max_tokens=20)) != plain
        assert said(generate(PROMPT, max_tokens=20)) == plain


def test_the_plain_model_is_what_a_view_is_made_of(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    base = light(folder)
    view = base.view()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert [name for name, _ in view.named_modules()] == [name for name, _ in plain.named_modules()]
    assert [p.data_ptr() for p in view.parameters()] == [p.data_ptr() for p in base.model.parameters()]
