"""What transformers makes of a model's folder, written down once, so that serving the model needs neither it nor torch.

To import both takes longer than all else that a start has to do, and as much memory as a small model's weights. So a process of
its own asks them, the first time that a model is loaded (`blueprint_builder.py`); what it finds is kept in the cache, by the
content of all files that matter, without the weights' values. transformers itself loads a model that cannot be served so.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from smolorad.domain import Dtype
from smolorad.engine.model.blueprint import BLUEPRINT, Blueprint, small_files
from smolorad.engine.model.folder import read_config, tensors_of, weight_files
from smolorad.engine.runtime.cache_folder import read_or_make
from smolorad.engine.runtime.device import Hardware, place
from smolorad.errors import Damaged, SmoloraError

log = logging.getLogger("smolorad.engine")

# Those whose classes the native step may know; what they are in truth, `blueprint_builder.py` finds out.
FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_FORMAT = "2"  # of what is written; another one is made anew
_TIMEOUT_S = 120.0
_TRANSFORMERS = "transformers.modeling_utils"  # the module that takes long to import


def key_of(folder: Path, dtype: Dtype) -> str:
    """What a model's blueprint depends on, as a name for it."""
    digest = hashlib.sha256("\0".join([_FORMAT, dtype, version("transformers"), version("tokenizers")]).encode())
    weights = weight_files(folder, str(folder))
    for path in small_files(folder):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    for tensor in sorted((name, stored, *shape) for name, stored, shape in tensors_of(weights)):
        digest.update(repr(tensor).encode())
    return digest.hexdigest()[:32]


def find(folder: Path, dtype: Dtype, cache: Path) -> tuple[Blueprint, Path] | None:
    """The blueprint of a model folder, made if it is not in `cache`, and the folder where it is kept.

    None where there is none for such a model, or it cannot be made.
    """
    if read_config(folder)["model_type"] not in FAMILY:
        return None
    try:
        return read_or_make(cache / "blueprints" / key_of(folder, dtype), lambda stage: _make(folder, dtype, stage), _read)
    except (SmoloraError, OSError, subprocess.SubprocessError) as error:  # transformers will say why when it loads the model
        log.info("no blueprint of %s: %s", folder, (getattr(error, "stderr", None) or str(error)).strip()[-500:])
        return None


def _read(folder: Path) -> tuple[Blueprint, Path] | None:
    try:
        blueprint = msgspec.json.decode((folder / BLUEPRINT).read_bytes(), type=Blueprint | None)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{folder / BLUEPRINT} is no blueprint ({error}); delete it.") from error
    return None if blueprint is None else (blueprint, folder)


def prebuild(folder: Path, cache: Path) -> None:
    """Makes the blueprint by which this machine serves a model unless told otherwise, if transformers is here anyhow."""
    hardware = Hardware.without_torch()
    if hardware is None or _TRANSFORMERS not in sys.modules:
        return
    try:
        find(folder, place(None, None, 0, hardware).dtype, cache)
    except (SmoloraError, OSError) as error:  # whoever loads it is told
        log.info("no blueprint of %s: %s", folder, error)


def _make(folder: Path, dtype: Dtype, output: Path) -> None:
    """Writes the blueprint into an empty folder. Raises SmoloraError, and SubprocessError from another process."""
    if _TRANSFORMERS in sys.modules:  # then it costs next to nothing
        from smolorad.engine.model import blueprint_builder

        blueprint_builder.write(folder, dtype, output)
        return
    command = [sys.executable, "-m", "smolorad.engine.model.blueprint_builder", str(folder), str(dtype), str(output)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
