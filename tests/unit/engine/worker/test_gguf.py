"""The folder of a GGUF model in the cache: made once, again where it is damaged, and not at all where anything fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smolorad.domain import PhaseProgress
from smolorad.engine.gguf import tokenizer
from smolorad.engine.gguf.weights import GgufWeights
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.worker import gguf
from smolorad.engine.worker.fetch import fetch
from smolorad.engine.worker.gguf import ensure_folder
from smolorad.engine.worker.progress import no_progress
from smolorad.errors import Cancelled, Damaged, SmoloraError, UnsupportedModel
from smolorad.gguf import gguf_files
from tests.gguf_kit import CASES, Arrays, Case, Keys, keys_of, tensors_of, tokenizer_keys, write_case, write_file
from tests.unit.engine.gguf.raw import model_file


def case_of(variant: str, scaling: str = "") -> Case:
    return next(
        c for c in CASES if c.variant == variant and scaling in ("", c.changes.get("rope_parameters", {}).get("rope_type"))
    )


LLAMA = case_of("llama, tied", "llama3")
SMALL = {"num_hidden_layers": 1}


def written(case: Case, **changes: Any) -> tuple[dict[str, Any], Arrays]:
    """All keys by their full names, and the tensors."""
    model = case.model(**changes)
    own = {f"{case.architecture}.{name}": content for name, content in keys_of(case, model.config).items()}
    return {"general.architecture": case.architecture, **own, **tokenizer_keys()}, tensors_of(case, model)


def made(cache: Path) -> list[Path]:
    """All that is in the cache of GGUF models, what is hidden included."""
    return list((cache / "gguf").iterdir()) if (cache / "gguf").is_dir() else []


def assert_refused(path: Path, cache: Path, kind: type[SmoloraError] = SmoloraError) -> str:
    with pytest.raises(kind) as caught:
        ensure_folder(gguf_files(path), cache, no_progress)
    message = caught.value.message
    assert message.isprintable()
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert len(message) < 700
    assert made(cache) == []
    return message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_case(tmp_path / "model.gguf", LLAMA, LLAMA.model(**SMALL))


def test_a_folder_is_made_once(model: Path, tmp_path: Path) -> None:
    phases: list[PhaseProgress] = []
    folder = ensure_folder((model,), tmp_path / "cache", phases.append)
    size = model.stat().st_size
    assert phases[-1] == PhaseProgress("convert", 1, 1, "model")
    assert PhaseProgress("read", size, size, "bytes") in phases
    phases.clear()
    assert ensure_folder((model,), tmp_path / "cache", phases.append) == folder
    assert phases == []
    facts = ModelFolder.open(folder).inspect()
    moved = tmp_path / "elsewhere" / "other.gguf"
    moved.parent.mkdir()
    model.rename(moved)
    assert ModelFolder.open(ensure_folder((moved,), tmp_path / "cache", no_progress)).inspect() == facts


@pytest.mark.parametrize("file", ["gguf.json", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_folder_is_made_again(file: str, damage: str, model: Path, tmp_path: Path) -> None:
    folder = ensure_folder((model,), tmp_path / "cache", no_progress)
    content = (folder / file).read_bytes()
    match damage:
        case "cut":
            (folder / file).write_bytes(content[:-9])
        case "gone":
            (folder / file).unlink()
        case "flipped":
            (folder / file).write_bytes(content.replace(b"1", b"2"))
    assert ensure_folder((model,), tmp_path / "cache", no_progress) == folder
    assert (folder / file).read_bytes() == content
    assert made(tmp_path / "cache") == [folder]


def test_a_changed_file_gets_a_folder_of_its_own(model: Path, tmp_path: Path) -> None:
    first = ensure_folder((model,), tmp_path / "cache", no_progress)
    write_case(model, LLAMA, LLAMA.model(**SMALL, seed=5))
    os.utime(model, ns=(1, 1))
    with pytest.raises(Damaged, match="was changed or cut short since it was read"):
        ModelFolder.open(first).inspect()
    second = ensure_folder((model,), tmp_path / "cache", no_progress)
    assert second != first
    assert ModelFolder.open(second).inspect()


def test_a_file_that_changes_while_its_folder_is_made(model: Path, tmp_path: Path) -> None:
    def report(progress: PhaseProgress) -> None:
        if progress.phase == "read":
            with model.open("r+b") as file:
                file.seek(-8, os.SEEK_END)
                file.write(b"\1" * 8)

    with pytest.raises(Damaged, match=r"model\.gguf was changed while it was read; load the model again"):
        ensure_folder((model,), tmp_path / "cache", report)
    assert made(tmp_path / "cache") == []


def test_work_that_is_stopped(model: Path, tmp_path: Path) -> None:
    def report(progress: PhaseProgress) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        ensure_folder((model,), tmp_path / "cache", report)
    assert made(tmp_path / "cache") == []


@pytest.mark.parametrize("at", ["write_tokenizer", "layout"])
def test_a_full_disk(at: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((tokenizer, at, full) if at == "write_tokenizer" else (Path, "write_bytes", full)))
        with pytest.raises(OSError, match="No space left"):
            ensure_folder((model,), tmp_path / "cache", no_progress)
    assert made(tmp_path / "cache") == []
    assert ensure_folder((model,), tmp_path / "cache", no_progress).is_dir()


def test_two_at_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, one, make, found = threading.Barrier(2, timeout=60), threading.Lock(), gguf._make, []

    def make_together(*args: Any) -> None:
        with one:  # transformers turns initialising off for all threads
            make(*args)
        both.wait()

    monkeypatch.setattr(gguf, "_make", make_together)
    threads = [
        threading.Thread(target=lambda: found.append(ensure_folder((model,), tmp_path / "cache", no_progress)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert made(tmp_path / "cache") == [found[0]]
    assert ModelFolder.open(found[0]).inspect()


def test_folders_of_files_that_are_gone_are_removed(model: Path, tmp_path: Path) -> None:
    """When another is made; those of files that are still there stay."""
    cache, copies = tmp_path / "cache", [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    folders = []
    for copy in copies:
        shutil.copyfile(model, copy)
        folders.append(ensure_folder((copy,), cache, no_progress))
        if copy is copies[1]:
            copies[0].unlink()
    assert sorted(made(cache)) == sorted(folders[1:])


@pytest.mark.long
def test_two_processes_at_once(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from smolorad.engine.worker.gguf import ensure_folder\n"
        "for at in range(5): print(ensure_folder((Path(sys.argv[1]),), Path(sys.argv[2], str(at)), lambda one: None))"
    )
    command = [sys.executable, "-c", code, str(model), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert said[0] == said[1]
    for line in said[0].splitlines():
        assert made(Path(line).parent.parent) == [Path(line)]
        assert ModelFolder.open(Path(line)).inspect()


def test_a_model_of_three_files(tmp_path: Path) -> None:
    keys, arrays = written(LLAMA)
    model = {name.removeprefix("llama."): content for name, content in keys.items() if name != "general.architecture"}
    whole = write_file(tmp_path / "whole.gguf", "llama", model, arrays)
    names = sorted(arrays)
    paths = []
    for at in range(3):
        split = {"split.no": at, "split.count": 3, "split.tensors.count": len(names)}
        own: Keys = split | model if at == 0 else split
        path = tmp_path / "split" / f"model-{at + 1:05}-of-00003.gguf"
        paths.append(write_file(path, "llama", own, {name: arrays[name] for name in names[at::3]}))
    expected = GgufWeights.open(ensure_folder((whole,), tmp_path / "cache", no_progress))
    found = GgufWeights.open(ensure_folder(gguf_files(paths[2]), tmp_path / "cache", no_progress))
    assert len(found.sums({})) == 3
    assert found.tensors == expected.tensors
    for tensor in found.tensors:
        np.testing.assert_array_equal(*(np.concatenate(list(one.read(tensor.name))) for one in (found, expected)))
    paths[0].rename(tmp_path / "moved")
    paths[1].rename(paths[0])
    (tmp_path / "moved").rename(paths[1])
    with pytest.raises(Damaged, match="says it is file 2 of 3, not 1 of 3"):
        ensure_folder(gguf_files(paths[0]), tmp_path / "cache", no_progress)
    paths[0].write_bytes(whole.read_bytes())
    with pytest.raises(Damaged, match="says it is file 1 of 1, not 1 of 3"):
        ensure_folder(gguf_files(paths[0]), tmp_path / "cache", no_progress)
    paths[0].write_bytes(paths[1].read_bytes())
    write_file(
        paths[1], "llama", {"split.no": 1, "split.count": 3, "split.tensors.count": len(names)}, {"other": arrays[names[0]]}
    )
    with pytest.raises(Damaged, match=r"have \d+ tensors, not"):
        ensure_folder(gguf_files(paths[0]), tmp_path / "cache", no_progress)
    assert len(made(tmp_path / "cache")) == 2


def test_a_folder_with_one_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mmproj-model.gguf").write_bytes(model.read_bytes()[:100])
    fetched = fetch(str(tmp_path), output=None, cache=tmp_path / "cache", report=no_progress)
    assert fetched.path == str(ensure_folder((model,), tmp_path / "cache", no_progress))
    assert fetched.facts.architecture == "llama"


Change = Callable[[dict[str, Any], Arrays], object]
_TYPE = "general.architecture"
_UP, _FACTORS = "blk.0.ffn_up.weight", "rope_freqs.weight"
WHOLE: Mapping[str, int] = {"block_count": 1, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}


def key(name: str, content: Any) -> Change:
    return lambda keys, arrays: keys.update({name: content})


def array(name: str, make: Callable[[Any], Any]) -> Change:
    return lambda keys, arrays: arrays.update({name: np.ascontiguousarray(make(arrays[name]))})


BROKEN: Mapping[str, tuple[Change, str]] = {
    "no architecture": (lambda keys, arrays: keys.pop(_TYPE), "has no general.architecture"),
    "an architecture that is a number": (key(_TYPE, 3), "has '3' as general.architecture"),
    "a layer that is not there": (key("llama.block_count", 2), "has no tensor for model.layers.1."),
    "a tensor that is not there": (lambda keys, arrays: arrays.pop(_UP), "has no tensor for model.layers.0.mlp"),
    "no embedding": (lambda keys, arrays: arrays.pop("token_embd.weight"), "has no tensor token_embd.weight"),
    "a token without an embedding": (array("token_embd.weight", lambda one: one[:-1]), "has 400 tokens, and embeddings of 399"),
    "a narrow tensor": (
        array(_UP, lambda one: one[:, :-1]),
        r"has blk.0.ffn_up.weight in the shape \[96, 63\], which cannot be model.layers.0.mlp.up_proj.weight with \[96, 64\]",
    ),
    "a tensor the other way around": (
        array(_UP, lambda one: one.T),
        r"ffn_up.weight in the shape \[64, 96\], which cannot",
    ),
    "factors of another number": (array(_FACTORS, lambda one: one[:5]), "has 5 numbers in rope_freqs.weight, not 12"),
    "a factor of 0": (array(_FACTORS, lambda one: one * 0), "a number in rope_freqs.weight that divides nothing"),
    "a factor that is no number": (array(_FACTORS, lambda one: one * np.float32(np.nan)), "that divides nothing"),
    "factors as a matrix": (array(_FACTORS, lambda one: one.reshape(3, 4)), "as no short list of numbers"),
    "endless factors": (array(_FACTORS, lambda one: np.ones(2**15, np.float32)), "as no short list of numbers"),
    "a base of 0": (key("llama.rope.freq_base", 0.0), "has '0.0' as llama.rope.freq_base"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_is_damaged(what: str, tmp_path: Path) -> None:
    change, said = BROKEN[what]
    keys, arrays = written(LLAMA, **SMALL)
    change(keys, arrays)
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(keys, arrays))
    with pytest.raises(Damaged, match=said):
        ensure_folder((path,), tmp_path / "cache", no_progress)
    assert_refused(path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general.type": "adapter"}, "is of the kind 'adapter', and no model"),
        ({"general.type": "mmproj", _TYPE: "clip"}, "is of the kind 'mmproj'"),
        ({_TYPE: "clip"}, "projects images for a model, and is no language model; choose the model's own file"),
        ({_TYPE: "mamba"}, "is a 'mamba', which smolora does not read from GGUF"),
        ({_TYPE: "a\n\x1b[31m" * 30}, "which smolora does not read from GGUF"),
        ({"llama.rope.scaling.type": "x\n"}, r"scales RoPE by 'x\\n', which is not known"),
        ({"llama.rope.dimension_count": 10}, "rotates 10 of 24 numbers of a head"),
    ],
)
def test_a_model_that_is_not_read(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    there, arrays = written(LLAMA, **SMALL)
    arrays.pop("rope_freqs.weight")
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(there | keys, arrays))
    with pytest.raises(UnsupportedModel, match=said):
        ensure_folder((path,), tmp_path / "cache", no_progress)
    assert_refused(path, tmp_path / "cache", UnsupportedModel)


def test_a_tensor_that_the_class_does_not_have(tmp_path: Path) -> None:
    keys, arrays = written(LLAMA, **SMALL)
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(keys, arrays | {"blk.0.x\n": np.ones(3, np.float32)}))
    message = assert_refused(path, tmp_path / "cache", UnsupportedModel)
    assert "LlamaForCausalLM has none like it" in message


EVERY_LIE = (0, -1, 2**31 - 1, "\n\x1b", [1, 2], float("nan"), 1e300)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", {case.architecture: case for case in CASES}.values(), ids=lambda case: case.architecture)
def test_every_key_that_lies(case: Case, tmp_path: Path) -> None:
    keys, arrays = written(case)
    path = tmp_path / "model.gguf"
    for name in [name for name in keys if name.startswith(case.architecture)]:
        for lie in EVERY_LIE:
            path.write_bytes(model_file(keys | {name: lie}, arrays))
            begun = time.monotonic()
            try:
                shutil.rmtree(ensure_folder((path,), tmp_path / "cache", no_progress))
            except SmoloraError:
                assert_refused(path, tmp_path / "cache")
            assert time.monotonic() - begun < 5, (name, lie)


LIES = (0, -1, 2**31 - 1, 2**32 - 1, 2**63, True, "x", "\n\x1b", [1, 2], ["x"], float("nan"), float("inf"), 1e300)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", WHOLE)
def test_counts_that_lie(name: str, tmp_path: Path) -> None:
    keys, arrays = written(LLAMA, **SMALL)
    path = tmp_path / "model.gguf"
    for lie in LIES:
        path.write_bytes(model_file(keys | {f"llama.{name}": lie}, arrays))
        assert_refused(path, tmp_path / "cache")


@pytest.mark.parametrize("variant", ["falcon, new", "granite", "gemma 2", "phi 3, windows"])
def test_heads_without_width(variant: str, tmp_path: Path) -> None:
    case = case_of(variant)
    keys, arrays = written(case)
    path = tmp_path / "model.gguf"
    for name in ("attention.key_length", "attention.head_count", "embedding_length"):
        path.write_bytes(model_file(keys | {f"{case.architecture}.{name}": 0}, arrays))
        assert_refused(path, tmp_path / "cache", Damaged)


@pytest.mark.timeout(30)
def test_groups_without_end(tmp_path: Path) -> None:
    keys, arrays = written(case_of("falcon, one key"))
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(keys | {"falcon.attention.head_count_kv": 2**31 - 1}, arrays))
    assert "attn_qkv.weight in the shape [96, 64], which cannot be" in assert_refused(path, tmp_path / "cache", Damaged)


@pytest.mark.parametrize("used", [0, 7])
def test_experts_that_cannot_be_used(used: int, tmp_path: Path) -> None:
    keys, arrays = written(case_of("qwen 3 moe, normed"), **SMALL)
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(keys | {"qwen3moe.expert_used_count": used}, arrays))
    assert f"has '{used}' as qwen3moe.expert_used_count" in assert_refused(path, tmp_path / "cache", Damaged)


def config_without(variant: str, name: str, tmp_path: Path) -> dict[str, Any]:
    case = case_of(variant)
    keys, arrays = written(case)
    del keys[f"{case.architecture}.{name}"]
    path = tmp_path / "model.gguf"
    path.write_bytes(model_file(keys, arrays))
    return json.loads((ensure_folder((path,), tmp_path / "cache", no_progress) / "config.json").read_bytes())


def test_windows_that_files_do_not_name(tmp_path: Path) -> None:
    assert config_without("gemma 2", "attention.sliding_window", tmp_path)["sliding_window"] == 4096
    full = config_without("gemma 3", "attention.sliding_window", tmp_path)
    assert full["sliding_window"] == full["max_position_embeddings"]  # the class wants a number
    assert set(full["layer_types"]) == {"full_attention"}
    with pytest.raises(Damaged, match=r"has no cohere2\.attention\.sliding_window"):
        config_without("cohere 2", "attention.sliding_window", tmp_path)
