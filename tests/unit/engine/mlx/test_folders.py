"""A folder quantised by MLX is served, merged and imported as the model that its weights mean."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smolorad.domain import Dtype, PhaseProgress
from smolorad.engine.mlx.modules import Matrix
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.pretrained import fitting_config, pretrained
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.worker.fetch import fetch
from smolorad.engine.worker.merge import merge
from smolorad.engine.worker.progress import no_progress
from smolorad.errors import Damaged, NotFound, SmoloraError, UnsupportedModel
from smolorad.safetensors_file import SafetensorsFile
from tests.mlx import MlxFolder, mlx_folder
from tests.unit.engine.kit import begin, finish, load, make_adapter, plain_model, spec

_PROMPT = "The quick brown fox jumps over"


def read(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as trainings and merges read it."""
    opened = ModelFolder.open(folder)
    return pretrained(opened, fitting_config(opened), dtype=dtype)


def check_same(model: Any, plain: Path) -> None:
    """Whether a model has the weights of a plain folder, and so its logits."""
    expected = plain_model(plain)
    there = expected.state_dict()
    found = model.state_dict()
    assert found.keys() == there.keys()
    assert [name for name, tensor in there.items() if not torch.equal(found[name], tensor)] == []
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, expected(input_ids=ids).logits)


def answer(folder: Path) -> list[int]:
    """What the engine answers before torch is imported."""
    base = load(folder, dtype=Dtype.FLOAT32, hardware=Hardware())
    assert base.runner is None
    return list(finish(begin(base, spec(_PROMPT, max_tokens=8)))[1].token_ids)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> MlxFolder:
    return mlx_folder(tmp_path_factory.mktemp("mlx") / "model")


@pytest.fixture
def folder(llama: MlxFolder, tmp_path: Path) -> MlxFolder:
    """A copy to change."""
    return MlxFolder(shutil.copytree(llama.path, tmp_path / "model"), llama.plain)


@pytest.mark.parametrize("variant", ["llama", "gpt 2", "gpt neox", "mixtral", "qwen 3 moe"])
def test_a_family(variant: str, tmp_path: Path) -> None:
    made = mlx_folder(tmp_path / "model", variant)
    check_same(read(made.path), made.plain)
    base = load(made.path, dtype=Dtype.FLOAT32, hardware=Hardware())
    assert base.runner is None, "it is served without torch"
    check_same(base.transformers_model().model, made.plain)  # what a training is given
    assert answer(made.path) == answer(made.plain)


def test_some_modules_are_packed_otherwise_or_not_at_all(tmp_path: Path) -> None:
    own = {
        "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64},
        "model.layers.1.mlp.down_proj": {"bits": 3, "group_size": 128, "mode": "affine"},
        "model.layers.1.self_attn.q_proj": False,
        "model.embed_tokens": {"bits": 6, "group_size": 32},
    }
    made = mlx_folder(tmp_path / "model", modules=own)
    check_same(read(made.path), made.plain)


def test_what_does_not_make_groups_stays_plain(tmp_path: Path) -> None:
    made = mlx_folder(tmp_path / "model", group_size=128)  # but for the matrices of 128 columns
    stored = {tensor.format for file in ModelFolder.open(made.path).weights for tensor in file.tensors}
    assert stored == {"F32"}
    check_same(read(made.path), made.plain)


