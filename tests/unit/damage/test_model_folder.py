"""A model folder that is damaged in any way loads, or is refused in one sentence, before memory is taken for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2Tokenizer, GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig

from smolorad import publish
from smolorad.corpus.tokenizer import ModelText
from smolorad.domain import Dtype
from smolorad.engine.model.size_check import Stored, check_fit, left_out
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.worker.adapter_check import check_adapter
from smolorad.engine.worker.merge import merge
from smolorad.engine.worker.merge_prefetch import prefetch
from smolorad.errors import Damaged, SmoloraError, UnsupportedModel
from tests.mutations import Mutation, contained, copied, damage, mutations
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, finish, load, make_adapter, plain_model, spec

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")


def loaded(folder: Path, *, light: bool) -> None:
    """Loads it as the engine does, and asks it for two tokens, which are tokens of the model."""
    hardware = Hardware(cpu_bfloat16=True) if light else None
    base = load(folder, "tiny", dtype=Dtype.FLOAT32, hardware=hardware)
    said = finish(begin(base, spec("The quick brown fox", max_tokens=2)))[1].token_ids
    assert 1 <= len(said) <= 2
    assert set(said) <= set(range(base.embeddings))


# Libraries warn of what they find strange, each in its own words.
pytestmark = [
    pytest.mark.hypothesis,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every small file that a model may have."""
    folder = tiny_model(tmp_path_factory.mktemp("sharded") / "model")
    plain_model(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>", "lstrip": False}}))
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 1, "<|im_end|>": 2}))
    about = {"about": {"origin": "folder"}, "files": publish.describe(folder)}
    (folder / publish.MANIFEST).write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def slow_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer is a vocabulary and its merges."""
    folder = tiny_model(tmp_path_factory.mktemp("slow") / "model", "gpt2")
    Tokenizer.from_file(str(folder / "tokenizer.json")).model.save(str(folder))
    GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), eos_token="<|endoftext|>")
    (folder / "tokenizer.json").unlink()
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in one file."""
    return tiny_model(tmp_path_factory.mktemp("single") / "model")


