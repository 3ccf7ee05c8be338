"""Memory is there when it is written, and no sooner."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from smolorad.engine.native.kv_cache import KvCache
from smolorad.engine.runtime.buffers import BufferPool, take

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
    reserve = BufferPool()
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
    reserve = BufferPool(10 * MIB)
    taken = [reserve.take(4 * MIB, whole=False) for _ in range(4)]
    for memory in taken:
        reserve.give_back(memory)
    assert reserve.nbytes == 8 * MIB
    reserve.give_back(reserve.take(20 * MIB, whole=False))
    assert reserve.nbytes == 0


class Watched(mmap.mmap):
    """Memory that does something when its size is asked for, as the collector may."""

    meanwhile: Callable[[], object] | None = None

    def __len__(self) -> int:
        size = super().__len__()
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return size


@pytest.mark.parametrize("meanwhile", ["clear", "a finaliser"])
def test_what_goes_while_it_is_looked_at_is_not_taken(meanwhile: str) -> None:
    reserve, found = BufferPool(10 * MIB), Watched(-1, 4 * MIB)
    reserve.give_back(found)
    found.meanwhile = reserve.clear if meanwhile == "clear" else lambda: reserve.give_back(take(20 * MIB, whole=False))
    taken = reserve.take(4 * MIB, whole=False)
    assert taken is not found
    assert len(taken) == 4 * MIB
    assert reserve.nbytes == 0


def test_what_is_given_back_while_something_is_given_back() -> None:
    reserve, found = BufferPool(10 * MIB), Watched(-1, 20 * MIB)
    found.meanwhile = lambda: reserve.give_back(take(30 * MIB, whole=False))
    reserve.give_back(found)
    assert reserve.nbytes == 0


def test_threads_that_take_and_give_back_share_nothing() -> None:
    reserve, wrong = BufferPool(4 * MIB), []

    def work(number: int) -> None:
        for _ in range(300):
            memory = reserve.take(MIB, whole=False)
            memory[:4] = number.to_bytes(4, "little")
            if memory[:4] != number.to_bytes(4, "little"):
                wrong.append(number)
            reserve.give_back(memory)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, number) for number in range(8)]:
            done.result()
    assert wrong == []
    assert reserve.nbytes <= 4 * MIB
