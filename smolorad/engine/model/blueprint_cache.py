"""Blueprints are made once per model and kept in the cache, so that serving a model needs neither transformers nor torch.

Importing both takes longer than the rest of a start, and as much memory as a small model's weights. So another process does it
the first time that a model is loaded (`blueprint_builder.py`). The cache's key is the content of all files that matter, without
the weights' values. transformers loads the models that have no blueprint.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from smolorad.domain import Dtype
from smolorad.engine.model.blueprint import BLUEPRINT, Blueprint
from smolorad.engine.model.families import MODEL_TYPES
from smolorad.engine.model.folder import ModelFolder
from smolorad.engine.native import description
from smolorad.engine.runtime.cache_folder import read_or_make
from smolorad.engine.runtime.device import Hardware, place
from smolorad.errors import Damaged, SmoloraError

log = logging.getLogger("smolorad.engine")

# The code that decides what is in a blueprint: one that other code has written is made again.
_NAMES = ("describe.py", "describe_rope.py", "families.py", "stored_names.py", "blueprint.py", "blueprint_builder.py")
_WRITERS = (*(Path(__file__).parent / name for name in _NAMES), Path(description.__file__))
_TIMEOUT_S = 120.0
_TRANSFORMERS = "transformers.modeling_utils"  # the module that takes long to import


def key_of(folder: ModelFolder, dtype: Dtype) -> str:
    """The name of a model's blueprint in the cache: a sum over everything that it depends on."""
    digest = hashlib.sha256("\0".join([dtype, version("transformers"), version("tokenizers")]).encode())
    for writer in _WRITERS:
        digest.update(writer.read_bytes())
    for path in folder.small_files():
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for tensor in sorted((tensor.name, tensor.format, *tensor.shape) for tensor in folder.tensors):
        digest.update(repr(tensor).encode())
    return digest.hexdigest()[:32]


def find(
    folder: ModelFolder, dtype: Dtype, cache: Path, on_make: Callable[[], None] = lambda: None
) -> tuple[Blueprint, Path] | None:
    """The blueprint of a model folder, made if it is not in `cache`, and its folder there.

    None where there is none for such a model, or it cannot be made. `on_make` is called before it is made.
    """

    def make(stage: Path) -> None:
        on_make()
        _make(folder.path, dtype, key, stage)

    if folder.architecture not in MODEL_TYPES:
        return None
    try:
        key = key_of(folder, dtype)
        return read_or_make(cache / "blueprints" / key, make, _read)
    except (SmoloraError, OSError, subprocess.SubprocessError) as error:  # loading by transformers reports why
        log.info("no blueprint of %s: %s", folder.path, (getattr(error, "stderr", None) or str(error)).strip()[-500:])
        return None


def _read(folder: Path) -> tuple[Blueprint, Path] | None:
    try:
        blueprint = msgspec.json.decode((folder / BLUEPRINT).read_bytes(), type=Blueprint | None)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{folder / BLUEPRINT} is no blueprint ({error}); delete it.") from error
    return None if blueprint is None else (blueprint, folder)


def prebuild(folder: Path, cache: Path) -> None:
    """Makes the blueprint for this machine's default number format, if transformers is imported already."""
    hardware = Hardware.without_torch()
    if hardware is None or _TRANSFORMERS not in sys.modules:
        return
    try:
        find(ModelFolder.open(folder), place(None, None, 0, hardware).dtype, cache)
    except (SmoloraError, OSError) as error:  # loading the model reports it
        log.info("no blueprint of %s: %s", folder, error)


def _make(folder: Path, dtype: Dtype, key: str, output: Path) -> None:
    """Writes the blueprint into an empty folder. Raises SmoloraError, and SubprocessError from another process."""
    if _TRANSFORMERS in sys.modules:  # making it here is cheap then
        from smolorad.engine.model import blueprint_builder

        blueprint_builder.write(ModelFolder.open(folder), dtype, output)
    else:
        command = [sys.executable, "-m", "smolorad.engine.model.blueprint_builder", str(folder), str(dtype), str(output)]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    if key_of(ModelFolder.open(folder), dtype) != key:  # it would stay in the cache for files that it is not of
        raise Damaged(f"{folder} was changed while its blueprint was made; load the model again.")
