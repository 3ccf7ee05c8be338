"""Loading: what is refused and why, and that files on disk no longer matter afterwards."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolorad.domain import Device, Dtype, LoadProgress, LoadStage, Precision
from smolorad.engine.runtime.device import Hardware
from smolorad.errors import Damaged, InvalidRequest, NotFound, SmoloraError, UnsupportedModel
from smolorad.safetensors_file import SafetensorsFile
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, fp32_base, load, spec


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, *, drop: str = "", shape: tuple[str, tuple[int, ...]] | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(drop, None)
    if shape is not None:
        weights[shape[0]] = torch.zeros(shape[1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSED: list[tuple[str, Any, type[SmoloraError], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), UnsupportedModel, "config.json"),
    ("its own code", lambda f: change_config(f, auto_map={"AutoModel": "evil.Model"}), UnsupportedModel, "auto_map"),
    ("not a language model", lambda f: change_config(f, model_type="vit"), UnsupportedModel, "no causal language model"),
    ("unknown", lambda f: change_config(f, model_type="nonsense"), UnsupportedModel, "nonsense"),
    (
        "a classifier",
        lambda f: change_config(f, architectures=["LlamaForSequenceClassification"]),
        UnsupportedModel,
        "Sequence",
    ),
    ("quantised", lambda f: change_config(f, quantization_config={"quant_method": "gptq"}), UnsupportedModel, "quantised"),
    ("a word for a number", lambda f: change_config(f, num_attention_heads="nine"), Damaged, "json cannot be used .*'nine'"),
    ("no safetensors", lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), UnsupportedModel, "pickle"),
    ("cut short", truncate, Damaged, "damaged"),
    ("a weight missing", lambda f: change_weights(f, drop="model.norm.weight"), Damaged, "lack model.norm.weight"),
    ("another shape", lambda f: change_weights(f, shape=("model.norm.weight", (3,))), Damaged, "do not fit"),
    ("tokenizer cut short", lambda f: (f / "tokenizer.json").write_text("{"), Damaged, "tokenizer"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_with_a_reason(spoil: Any, error: type[SmoloraError], words: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    spoil(folder)
    with pytest.raises(error, match=words):
        fp32_base(folder)


def test_headers_are_read_once_though_the_native_step_cannot_take_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = tiny_model(tmp_path, "bamba"), []
    read = SafetensorsFile.open
    monkeypatch.setattr(SafetensorsFile, "open", lambda path, *args: (opened.append(path.name), read(path, *args))[1])
    assert load(folder, hardware=Hardware()).native is None
    assert opened == ["model.safetensors"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        fp32_base(tmp_path / "nowhere")


def test_keys_that_choose_code_are_dropped(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    change_config(folder, _attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel", _x={"auto_map": {}})
    base = fp32_base(folder)
    assert base.model.config._attn_implementation == "sdpa"
    assert not hasattr(base.model.config, "_x")


def test_a_loaded_model_no_longer_depends_on_its_file(tmp_path: Path) -> None:
    base = fp32_base(tiny_model(tmp_path))
    before = finish(begin(base, spec("A", max_tokens=8)))[1].token_ids
    with (tmp_path / "model.safetensors").open("r+b") as f:
        f.seek(20_000)
        f.write(bytes(100_000))
    assert finish(begin(base, spec("A", max_tokens=8)))[1].token_ids == before
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert finish(begin(base, spec("A", max_tokens=8)))[1].token_ids == before


def test_stages_and_the_chosen_format(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    stages: list[LoadProgress] = []
    base = load(folder, "tiny", hardware=Hardware(cpu_bfloat16=True), report=stages.append)
    assert (base.device, base.dtype, base.notes) == (Device.CPU, Dtype.BFLOAT16, ())
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in base.model.parameters())
    assert list(dict.fromkeys(stage.stage for stage in stages)) == [LoadStage.READ, LoadStage.MOVE, LoadStage.WARM_UP]
    size = (folder / "model.safetensors").stat().st_size
    # A model that is met for the first time is described, too, which is said beside it.
    reading = [stage for stage in stages if stage.stage is LoadStage.READ and not stage.detail]
    assert [(stage.done_bytes, stage.total_bytes) for stage in reading] == [(0, size), (size, size)]


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="stands for a machine whose MPS fails at every operation")
def test_a_device_that_fails_gives_way_to_the_cpu_and_the_notes_say_so(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path)
    base = load(folder, "tiny", hardware=Hardware(mps=True))
    assert (base.device, base.dtype) == (Device.CPU, Dtype.FLOAT32)
    assert [note.partition(":")[0] for note in base.notes] == [
        "The self-test refused float32 on mps with sdpa attention",
        "The self-test refused float32 on mps with eager attention",
        "The self-test took float32 on cpu with sdpa attention.",
    ]
    assert finish(begin(base, spec("A", max_tokens=8)))[1].token_ids
    with pytest.raises(UnsupportedModel, match="refused float16 on mps"):
        load(folder, "tiny", device=Device.MPS, dtype=Dtype.FLOAT16, hardware=Hardware(mps=True))


def test_the_fingerprint_is_of_the_weights_alone(tmp_path: Path) -> None:
    one, same, other = (tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert fp32_base(one).fingerprint == fp32_base(same, "another").fingerprint != fp32_base(other).fingerprint


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_a_precision_that_cannot_be_had_is_refused(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InvalidRequest, match="--precision exact"):
        load(tiny_model(tmp_path), "tiny", precision=precision)


@pytest.mark.parametrize(
    ("architecture", "decoder"), [("llama", "native"), ("gpt2", "native"), ("gpt_neox", "native"), ("mamba", "packed")]
)
def test_who_computes_a_token_is_told(architecture: str, decoder: str, tmp_path: Path) -> None:
    base = load(tiny_model(tmp_path, architecture, **WIDE[architecture]), "tiny", dtype=Dtype.FLOAT32)
    assert base.describe(0.0).decoder == decoder
    packed = load(tmp_path, "tiny", dtype=Dtype.FLOAT32, precision=Precision.INT8).describe(0.0)
    assert packed.decoder == decoder
    assert packed.precision is Precision.INT8
    assert packed.token_bytes < packed.weight_bytes / 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision", [Precision.EXACT, Precision.INT8])
def test_no_tensor_keeps_the_mapped_file(precision: Precision, tmp_path: Path) -> None:
    base = load(tiny_model(tmp_path, "deepseek_v3", hidden_size=64), "tiny", dtype=Dtype.FLOAT32, precision=precision)
    gc.collect()
    assert base.packed is not None
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_memory_of_packed_layers_counts_the_experts_beside_them(tmp_path: Path) -> None:
    wide = {"hidden_size": 64, "n_routed_experts": 16, "moe_intermediate_size": 64}
    base = load(tiny_model(tmp_path, "deepseek_v3", **wide), "tiny", dtype=Dtype.FLOAT32, precision=Precision.INT8)
    experts = sum(parameter.nbytes for name, parameter in base.model.named_parameters() if ".experts." in name)
    told = base.describe(0.0)
    assert experts + told.token_bytes < told.memory_bytes < told.weight_bytes
    assert experts > told.weight_bytes / 4
    assert "int8 holds for its linear layers alone" in told.self_test_notes[1]
    packed = load(
        tiny_model(tmp_path / "mamba", "mamba", **WIDE["mamba"]), "mamba", dtype=Dtype.FLOAT32, precision=Precision.INT8
    )
    assert len(packed.describe(0.0).self_test_notes) == 1


def test_of_half_precision_the_native_decoder_is_said_not_to_read_it(tmp_path: Path) -> None:
    base = load(tiny_model(tmp_path), "tiny", dtype=Dtype.FLOAT16)
    assert base.describe(0.0).decoder == "torch"
    assert base.notes[0].endswith("since its weights are in a number format that the native decoder does not read.")


WIDE: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 64},
    "gpt_neox": {"hidden_size": 64, "num_hidden_layers": 8},
    "gpt2": {"n_embd": 64, "n_layer": 8},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 8},
}