@pytest.fixture(scope="module")
def adapter(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on it."""
    return make_adapter(single, tmp_path_factory.mktemp("adapter") / "a")


def hit(folder: Path, where: Path, mutation: Mutation, work: Callable[[Path], object]) -> SmoloraError | None:
    with copied(folder, where) as copy:
        mutation.apply(copy)
        return contained(lambda: work(copy))


def test_any_file_read_without_torch(single: Path, where: Path) -> None:
    @damage(60)
    @given(mutations(single))
    def run(mutation: Mutation) -> None:
        hit(single, where, mutation, lambda copy: loaded(copy, light=True))

    run()


def test_any_file_read_by_transformers(sharded: Path, where: Path) -> None:
    @damage(140)
    @given(mutations(sharded))
    def run(mutation: Mutation) -> None:
        hit(sharded, where, mutation, lambda copy: loaded(copy, light=False))

    run()


def test_a_tokenizer_of_several_files(slow_tokenizer: Path, where: Path) -> None:
    names = ["vocab.json", "merges.txt", "tokenizer_config.json"]

    @damage(30)
    @given(mutations(slow_tokenizer, [name for name in names if (slow_tokenizer / name).exists()]))
    def run(mutation: Mutation) -> None:
        hit(slow_tokenizer, where, mutation, lambda copy: loaded(copy, light=False))

    run()


def test_its_tokenizer_read_to_prepare(single: Path, where: Path) -> None:
    def work(copy: Path) -> None:
        text = ModelText(copy / "tokenizer.json")
        assert text.context is None or text.context > 0
        assert text.frame is not None
        assert text.control is not None
        assert text.prompt("The quick brown fox") is not None

    @damage(80)
    @given(mutations(single, ["tokenizer.json", "chat_template.jinja", *CONFIGS]))
    def run(mutation: Mutation) -> None:
        hit(single, where, mutation, work)

    run()


def test_a_base_to_merge_into_and_to_check_an_adapter_on(single: Path, adapter: Path, where: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"

    def work(copy: Path) -> None:
        prefetch(copy)
        contained(lambda: check_adapter(copy, "tiny", adapter))
        merge(copy, adapter, output, prompts=["The quick"])

    @damage(40)
    @given(mutations(single, ["config.json", "model.safetensors", *CONFIGS]))
    def run(mutation: Mutation) -> None:
        refused = hit(single, where, mutation, work)
        assert output.exists() == (refused is None)
        shutil.rmtree(output, ignore_errors=True)

    run()


@pytest.mark.long
@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "jamba", "minimax", "mamba"])
def test_any_file_of_any_architecture(architecture: str, light: bool, where: Path, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", architecture)

    @damage(1000)
    @given(mutations(folder))
    def run(mutation: Mutation) -> None:
        hit(folder, where, mutation, lambda copy: loaded(copy, light=light))

    run()


SIZES: list[tuple[str, str, Any]] = [
    ("llama", "num_hidden_layers", 100_000),
    ("llama", "num_hidden_layers", 10**12),
    ("llama", "num_hidden_layers", 1e300),
    ("llama", "num_hidden_layers", 1),
    ("llama", "num_hidden_layers", 0),
    ("llama", "num_hidden_layers", 700),
    ("llama", "head_dim", 2**20),
    ("llama", "head_dim", 2**40),
    ("llama", "head_dim", 0),
    ("llama", "vocab_size", 10**9),
    ("llama", "vocab_size", 10**13),
    ("llama", "vocab_size", 0),
    ("llama", "vocab_size", -5),
    ("llama", "hidden_size", -48),
    ("llama", "hidden_size", 2**30),
    ("llama", "intermediate_size", 2**40),
    ("llama", "num_attention_heads", 10**9),
    ("llama", "num_key_value_heads", 0),
    ("llama", "max_position_embeddings", 0),
    ("llama", "max_position_embeddings", "x"),
    ("llama", "hidden_act", "nonsense"),
    ("llama", "architectures", 5),
    ("llama", "rope_parameters", {"rope_type": ["linear"]}),
    ("llama", "rope_scaling", [1, 2]),
    ("qwen2", "num_hidden_layers", 10**12),
    ("qwen2", "layer_types", ["full_attention"] * 5),
    ("minimax", "num_local_experts", 10**6),
    ("minimax", "num_local_experts", 10**12),
    ("jamba", "num_experts", 10**6),
    ("jamba", "mamba_d_state", 10**9),
    ("jamba", "attn_layer_period", 0),
    ("gpt2", "n_positions", 10**9),
    ("gpt2", "n_layer", 10**9),
    ("mamba", "state_size", 10**9),
    ("openai-gpt", "n_positions", 10**7),
]


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize(("architecture", "key", "value"), SIZES, ids=lambda value: str(value)[:30])
def test_a_config_that_its_weights_do_not_fit(architecture: str, key: str, value: Any, light: bool, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", architecture)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    refused = contained(lambda: loaded(folder, light=light))
    assert isinstance(refused, Damaged | UnsupportedModel), refused
    assert str(folder) in refused.message or "tiny" in refused.message


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("config.json", b"[" * 100_000 + b"]" * 100_000, Damaged),
        ("config.json", b'{"model_type": "llama", "x": ' + b"[" * 900 + b"]" * 900 + b"}", Damaged),
        ("generation_config.json", b'{"eos_token_id": "x"}', Damaged),
        ("generation_config.json", b'{"eos_token_id": [[1]]}', Damaged),
        ("generation_config.json", b'{"eos_token_id": [1000000000, -1]}', None),
        ("tokenizer_config.json", b'{"model_max_length": "x", "tokenizer_class": "PreTrainedTokenizerFast"}', Damaged),
        ("tokenizer_config.json", b"[]", Damaged),
        ("tokenizer.json", b'{"model": {}}', Damaged),
    ],
)
@pytest.mark.parametrize("light", [True, False])
def test_what_stood_in_other_files(
    file: str, content: bytes, error: type[Exception] | None, light: bool, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "model")
    (folder / file).write_bytes(content)
    refused = contained(lambda: loaded(folder, light=light))
    assert refused is None if error is None else isinstance(refused, error), refused


@pytest.mark.parametrize(
    "more",
    [
        {"block_size": 131_072, "block_sizes": [10**6], "layer_max_positions": 131_072},
        {"max_window_layers": 10**6, "n_layers_total": 10**9, "layers_note": "x"},
        {"unknown": {"layers_by_name": {"a": 10**6}}, "num_blocks": None},
    ],
)
def test_numbers_beside_the_count_of_layers_may_be_anything(more: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | more))
    assert contained(lambda: loaded(folder, light=False)) is None


LAYER = "model.layers.{}.self_attn.{}"


@pytest.mark.parametrize(
    ("unexpected", "left"),
    [
        ([LAYER.format(2, "q_proj.weight"), "model.layers.2.new.weight"], LAYER.format(2, "q_proj.weight")),
        ([LAYER.format(2, "q_proj.weight"), "model.layers.2.eh_proj.weight"], None),  # predicts a further token
        ([LAYER.format(n, "rotary_emb.inv_freq") for n in (0, 1)], None),
        (
            [LAYER.format(2, "q_proj.weight"), *(LAYER.format(n, "rotary_emb.inv_freq") for n in (0, 1, 2))],
            LAYER.format(2, "q_proj.weight"),
        ),
        (
            [LAYER.format(2, "q_proj.weight"), LAYER.format(3, "q_proj.weight"), "model.layers.3.enorm.weight"],
            LAYER.format(2, "q_proj.weight"),
        ),
        ([LAYER.format(1, "k_proj.weight")], None),  # it takes another layer's keys
        (["model.layers.0.experts.9.up.weight"], "model.layers.0.experts.9.up.weight"),
        (["mtp.layers.0.q_proj.weight", "vision.layers.7.q_proj.weight", "step"], None),
    ],
)
def test_which_layers_are_left_out_by_mistake(unexpected: list[str], left: str | None) -> None:
    there = [LAYER.format(n, "q_proj.weight") for n in (0, 1)] + ["model.layers.0.self_attn.k_proj.weight"]
    there += ["model.layers.0.mlp.up_proj.weight", "model.layers.0.experts.0.up.weight"]
    assert left_out(unexpected, LlamaConfig(), there) == left


def test_layers_that_are_not_like_the_others_may_be_left_out(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    further = {name.replace(".1.", ".2."): tensor.clone() for name, tensor in tensors.items() if "layers.1." in name}
    own = {"model.layers.2.eh_proj.weight": torch.ones(48, 96), "model.layers.2.enorm.weight": torch.ones(48)}
    save_file(tensors | further, folder / "model.safetensors", {"format": "pt"})
    assert isinstance(contained(lambda: loaded(folder, light=False)), Damaged)
    save_file(tensors | further | own, folder / "model.safetensors", {"format": "pt"})
    assert contained(lambda: loaded(folder, light=False)) is None


def test_masks_of_one_byte_for_each_pair_of_positions(tmp_path: Path) -> None:
    kinds = [[["global"], 6]]
    many = {"num_layers": 6, "hidden_size": 4, "num_heads": 1, "max_position_embeddings": 8192, "attention_types": kinds}
    with torch.device("meta"):  # more than 2^28 places, and less than 1 GB
        model = GPTNeoForCausalLM(GPTNeoConfig(**many, vocab_size=400))
    assert sum(buffer.numel() for buffer in model.buffers()) > 2**28
    check_fit(model, Stored({}, 0), tmp_path)


def test_layers_that_only_predict_further_tokens_may_be_left_out(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "num_nextn_predict_layers": 1}))
    assert contained(lambda: loaded(folder, light=False)) is None
