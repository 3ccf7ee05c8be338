"""The models that are measured: each a folder as transformers keeps them, made once in the cache.

`starter` is SmolLM2-135M-Instruct. `gemma3-270m` is Gemma 3 270M (the base model, without a chat template) from the package
index. `starter-rotated` computes what the starter computes, from weights that lie on no grid (rotated.py). The `-shape` names
have the sizes of the model they are named after, and random weights: their speed is that of the real model, their text has no
meaning. Anything else is a folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.gemma import make_gemma
from benchmarks.rotated import make_rotated
from benchmarks.shapes import SHAPES, make_shape
from smolora.common.paths import cache_path
from smolorad.engine.worker.starter import ensure_starter

RECIPE = 1  # raise it when a model is made differently, so that older folders are not used
GEMMA = "gemma3-270m"
ROTATED = "starter-rotated"
NAMES = ("starter", ROTATED, GEMMA, *SHAPES)


def benchmarks_cache() -> Path:
    """Where the benchmarks keep what takes long to make."""
    folder = cache_path() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def model_folder(given: str | None) -> Path:
    """The folder of a model by its name here, or the folder that was given; makes it where it is not there."""
    if given is None or given == "starter":
        return ensure_starter(cache_path())
    if given == GEMMA:
        return _made(given, make_gemma)
    if given == ROTATED:
        starter = ensure_starter(cache_path())
        return _made(given, lambda folder: make_rotated(starter, folder))
    if given in SHAPES:
        starter = ensure_starter(cache_path())
        return _made(given, lambda folder: make_shape(SHAPES[given], starter, folder))
    folder = Path(given).absolute()
    if not (folder / "config.json").exists():
        raise SystemExit(f"{given} is no model folder, and no name that is known here: {', '.join(NAMES)}")
    return folder


def _made(name: str, make: Callable[[Path], None]) -> Path:
    final = benchmarks_cache() / "models" / f"{name}-{RECIPE}"
    if not final.exists():
        final.parent.mkdir(exist_ok=True)
        stage = Path(tempfile.mkdtemp(dir=final.parent, prefix="stage-"))
        try:
            make(stage)
            stage.rename(final)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return final
