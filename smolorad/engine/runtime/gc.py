"""When not to look for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """For large imports: they make objects by the hundred thousand and drop none, and looking took a quarter of their time.

    What is there afterwards stays, and is never looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
