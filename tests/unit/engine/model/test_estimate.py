"""The estimate of what a model takes: as much as the load then takes, and what would fit where that does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from smolora.common.paths import cache_path
from smolorad.domain import Device, Dtype, LoadEstimate, Precision
from smolorad.engine.device_check import compare_with_cpu
from smolorad.engine.model.base_model import BaseModel
from smolorad.engine.model.estimate import NOTHING_LOADED, Choice, Loaded, ModelSizes, estimate, refuse_what_cannot_fit
from smolorad.engine.model.estimate_load import estimate_load
from smolorad.engine.model.load import load
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.memory_check import MemoryCheck
from smolorad.engine.native import decoder
from smolorad.engine.native.build import library
from smolorad.engine.native.library import Format, Library, packed_nbytes
from smolorad.engine.runtime.device import Hardware
from smolorad.engine.runtime.free_memory import Memory
from smolorad.errors import OutOfMemory
from tests.families import family_folder
from tests.tiny import tiny_model
from tests.unit.engine.kit import begin, spec

ANY_CPU = Hardware(cpu_bfloat16=True)
GB = 10**9
PLENTY = Memory(64 * GB, 64 * GB)


def in_the_machine(memory: Memory) -> MemoryCheck:
    return MemoryCheck(lambda device: memory)


@pytest.fixture
def _any_machine(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """The native step takes prompts, whatever this machine has."""
    monkeypatch.setattr(Library, "min_prefill_tokens", lambda self, format: 16)
    monkeypatch.setattr(decoder, "ACCELERATE", False)


def both(folder: Path, hardware: Hardware | None, **options: Any) -> tuple[LoadEstimate, LoadEstimate, BaseModel]:
    """A dry run's estimate, the load's own, and what it loads."""
    asked, reported = LoadOptions(device=Device.CPU, **options), []
    check = MemoryCheck(lambda device: PLENTY, report=reported.append)
    dry = estimate_load(folder, "tiny", asked, check, hardware=hardware, threads=2)
    base = load(folder, "tiny", asked, compare_with_cpu, hardware=hardware, threads=2, memory_check=check)
    return dry, reported[0], base


@pytest.mark.usefixtures("_any_machine")
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("variant", ["llama", "gpt 2", "gemma 3", "mixtral", "phi 3", "falcon, new"])
def test_a_native_model_takes_as_many_bytes_as_estimated(variant: str, precision: Precision, tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", variant)
    dry, own, base = both(folder, ANY_CPU, dtype=Dtype.FLOAT32, precision=precision)
    assert base.runner is None
    assert base.native is not None
    assert dry == own
    assert own.weight_bytes == base.describe(0.0).memory_bytes
    assert own.cache_token_bytes == base.native.cache(1).nbytes_of(1)
    assert (own.precision, own.context_length) == (precision, base.context_length)
    by_precision = {choice.precision: choice.weight_bytes for choice in own.choices if choice.dtype is Dtype.FLOAT32}
    assert by_precision[precision] == own.weight_bytes
    assert by_precision[Precision.INT4] <= by_precision[Precision.INT8] < by_precision[Precision.EXACT]


@pytest.mark.parametrize("precision", [Precision.EXACT, Precision.INT4])
@pytest.mark.parametrize("architecture", ["deepseek_v3", "openai-gpt", "llama"])
def test_so_does_one_that_transformers_reads(architecture: str, precision: Precision, tmp_path: Path) -> None:
    wide = {"n_embd": 64} if architecture == "openai-gpt" else {"hidden_size": 64}
    folder = tiny_model(tmp_path / "model", architecture, **wide)
    dry, own, base = both(folder, None, dtype=Dtype.FLOAT32, precision=precision)
    assert base.runner is not None
    assert dry == own
    assert own.weight_bytes == base.describe(0.0).memory_bytes
    request = begin(base, spec("The quick brown fox", max_tokens=4))
    while request.outcome is None:
        request.step()
    sequence = request._sequence
    taken = sequence._cache.nbytes_of(sequence._computed) if sequence._cache is not None else 0
    assert own.cache_token_bytes * sequence._computed == taken


def test_a_matrix_is_as_large_as_the_library_packs_it() -> None:
    compiled = library(cache_path(), 1)
    assert compiled is not None
    for format in (Format.INT8, Format.INT4):
        for rows, columns in ((1, 32), (16, 64), (49, 576)):
            assert packed_nbytes(format, rows, columns) == compiled._packed_bytes(format, rows, columns)


# --- what fits ---------------------------------------------------------------------------------------------------------------

EXACT, INT8, INT4 = (Choice(Dtype.BFLOAT16, precision) for precision in Precision)
SIZES = ModelSizes(
    weights={EXACT: 14 * GB, INT8: 7 * GB, INT4: 4 * GB},
    cache_token_numbers=50_000,  # 0.1 MB a token in bfloat16: 0.2 GB for 2,048, 3.2 GB for the context
    context_length=32_000,
    workspace_bytes=GB // 10,
)


def found(memory: Memory, choice: Choice = EXACT, loaded: Loaded = NOTHING_LOADED, sizes: ModelSizes = SIZES) -> LoadEstimate:
    return estimate("big", Device.CPU, choice, sizes, memory, loaded)


def test_all_of_it_fits() -> None:
    answer = found(Memory(20 * GB, 32 * GB))
    assert (answer.total_bytes, answer.cache_bytes) == (17_300_000_000, 3_200_000_000)
    assert (answer.fits, answer.fitting_context, answer.advice) == (True, 32_000, "")
    assert [choice.fits for choice in answer.choices] == [True, True, True]
    refuse_what_cannot_fit(answer)


def test_it_fits_with_shorter_sequences() -> None:
    answer = found(Memory(15 * GB, 32 * GB))
    assert (answer.fits, answer.fitting_context, answer.advice) == (False, 9_000, "")


def test_what_is_not_free_now_is_advised_on() -> None:
    answer = found(Memory(8 * GB, 32 * GB))
    assert (answer.fits, answer.fitting_context) == (False, 0)
    assert answer.advice == "big needs 14.3 GB, and 8.0 GB are free; `--precision int8` takes 7.3 GB."
    refuse_what_cannot_fit(answer)


def test_the_loaded_model_is_named_where_its_memory_would_do() -> None:
    answer = found(Memory(8 * GB, 32 * GB), loaded=Loaded("small", 7 * GB))
    assert "`smolora-client unload` first frees the 7.0 GB of small, or `--precision int8` takes" in answer.advice
    assert "unload" not in found(Memory(8 * GB, 32 * GB), loaded=Loaded("small", GB)).advice


def test_what_can_never_fit_is_refused_with_what_can() -> None:
    answer = found(Memory(3 * GB, 8 * GB), loaded=Loaded("small", 4 * GB))
    with pytest.raises(OutOfMemory) as refused:
        refuse_what_cannot_fit(answer)
    assert refused.value.message == "big needs 14.3 GB, and this machine has 8.0 GB; `--precision int8` takes 7.3 GB."
    with pytest.raises(OutOfMemory, match=r"has 2\.0 GB; choose a smaller model\."):
        refuse_what_cannot_fit(found(Memory(GB, 2 * GB)))
    assert found(Memory(GB, 32 * GB)).advice.endswith("1.0 GB are free; close other programs, or choose a smaller model.")


def test_a_short_context_needs_no_more_than_it_has() -> None:
    short = dataclasses.replace(SIZES, context_length=100)
    answer = found(Memory(14_200_000_000, 32 * GB), sizes=short)
    assert (answer.fits, answer.fitting_context, answer.advice) == (True, 100, "")


def test_float32_could_be_bfloat16() -> None:
    wide = Choice(Dtype.FLOAT32, Precision.EXACT)
    sizes = dataclasses.replace(SIZES, weights={wide: 28 * GB, EXACT: 14 * GB})
    assert "`--dtype bfloat16` takes 14.3 GB" in found(Memory(16 * GB, 64 * GB), wide, sizes=sizes).advice


def test_a_model_without_a_cache_has_no_longest_sequence() -> None:
    sizes = dataclasses.replace(SIZES, cache_token_numbers=0)
    assert found(Memory(15 * GB, 32 * GB), sizes=sizes).fitting_context == 32_000
    assert found(Memory(13 * GB, 32 * GB), sizes=sizes).fitting_context == 0


@pytest.mark.usefixtures("_any_machine")
def test_nothing_is_read_of_a_model_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model(tmp_path / "model")
    monkeypatch.setattr("smolorad.engine.model.load.load_native", None)
    with pytest.raises(OutOfMemory, match="this machine has 1 MB; choose a smaller model"):
        load(
            folder,
            "tiny",
            LoadOptions(device=Device.CPU, dtype=Dtype.FLOAT32),
            compare_with_cpu,
            hardware=ANY_CPU,
            memory_check=in_the_machine(Memory(10**6, 10**6)),
        )
