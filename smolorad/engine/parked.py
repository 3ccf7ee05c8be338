"""Exact weights that generation does not read, as it has a packed copy: in a file of the engine's own, mapped into memory.

The system has their memory back until a training, or whoever needs them exactly, touches them again. The model's own file
would not do: whoever cut it short would end the engine, and whoever changed it would change the model.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

_ALIGNMENT = 64  # bytes


class Parked:
    """Where a model's weights lie now."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped

    def rest(self) -> None:
        """Nobody is about to read them: their memory goes back."""
        self._mapped.madvise(mmap.MADV_DONTNEED)


def park(model: Any, folder: Path) -> Parked | None:
    """Moves every parameter and buffer of a model on the CPU into a file without a name below `folder`.

    None where the disk has no room for it, and the log says so; the model is then as it was.
    """
    tensors = list({id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()}.values())
    places: list[int] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for tensor in tensors:
                places.append(file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR))
                file.write(memoryview(tensor.data.contiguous().view(-1).view(torch.uint8).numpy()))
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0)
    except OSError as error:
        log.warning("the exact weights stay in memory, as %s has no room for them: %s", folder, error)
        return None
    for tensor, place in zip(tensors, places, strict=True):
        flat = torch.frombuffer(mapped, dtype=torch.uint8, count=tensor.nbytes, offset=place)
        tensor.data = flat.view(tensor.dtype).view(tensor.shape)
    return Parked(mapped)
