"""Memory is there when it is written, and no sooner."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from smolorad.engine.kvcache import KvCache
from smolorad.engine.memory import Reserve, take

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


def test_it_serves_the_next_cache_and_then_goes_back() -> None:
    reserve = Reserve()
    before = resident()
    cache = KvCache(30, 3, 1020, 64, np.dtype(np.uint16), 1020, reserve)
    cache.array[...] = 1
    begin = cache.array.ctypes.data
    del cache
    assert resident() - before > 20 * MIB
    again = KvCache(30, 3, 1000, 64, np.dtype(np.uint16), reserve=reserve)  # about as long
    assert again.array.ctypes.data == begin
    assert again.length == 0
    other = KvCache(30, 3, 1000, 64, np.dtype(np.uint16), reserve=reserve)
    assert other.array.ctypes.data != begin
    del again, other
    reserve.clear()
    assert resident() - before < 5 * MIB


def test_a_reserve_is_bounded() -> None:
    reserve = Reserve(10 * MIB)
    taken = [reserve.take(4 * MIB, whole=False) for _ in range(4)]
    for memory in taken:
        reserve.give_back(memory)
    assert reserve.nbytes == 8 * MIB
    reserve.give_back(reserve.take(20 * MIB, whole=False))
    assert reserve.nbytes == 0
