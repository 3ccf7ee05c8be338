"""Memory is there when it is written, and no sooner."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from smolorad.engine.kvcache import KvCache
from smolorad.engine.memory import take

MIB = 2**20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("whole", [False, True])
def test_it_is_zero_and_can_be_written(whole: bool) -> None:
    memory = take(5 * MIB, whole=whole)
    array = np.frombuffer(memory, np.uint8)
    assert not array.any()
    array[...] = 7
    assert memory[-1] == 7


def test_room_for_tokens_that_may_never_come_costs_nothing() -> None:
    before = resident()
    cache = KvCache(30, 3, 8192, 64, np.dtype(np.uint16))
    assert cache.array.nbytes == 180 * MIB
    cache.array[..., :10, :] = 1
    assert resident() - before < 10 * MIB


def test_it_goes_back_with_the_cache() -> None:
    before = resident()
    cache = KvCache(30, 3, 1024, 64, np.dtype(np.uint16), 1024)
    cache.array[...] = 1
    assert resident() - before > 20 * MIB
    del cache
    assert resident() - before < 5 * MIB
