"""Writes to the prefix cache on disk in a thread of its own, while the engine has nothing else to do."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from smolorad.engine.generate.prefix_store import PrefixStore, chain_of
from smolorad.engine.native.kv_cache import KvCache

_MOST_TASKS = 16  # that wait: an engine that always works writes nothing


@dataclass(frozen=True, slots=True)
class _Task:
    store: PrefixStore
    chain: str
    ids: Sequence[int]
    cache: weakref.ref[KvCache]  # what waits for too long is not worth its memory


class PrefixWriter:
    """Writes the caches that it is given, one after the other."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque(maxlen=_MOST_TASKS)
        self._changed = threading.Condition()
        self._allowed = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._newest: KvCache | None = None

    def add(self, store: PrefixStore, chain: str, ids: Sequence[int], cache: KvCache) -> None:
        """Has a cache written that does not change any more. Only the newest stays in memory for that."""
        with self._changed:
            self._newest = cache
            self._tasks.append(_Task(store, chain, ids, weakref.ref(cache)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefix-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def allow(self) -> None:
        """The engine waits for commands: time to write."""
        self._allowed.set()

    def hold(self) -> None:
        """The engine works: nothing is written after the block that is being written."""
        self._allowed.clear()

    def flush(self, limit_s: float) -> None:
        """Waits until all is written, at most that long."""
        self.allow()
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks and not self._busy, limit_s)

    def _run(self) -> None:
        while True:
            self._allowed.wait()
            with self._changed:
                self._changed.wait_for(lambda: self._tasks)
                task, self._busy = self._tasks.popleft(), True
            try:
                self._write(task)
            finally:
                with self._changed:
                    self._busy = False
                    if not self._tasks:
                        self._newest = None
                    self._changed.notify_all()

    def _write(self, task: _Task) -> None:
        self._allowed.wait()
        cache = task.cache()
        if cache is not None:
            task.store.write(task.chain, task.ids, cache, self._allowed.wait)


@dataclass(frozen=True, slots=True)
class StoredPrefixes:
    """What is on disk of one adapter, or of the base alone."""

    store: PrefixStore
    writer: PrefixWriter
    adapter: str = ""  # a sum over it
    is_long: bool = False  # of texts that the model computes as long ones

    def of_long_texts(self) -> StoredPrefixes:
        """As `AdapterPrefixes.of_long_texts`."""
        return StoredPrefixes(self.store, self.writer, self.adapter, is_long=True)

    def extend(self, ids: Sequence[int], cache: KvCache) -> None:
        """As `PrefixStore.extend`."""
        self.store.extend(chain_of(self.adapter, is_long=self.is_long), ids, cache)

    def keep(self, ids: Sequence[int], cache: KvCache) -> None:
        """As `PrefixWriter.add`."""
        self.writer.add(self.store, chain_of(self.adapter, is_long=self.is_long), ids, cache)
