"""Numbers of every quantisation are those of the gguf library, whatever rows are read, in whatever order and pieces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from smolorad.engine.gguf import weights
from smolorad.engine.gguf.layout import File, Layout, Parameter, Part, Source
from smolorad.engine.gguf.weights import GgufWeights
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.model.pretrained import fitting_config, pretrained
from smolorad.engine.worker.fetch import fetch
from smolorad.engine.worker.progress import no_progress
from smolorad.errors import Damaged, NotFound, UnsupportedModel
from smolorad.safetensors_file import StoredTensor, version_of
from tests.gguf_kit import CASES, Case, keys_of, tensors_of, tokenizer_keys, write_case, write_file
from tests.unit.engine.gguf.conftest import MakeFolder

ROWS, BLOCKS = 24, 2
DECODED = sorted(quants._type_traits)
LLAMA = next(case for case in CASES if case.variant == "llama, tied")


def random_rows(type: Type, rows: int = ROWS, seed: int = 0) -> NDArray[np.uint8]:
    """Random bytes whose numbers are finite: (rows, bytes of a row)."""
    _, nbytes = GGML_QUANT_SIZES[type]
    drawn = np.random.default_rng(seed).integers(0, 256, (8 * rows * BLOCKS, nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(quants.dequantize(drawn, type)).all(axis=1)
    return np.ascontiguousarray(drawn[finite][: rows * BLOCKS]).reshape(rows, BLOCKS * nbytes)


def weights_of(path: Path, type: Type, raw: NDArray[np.uint8], parameters: dict[str, Parameter]) -> GgufWeights:
    """The weights of a file that is nothing but one tensor behind some bytes."""
    path.write_bytes(b"?" * 7 + raw.tobytes())
    block, nbytes = GGML_QUANT_SIZES[type]
    source = Source(0, int(type), 7, len(raw), raw.shape[1] // nbytes * block, raw.shape[1])
    stat = path.stat()
    layout = Layout((File(str(path), stat.st_size, version_of(stat), "0"),), {"t": source}, parameters)
    return GgufWeights(layout, tuple(StoredTensor(name, one.format, one.shape, 0, 0) for name, one in parameters.items()))


def numbers(found: GgufWeights, name: str, columns: int) -> NDArray[Any]:
    return np.concatenate([piece.reshape(-1, columns) for piece in found.read(name)])


@pytest.mark.parametrize("chunk", [1, 700, 2**20])
@pytest.mark.parametrize("type", DECODED, ids=lambda type: type.name)
def test_every_quantisation(type: Type, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_CHUNK", chunk)
    raw = random_rows(type)
    expected = quants.dequantize(raw, type)
    columns = expected.shape[1]
    halves = expected.reshape(-1, 3, 2, columns).swapaxes(1, 2).reshape(ROWS, columns)
    parameters = {
        "all": Parameter((ROWS, columns), "BF16", (Part("t", 0, ROWS),)),
        "some": Parameter((5, columns), "BF16", (Part("t", 11, 2), Part("t", 3, 3))),
        "pairs": Parameter((ROWS, columns), "BF16", (Part("t", 0, ROWS, 3),)),
        "some pairs": Parameter((6, columns), "BF16", (Part("t", 12, 6, 3),)),
        "less one": Parameter((ROWS, columns), "BF16", (Part("t", 0, ROWS),), 1.0),
        "columns": Parameter((columns, ROWS), "BF16", (Part("t", 0, ROWS),), transposed=True),
    }
    found = weights_of(tmp_path / "file", type, raw, parameters)
    if type == Type.BF16:  # as the file has them
        whole = numbers(found, "all", columns)
        assert whole.dtype == np.uint16
        np.testing.assert_array_equal(whole.view(np.int16), raw.view(np.int16))
        return
    np.testing.assert_array_equal(numbers(found, "all", columns), expected)
    np.testing.assert_array_equal(numbers(found, "some", columns), expected[[11, 12, 3, 4, 5]])
    np.testing.assert_array_equal(numbers(found, "pairs", columns), halves)
    np.testing.assert_array_equal(numbers(found, "some pairs", columns), halves[12:18])
    np.testing.assert_array_equal(numbers(found, "less one", columns), expected - np.float32(1))
    np.testing.assert_array_equal(numbers(found, "columns", ROWS), expected.T)


@pytest.mark.parametrize("type", [Type.F32, Type.F16, Type.BF16], ids=lambda type: type.name)
def test_an_offset_of_every_plain_format(type: Type, tmp_path: Path) -> None:
    values = np.array([1.0, 1.5, -2.25, 3.0], np.float32)
    stored = values.astype(np.float16) if type == Type.F16 else values
    raw = (values.view(np.uint32) >> 16).astype(np.uint16) if type == Type.BF16 else stored
    rows = raw.view(np.uint8).reshape(4, -1)
    path = tmp_path / "file"
    found = weights_of(path, type, rows, {"norm": Parameter((4,), "F32", (Part("t", 0, 4),), 1.0)})
    read = np.concatenate(list(found.read("norm")))
    np.testing.assert_array_equal(read.ravel(), values - 1)


@pytest.mark.parametrize("type", [Type.Q8_1, Type.Q8_K, Type.I8, Type.I32, Type.F64, Type.Q1_0], ids=lambda type: type.name)
def test_numbers_that_the_library_does_not_decode(type: Type, tmp_path: Path, make_folder: MakeFolder) -> None:
    model = LLAMA.model(hidden_size=256, num_hidden_layers=1)
    arrays = tensors_of(LLAMA, model)
    path = tmp_path / "model.gguf"
    name = "blk.0.ffn_up.weight"
    rows, columns = arrays[name].shape
    block, nbytes = GGML_QUANT_SIZES[type]
    raw = np.zeros((rows, columns // block * nbytes), np.uint8)
    write_file(path, "llama", keys_of(LLAMA, model.config) | tokenizer_keys(), arrays | {name: raw}, raw={name: type})
    with pytest.raises(UnsupportedModel, match=rf"model\.gguf has {name} as {type.name}, which .* choose a file in another"):
        make_folder(path)


def quantised(case: Case, model: Any, path: Path, type: Type) -> Path:
    """A file whose matrices are quantised, as tools do it: neither norms nor biases."""
    formats = {name: type for name, array in tensors_of(case, model).items() if array.ndim > 1 and "norm" not in name}
    return write_case(path, case, model, formats)


@pytest.mark.parametrize(
    ("variant", "type"), [("llama, tied", Type.Q4_0), ("gpt 2", Type.Q8_0), ("qwen 3 moe, normed", Type.Q4_0)]
)
def test_a_quantised_file_as_safetensors(variant: str, type: Type, tmp_path: Path, make_folder: MakeFolder) -> None:
    case = next(case for case in CASES if case.variant == variant)
    path = quantised(case, case.model(), tmp_path / "model.gguf", type)
    there = ModelFolder.open(make_folder(path))
    assert any(tensor.format == "BF16" for tensor in there.tensors)
    direct = pretrained(there, fitting_config(there), dtype=torch.float32)
    output = tmp_path / "imported"
    fetched = fetch(str(path), output=output, cache=tmp_path / "cache", report=no_progress)
    assert fetched.facts.architecture == there.architecture
    assert not (output / "gguf.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32).eval()
    with safe_open(output / "model.safetensors", framework="numpy") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == {  # noqa: SIM118
            tensor.name: tensor.shape for tensor in there.tensors
        }
    theirs = dict(loaded.named_parameters())
    for name, parameter in direct.named_parameters():
        kept = parameter if parameter.ndim == 1 else parameter.bfloat16().float()
        assert torch.equal(theirs[name], kept), name
    original = dict(case.model().named_parameters())
    for name, parameter in theirs.items():  # it is the same model, but for the quantisation
        wide = float(original[name].detach().std()) * (0.5 if type == Type.Q4_0 else 0.05)
        assert float((original[name] - parameter).detach().abs().mean()) < wide, name


def test_files_that_changed_after_they_were_read(tmp_path: Path, make_folder: MakeFolder) -> None:
    path = write_case(tmp_path / "model.gguf", LLAMA, LLAMA.model())
    found = GgufWeights.open(make_folder(path))
    reading = found.read("model.embed_tokens.weight")
    next(reading)
    content = path.read_bytes()
    path.write_bytes(content[:-64])
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_proj.weight"):
        with pytest.raises(Damaged, match=r"model\.gguf was changed or cut short since it was read; load the model again"):
            list(found.read(name))
    with pytest.raises(Damaged, match="was changed or cut short"):
        found.sums({})
    path.unlink()
    for call in (lambda: found.sums({}), lambda: list(found.read("model.norm.weight"))):
        with pytest.raises(NotFound, match=r"model\.gguf is gone; bring it back"):
            call()


@pytest.mark.parametrize("same_time", [False, True])
def test_a_file_that_is_written_over_while_it_is_read(
    tmp_path: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, same_time: bool
) -> None:
    monkeypatch.setattr(weights, "_CHUNK", 64)
    path = write_case(tmp_path / "model.gguf", LLAMA, LLAMA.model())
    found = GgufWeights.open(make_folder(path))
    before = path.stat()
    reading = found.read("model.embed_tokens.weight")
    next(reading)
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.truncate() if same_time else file.write(b"\x7f" * 4096)
    if same_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Damaged, match="was changed or cut short"):
        for _ in reading:
            pass
