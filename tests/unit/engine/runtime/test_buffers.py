"""Memory is there when it is written, and no sooner."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from smolorad.engine.native.kv_cache import KvCache
from smolorad.engine.runtime.buffers import BufferPool, allocate

MIB = 2**20


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("whole", [False, True])
def test_it_is_zero_and_can_be_written(whole: bool) -> None:
    memory = allocate(5 * MIB, huge_pages=whole)
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
    pool = BufferPool()
    before = resident()
    cache = KvCache(30, 3, 1020, 64, np.dtype(np.uint16), 1020, pool)
    cache.array[...] = 1
    begin = cache.array.ctypes.data
    del cache
    assert resident() - before > 20 * MIB
    again = KvCache(30, 3, 1000, 64, np.dtype(np.uint16), pool=pool)  # about as long
    assert again.array.ctypes.data == begin
    assert again.length == 0
    other = KvCache(30, 3, 1000, 64, np.dtype(np.uint16), pool=pool)
    assert other.array.ctypes.data != begin
    del again, other
    pool.clear()
    assert resident() - before < 5 * MIB


def test_a_reserve_is_bounded() -> None:
    pool = BufferPool(10 * MIB)
    taken = [pool.acquire(4 * MIB, huge_pages=False) for _ in range(4)]
    for memory in taken:
        pool.release(memory)
    assert pool.nbytes == 8 * MIB
    pool.release(pool.acquire(20 * MIB, huge_pages=False))
    assert pool.nbytes == 0


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
    pool, found = BufferPool(10 * MIB), Watched(-1, 4 * MIB)
    pool.release(found)
    found.meanwhile = pool.clear if meanwhile == "clear" else lambda: pool.release(allocate(20 * MIB, huge_pages=False))
    taken = pool.acquire(4 * MIB, huge_pages=False)
    assert taken is not found
    assert len(taken) == 4 * MIB
    assert pool.nbytes == 0


def test_what_is_given_back_while_something_is_given_back() -> None:
    pool, found = BufferPool(10 * MIB), Watched(-1, 20 * MIB)
    found.meanwhile = lambda: pool.release(allocate(30 * MIB, huge_pages=False))
    pool.release(found)
    assert pool.nbytes == 0


def test_threads_that_take_and_give_back_share_nothing() -> None:
    pool, wrong = BufferPool(4 * MIB), []

    def work(number: int) -> None:
        for _ in range(300):
            memory = pool.acquire(MIB, huge_pages=False)
            memory[:4] = number.to_bytes(4, "little")
            if memory[:4] != number.to_bytes(4, "little"):
                wrong.append(number)
            pool.release(memory)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, number) for number in range(8)]:
            done.result()
    assert wrong == []
    assert pool.nbytes <= 4 * MIB
