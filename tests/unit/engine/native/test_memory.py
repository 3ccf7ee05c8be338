"""Memory that runs out anywhere in the native code is a MemoryError, and what is open stays usable."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smolorad.domain import Precision
from smolorad.engine.model.native_support import decoder_of, weights_of
from smolorad.engine.native import build
from smolorad.engine.native.decoder import NativeModel, Part
from smolorad.engine.native.library import Library
from tests.tiny import tiny_model
from tests.unit.engine.kit import plain_model

# The allocation after `left` others fails, and none if that is negative.
_FAILING = """
#include <stdlib.h>
static int left = -1;
int allocations = 0;
void fail_after(int others) { left = others, allocations = 0; }
static int fails(void) { return allocations++, left-- == 0; }
static void *failing_calloc(size_t count, size_t size) { return fails() ? NULL : calloc(count, size); }
static void *failing_realloc(void *from, size_t size) { return fails() ? NULL : realloc(from, size); }
static void *failing_aligned_alloc(size_t line, size_t size) { return fails() ? NULL : aligned_alloc(line, size); }
#define calloc failing_calloc
#define realloc failing_realloc
#define aligned_alloc failing_aligned_alloc
#include "decode.c"
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("failing")
    (folder / "failing.c").write_text(_FAILING)
    compiler = build._compiler()
    assert compiler is not None, "these tests need a C compiler"
    flags = [flag for flag in build._FLAGS if flag != "-O3"]  # it is compiled for this test alone
    build._build([compiler, *flags, "-O1", f"-I{build._FOLDER}"], folder / "failing.c", folder)
    path = str(folder / build._LIBRARY)
    return Library(path, 2), ctypes.CDLL(path)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return plain_model(tiny_model(tmp_path, "llama", num_key_value_heads=1))


def test_no_allocation_of_an_engine_may_fail(built: tuple[Library, ctypes.CDLL], model: Any) -> None:
    library, control = built
    decoder = decoder_of(model, Precision.EXACT)
    assert decoder is not None
    control.fail_after(-1)
    NativeModel(library, decoder, weights_of(model), Precision.EXACT)
    count = ctypes.c_int.in_dll(control, "allocations").value
    assert count > 20
    for others in range(count):
        control.fail_after(others)
        with pytest.raises(MemoryError):
            NativeModel(library, decoder, weights_of(model), Precision.EXACT)
    control.fail_after(-1)


def test_an_engine_lives_on_after_a_step_that_had_no_memory(built: tuple[Library, ctypes.CDLL], model: Any) -> None:
    library, control = built
    decoder = decoder_of(model, Precision.EXACT)
    assert decoder is not None
    native = NativeModel(library, decoder, weights_of(model), Precision.EXACT)
    tokens = np.random.default_rng(5).integers(300, size=700).tolist()
    other, cache = native.cache(700), native.cache(700)
    for at in range(0, 260, 20):
        native.step([Part(tokens[at : at + 20], cache)])
    other.begin_with(cache, 255)
    expected = native.step([Part(tokens[260:261], cache)])
    cache.crop(260)
    native.step([Part(tokens[255:260], other)])
    for at in range(260, 600, 20):
        native.step([Part(tokens[at : at + 20], other)])
    control.fail_after(0)
    with pytest.raises(MemoryError):  # more blocks than ever
        native.step([Part(tokens[600:607], other)])
    control.fail_after(-1)
    assert other.length == 600
    assert np.array_equal(native.step([Part(tokens[260:261], cache)]), expected)
    assert native.step([Part(tokens[600:607], other)]).shape == expected.shape
