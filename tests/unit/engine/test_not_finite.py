"""NaN and infinity in a model's weights, or in an adapter's, reach whoever asks: in every precision, for everything."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolorad.domain import Device, Dtype, LoraSettings, Precision, TrainerSettings
from smolorad.engine.adapters.registry import AdapterRegistry
from smolorad.engine.worker.merge import merge
from smolorad.errors import NotFinite
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, make_adapter, spec
from tests.unit.engine.train.train_kit import Job, read_base, write_dataset

BAD = [math.nan, math.inf, -math.inf]
# The first token of every prompt and row here is in the vocabulary's middle; whatever is read of it goes through these.
PLACES = {
    "llama": {
        "embedding": "model.embed_tokens.weight",
        "query": "model.layers.0.self_attn.q_proj.weight",
        "key of the last layer": "model.layers.1.self_attn.k_proj.weight",
        "value": "model.layers.0.self_attn.v_proj.weight",
        "output": "model.layers.1.self_attn.o_proj.weight",
        "gate": "model.layers.1.mlp.gate_proj.weight",
        "down": "model.layers.0.mlp.down_proj.weight",
        "norm": "model.layers.1.post_attention_layernorm.weight",
        "last norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
    "gpt2": {
        "embedding": "transformer.wte.weight",
        "positions": "transformer.wpe.weight",
        "attention": "transformer.h.1.attn.c_attn.weight",
        "bias": "transformer.h.0.mlp.c_fc.bias",
        "norm": "transformer.ln_f.weight",
    },
}
WIDE: dict[str, dict[str, Any]] = {"llama": {"hidden_size": 64, "tie_word_embeddings": False}, "gpt2": {"n_embd": 64}}
PROMPT = "sun moon river stone"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, name, **changes) for name, changes in WIDE.items()}


def broken(folder: Path, out: Path, place: str, bad: float) -> Path:
    """A copy of a model with one bad number for each token that may come, or one alone."""
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    weights = load_file(out / "model.safetensors")
    tensor = weights[place]
    if "embed" in place or "wte" in place or "wpe" in place:
        tensor[:, 5] = bad
    elif tensor.ndim == 2:
        tensor[len(tensor) // 2, 5] = bad
    else:
        tensor[5] = bad
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


FORMS = [
    (Dtype.FLOAT32, Precision.EXACT),
    (Dtype.BFLOAT16, Precision.EXACT),
    (Dtype.FLOAT16, Precision.EXACT),
    (Dtype.FLOAT32, Precision.INT8),
    (Dtype.FLOAT32, Precision.INT4),
    (Dtype.BFLOAT16, Precision.INT4),
]


GRID = [
    (architecture, place, dtype, precision, bad)
    for architecture, places in PLACES.items()
    for place in places
    for dtype, precision in FORMS
    for bad in BAD
]
# Each place and each form; which number is bad there goes round.
SOME = GRID[1::7]


@pytest.mark.parametrize(("architecture", "place", "dtype", "precision", "bad"), SOME, ids=str)
def test_an_answer(
    folders: dict[str, Path], tmp_path: Path, architecture: str, place: str, dtype: Dtype, precision: Precision, bad: float
) -> None:
    check_an_answer(folders[architecture], tmp_path / "broken", PLACES[architecture][place], bad, dtype, precision)


@pytest.mark.long
@pytest.mark.parametrize(("architecture", "place", "dtype", "precision", "bad"), GRID, ids=str)
def test_every_answer(
    folders: dict[str, Path], tmp_path: Path, architecture: str, place: str, dtype: Dtype, precision: Precision, bad: float
) -> None:
    check_an_answer(folders[architecture], tmp_path / "broken", PLACES[architecture][place], bad, dtype, precision)


def check_an_answer(folder: Path, out: Path, place: str, bad: float, dtype: Dtype, precision: Precision) -> None:
    base = load(broken(folder, out, place, bad), "tiny", device=Device.CPU, dtype=dtype, precision=precision)
    for logprobs in (False, True):
        request = dataclasses.replace(spec(PROMPT, max_tokens=8), logprobs=logprobs)
        with pytest.raises(NotFinite, match="logits are not finite"):
            finish(begin(base, request))


@pytest.mark.parametrize(
    ("dtype", "with_adapter", "advice"),
    [
        (Dtype.FLOAT16, False, "in float16; load the model in float32."),
        (Dtype.FLOAT16, True, "in float16; load the model in float32, or train the adapter again with a lower learning_rate."),
        (Dtype.FLOAT32, False, "in float32; get the model again, as its own weights may not be finite."),
        (Dtype.FLOAT32, True, "in float32; train the adapter again with a lower learning_rate."),
    ],
    ids=str,
)
def test_the_advice_names_what_the_request_uses(
    folders: dict[str, Path], tmp_path: Path, dtype: Dtype, with_adapter: bool, advice: str
) -> None:
    folder = broken(folders["llama"], tmp_path / "broken", PLACES["llama"]["gate"], math.inf)
    base = load(folder, "tiny", device=Device.CPU, dtype=dtype)
    adapter = None
    if with_adapter:
        adapter = AdapterRegistry(base).attach("a@1", make_adapter(folders["llama"], tmp_path / "adapter"))
    with pytest.raises(NotFinite) as caught:
        finish(begin(base, spec(PROMPT, max_tokens=8), adapter))
    assert str(caught.value) == f"The model's logits are not finite numbers {advice}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", train_rows=4, held_out_rows=0)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", train_rows=4, held_out_rows=2)


@pytest.mark.parametrize("trainer", ["fast", "plain"])
@pytest.mark.parametrize(
    ("place", "bad"),
    [
        pytest.param(place, bad, marks=() if (row + column) % len(BAD) == 0 else pytest.mark.long)
        for row, place in enumerate(["embedding", "value", "gate", "last norm", "head"])
        for column, bad in enumerate(BAD)
    ],
)
def test_a_training(folders: dict[str, Path], dataset: Path, tmp_path: Path, place: str, bad: float, trainer: str) -> None:
    base = read_base(broken(folders["llama"], tmp_path / "broken", PLACES["llama"][place], bad))
    settings = TrainerSettings(trainer=trainer, max_steps=2, gradient_accumulation_steps=2)
    job = Job(tmp_path / "job", dataset, LoraSettings(r=2, target_modules=("q_proj",)), settings)
    with pytest.raises(NotFinite, match=r"(loss|gradient) of step 1 is (nan|inf), before anything was trained"):
        job.run(base)
    assert not job.output.exists()


@pytest.mark.parametrize("trainer", ["fast", "plain"])
def test_an_evaluation(folders: dict[str, Path], held_out: Path, tmp_path: Path, trainer: str) -> None:
    base = read_base(broken(folders["llama"], tmp_path / "broken", PLACES["llama"]["value"], math.nan))
    job = Job(tmp_path / "job", held_out, trainer=TrainerSettings(trainer=trainer, max_steps=2))
    with pytest.raises(NotFinite, match="held-out loss is nan, before anything was trained"):
        job.run(base)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", ["embedding", "value", "last norm", "head"])
def test_a_merge(folders: dict[str, Path], tmp_path: Path, place: str, bad: float) -> None:
    adapter = make_adapter(folders["llama"], tmp_path / "adapter")
    folder = broken(folders["llama"], tmp_path / "broken", PLACES["llama"][place], bad)
    with pytest.raises(NotFinite):
        merge(folder, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bad", [math.nan, 1e6], ids=["of a token that no prompt has", "beyond the format"])
def test_a_merge_whose_prompts_do_not_see_it(folders: dict[str, Path], tmp_path: Path, bad: float) -> None:
    adapter, folder = make_adapter(folders["llama"], tmp_path / "adapter"), tmp_path / "broken"
    folder.mkdir()
    for path in folders["llama"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][2, 5] = bad  # <|im_end|>
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFinite, match=r"model.embed_tokens.weight"):
        merge(folder, adapter, tmp_path / "out", dtype=Dtype.FLOAT16, prompts=["sun"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_an_adapter(folders: dict[str, Path], tmp_path: Path, half: str, bad: float, kind: torch.dtype) -> None:
    adapter = make_adapter(folders["llama"], tmp_path / "adapter")
    weights = {name: tensor.to(kind) for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    next(tensor for name, tensor in weights.items() if half in name)[1, 1] = bad
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    base = load(folders["llama"], "tiny", device=Device.CPU, dtype=Dtype.FLOAT32, precision=Precision.INT8)
    with pytest.raises(NotFinite):
        AdapterRegistry(base).attach("a@1", adapter)
    with pytest.raises(NotFinite):
        merge(folders["llama"], adapter, tmp_path / "out")