def test_several_files(folder: MlxFolder) -> None:
    tensors = load_file(folder.path / "model.safetensors")
    (folder.path / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    placed = {name: shards[at % 2] for at, name in enumerate(sorted(tensors))}  # weights and their scales apart
    for shard in shards:
        save_file({name: tensors[name] for name, where in placed.items() if where == shard}, folder.path / shard)
    (folder.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    check_same(read(folder.path), folder.plain)
    assert answer(folder.path) == answer(folder.plain)


@pytest.mark.parametrize(("dtype", "format"), [(torch.bfloat16, "BF16"), (torch.float16, "F16")])
def test_an_import_is_a_plain_folder(dtype: torch.dtype, format: str, tmp_path: Path) -> None:
    made = mlx_folder(tmp_path / "model", dtype=dtype)
    phases: list[PhaseProgress] = []
    fetched = fetch(str(made.path), output=tmp_path / "copy", cache=tmp_path, report=phases.append)
    copy = tmp_path / "copy"
    assert {path.name for path in copy.iterdir()} == {path.name for path in made.plain.iterdir()}
    config = json.loads((copy / "config.json").read_text())
    assert config == json.loads((made.plain / "config.json").read_text())
    opened = ModelFolder.open(copy)
    assert {tensor.format for tensor in opened.tensors} == {format}
    assert fetched.facts == opened.inspect()
    assert fetched.facts.parameters == ModelFolder.open(made.path).inspect().parameters
    expected = load_file(made.plain / "model.safetensors")
    found = load_file(copy / "model.safetensors")
    assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in expected.items())
    assert {"convert", "copy", "read"} <= {phase.phase for phase in phases}


def test_a_merge_is_a_plain_folder(folder: MlxFolder, tmp_path: Path) -> None:
    adapter = make_adapter(folder.plain, tmp_path / "adapter")
    merge(folder.path, adapter, tmp_path / "merged")
    merge(folder.plain, adapter, tmp_path / "expected")
    assert "quantization" not in (tmp_path / "merged" / "config.json").read_text()
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "expected"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_fingerprint_is_that_of_the_files(folder: MlxFolder, tmp_path: Path) -> None:
    path = folder.path / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    opened = ModelFolder.open(folder.path)
    assert opened.fingerprint() == opened.fingerprint({"model.safetensors": digest})
    assert opened.fingerprint() != opened.fingerprint({"model.safetensors": "0" * 64})
    assert opened.size == path.stat().st_size
    # In the hub's cache the file is a link to its content, which is called by its sum.
    (blobs := tmp_path / "blobs").mkdir()
    path.rename(blobs / digest)
    path.symlink_to(blobs / digest)
    assert ModelFolder.open(folder.path).fingerprint() == opened.fingerprint()
    path.unlink()
    (blobs / digest).rename(blobs / ("0" * 64))
    path.symlink_to(blobs / ("0" * 64))
    with pytest.raises(Damaged, match="not as it was published"):
        ModelFolder.open(folder.path).fingerprint()


def test_a_file_that_changes(folder: MlxFolder) -> None:
    opened = ModelFolder.open(folder.path)
    path = folder.path / "model.safetensors"
    os.utime(path, (1, 1))
    with pytest.raises(Damaged, match="was changed"):
        pretrained(opened, fitting_config(opened), dtype=torch.float32)
    path.unlink()
    with pytest.raises(NotFound, match="is gone"):
        pretrained(opened, fitting_config(opened), dtype=torch.float32)


def test_a_file_that_changes_while_it_is_read(folder: MlxFolder) -> None:
    path = folder.path / "model.safetensors"
    file = SafetensorsFile.open(path, "")
    tensor = next(one for one in file.tensors if len(one.shape) == 2)
    with path.open("rb", buffering=0) as opened:
        rows = Matrix(file, tensor)
        rows.rows(opened, 0, 1)
        os.utime(path, (1, 1))
        with pytest.raises(Damaged, match="was changed"):
            rows.rows(opened, 1, 1)


def test_code_of_its_own_is_not_run(folder: MlxFolder) -> None:
    change_config(folder.path, auto_map={"AutoConfig": "there_is_none.Config"})
    opened = ModelFolder.open(folder.path, trust_remote_code=True)
    check_same(pretrained(opened, fitting_config(opened), dtype=torch.float32), folder.plain)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def says(quantization: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, quantization=quantization, quantization_config=quantization)


_DOWN = "model.layers.0.mlp.down_proj"


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        (folder / "model.safetensors.index.json").unlink()

    return changed


def put(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return with_tensors(lambda tensors: tensors.update({name: change(tensors[name])}))


_AFFINE = {"group_size": 32, "bits": 4}
DAMAGES: list[tuple[Callable[[Path], None], type[SmoloraError], str]] = [
    (says("4bit"), Damaged, "'4bit' as quantization, which must be an object"),
    (says({"bits": 4}), Damaged, "without group_size"),
    (says({"group_size": 64}), Damaged, "without bits"),
    (says(_AFFINE | {"bits": 7}), Damaged, "7 as bits in its quantization, and MLX has 1, 2, 3, 4, 5, 6, 8"),
    (says(_AFFINE | {"bits": True}), Damaged, "True as bits"),
    (says(_AFFINE | {"bits": [4]}), Damaged, r"\[4\] as bits"),
    (says(_AFFINE | {"group_size": 0}), Damaged, "0 as group_size"),
    (says(_AFFINE | {"group_size": 64}), Damaged, "scales of the shape"),
    (says(_AFFINE | {"bits": 8}), Damaged, "scales of the shape"),
    (says(_AFFINE | {"mode": "of_next_year"}), UnsupportedModel, "in the mode 'of_next_year', which smolora does not read"),
    (says(_AFFINE | {"mode": ["affine"]}), UnsupportedModel, "which smolora does not read"),
    (says(_AFFINE | {"mode": "mxfp4"}), Damaged, "has scales as F32"),
    (says(_AFFINE | {_DOWN: 3}), Damaged, f"3 as quantization of {_DOWN}"),
    (says(_AFFINE | {_DOWN: {"bits": 9}}), Damaged, f"9 as bits of {_DOWN}"),
    (says(_AFFINE | {_DOWN: False}), Damaged, "is packed, and its config says that it is not"),
    (says(_AFFINE | {_DOWN: {"global_scale": True}}), UnsupportedModel, "with a `global_scale`"),
    (with_tensors(lambda tensors: tensors.pop(f"{_DOWN}.biases")), Damaged, "is packed, and has no biases"),
    (with_tensors(lambda tensors: tensors.pop(f"{_DOWN}.scales")), Damaged, "is packed, and has no scales"),
    (with_tensors(lambda tensors: tensors.pop(f"{_DOWN}.weight")), Damaged, f"lack {_DOWN}.weight"),
    (put(f"{_DOWN}.scales", lambda one: one[:-1]), Damaged, "has scales of the shape"),
    (put(f"{_DOWN}.biases", lambda one: one.half()), Damaged, "scales as F32 and biases as F16"),
    (put(f"{_DOWN}.scales", lambda one: one.int()), Damaged, "has scales as I32"),
    (put(f"{_DOWN}.weight", lambda one: one[:, :-1]), Damaged, "which is no groups of 32 with 4 bits"),
    (put(f"{_DOWN}.weight", lambda one: one[0]), Damaged, "scales of the shape|is no groups"),
    (put(f"{_DOWN}.weight", lambda one: one[:0]), Damaged, "has no numbers"),
    (put("model.norm.weight", lambda one: one.long()), UnsupportedModel, "a method that its config does not name"),
    (with_tensors(lambda tensors: tensors.update(mask=torch.ones(2).long())), UnsupportedModel, "has mask as I64"),
    (lambda folder: change_config(folder, model_type="qwen3_next"), UnsupportedModel, "'qwen3_next'; load the model"),
    (lambda folder: change_config(folder, quantization=None, quantization_config=None), UnsupportedModel, "quantised by MLX"),
    (lambda folder: change_config(folder, intermediate_size=96), Damaged, "do not fit"),
    (lambda folder: change_config(folder, num_hidden_layers=2), Damaged, "has no such layer"),
]


@pytest.mark.parametrize(("damage", "error", "words"), DAMAGES, ids=[f"{at} {one[2]}" for at, one in enumerate(DAMAGES)])
def test_one_sentence_says_what_is_wrong(
    damage: Callable[[Path], None], error: type[SmoloraError], words: str, folder: MlxFolder, tmp_path: Path
) -> None:
    damage(folder.path)
    with pytest.raises(error, match=words) as refused:
        load(folder.path, "mine", dtype=Dtype.FLOAT32, hardware=Hardware())
    assert refused.value.message.count(". ") == 0
    assert len(refused.value.message) < 400


def test_an_import_that_is_refused_leaves_nothing(folder: MlxFolder, tmp_path: Path) -> None:
    put(f"{_DOWN}.scales", lambda one: one[:-1])(folder.path)
    with pytest.raises(Damaged):
        fetch(str(folder.path), output=tmp_path / "copy", cache=tmp_path, report=no_progress)
    assert not (tmp_path / "copy").exists()
