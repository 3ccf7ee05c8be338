"""Garbage is looked for again after a large import, whatever became of it."""

from __future__ import annotations

import gc

import pytest

from smolorad.engine.runtime.gc import gc_paused


def test_looking_begins_again_also_where_an_import_failed() -> None:
    seen = []

    def fail() -> None:
        with gc_paused():
            seen.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert [*seen, gc.isenabled()] == [False, True]
