"""The generic way: the model's own code with packed linear layers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from smolora.common.paths import cache_path
from smolorad.domain import Precision
from smolorad.engine.model.shared_view import share
from smolorad.engine.native.build import library
from smolorad.engine.native.library import Format, Library
from smolorad.engine.native.packed_linear import PackedLinear, pack_linears
from tests.tiny import tiny_model
from tests.unit.engine.kit import native_of, plain_model

IDS = torch.randint(0, 300, (1, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def compiled() -> Library:
    built = library(cache_path(), 2)
    assert built is not None, "these tests need a C compiler"
    return built


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize(("precision", "error"), [(Precision.EXACT, 1e-4), (Precision.INT8, 0.15), (Precision.INT4, 2.0)])
def test_architectures_without_a_step_of_their_own(
    compiled: Library, architecture: str, precision: Precision, error: float, tmp_path: Path
) -> None:
    wide = {"n_embd": 64} if architecture == "gpt2" else {"hidden_size": 64}
    model = plain_model(tiny_model(tmp_path, architecture, **wide, initializer_range=0.1))
    packed = pack_linears(share(model), compiled, precision)
    assert packed is not None
    whole = sum(m.weight.numel() * 4 for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
    share_of = {Precision.EXACT: 1.0, Precision.INT8: 0.27, Precision.INT4: 0.27}[precision]
    assert packed.nbytes <= whole * share_of
    expected, found = model(input_ids=IDS).logits, packed.model(input_ids=IDS).logits
    assert float((found - expected).abs().max()) <= error * float(expected.std())
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@torch.inference_mode()
def test_a_copy_shares_the_weights(compiled: Library, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path, "gpt_neox", hidden_size=64))
    packed = pack_linears(share(model), compiled, Precision.INT8)
    assert packed is not None
    view = share(packed.model)
    pairs = [(a, b) for a, b in zip(packed.model.modules(), view.modules(), strict=True) if isinstance(a, PackedLinear)]
    assert pairs
    assert all(isinstance(b, PackedLinear) and a._product is b._product and a.weight is b.weight for a, b in pairs)
    assert torch.equal(packed.model(input_ids=IDS).logits, view(input_ids=IDS).logits)
    assert copy.deepcopy(pairs[0][0]._product) is pairs[0][0]._product


def test_int4_gives_more_bits_to_what_is_sensitive(compiled: Library, tmp_path: Path) -> None:
    model = plain_model(tiny_model(tmp_path, "llama", hidden_size=64, tie_word_embeddings=False))
    packed = pack_linears(share(model), compiled, Precision.INT4)
    assert packed is not None
    modules = [(name.rpartition(".")[2], m) for name, m in packed.model.named_modules() if isinstance(m, PackedLinear)]
    formats = {name: module._product.matrix.format for name, module in modules}
    four, five = ("q_proj", "o_proj"), ("k_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
    assert formats == {"v_proj": Format.INT8, **dict.fromkeys(four, Format.INT4), **dict.fromkeys(five, Format.INT5)}
    native = native_of(model, precision=Precision.INT4)
    assert native.nbytes == packed.nbytes
