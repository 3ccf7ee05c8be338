"""Peer: CTranslate2 in INT8, in an environment of its own. Converts the model's folder once, beside the other caches."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import missing
from benchmarks.peers.generation import arguments, read_task, serve_task


class CTranslate2:
    """A generator of CTranslate2, which takes tokens by their spelling."""

    def __init__(self, generator: Any, spellings: list[str]) -> None:
        self._generator, self._spellings = generator, spellings

    def _spelled(self, ids: list[int]) -> list[str]:
        return [self._spellings[id] for id in ids]

    def generate(self, ids: list[int], tokens: int, *, keep: bool = False) -> list[float]:
        """When each token came. Of a prompt that comes again, the KV cache of all but its last token is kept."""
        times = []
        prompt, fixed = self._spelled(ids), None
        if keep and len(ids) > 1:
            prompt, fixed = prompt[-1:], prompt[:-1]

        def came(step: Any) -> bool:
            times.append(time.perf_counter())
            return False

        self._generator.generate_batch(
            [prompt],
            static_prompt=fixed,
            cache_static_prompt=True,
            max_length=tokens,
            min_length=tokens,
            include_prompt_in_result=False,
            callback=came,
        )
        return times

    def streams(self, prompts: list[list[int]], tokens: int) -> None:
        """As one batch."""
        self._generator.generate_batch(
            [self._spelled(ids) for ids in prompts], max_length=tokens, min_length=tokens, include_prompt_in_result=False
        )


def converted(folder: Path, to: Path) -> Path:
    """The model in CTranslate2's format, INT8."""
    from ctranslate2.converters import TransformersConverter

    if not to.exists():
        stage = to.with_suffix(".part")
        shutil.rmtree(stage, ignore_errors=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        TransformersConverter(str(folder), low_cpu_mem_usage=True).convert(str(stage), quantization="int8")
        stage.rename(to)
    return to


def spellings(folder: Path) -> list[str]:
    """The vocabulary in the order of its ids."""
    found: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Serves the task's figures, or says what is not there."""
    given = arguments(lambda parser: parser.add_argument("--converted", type=Path, required=True))
    try:
        import ctranslate2
    except ImportError:
        missing("there is no ctranslate2 in this environment")
    try:
        folder = converted(given.model, given.converted)
    except (ValueError, KeyError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        missing(f"CTranslate2 does not convert this model: {error}")
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=given.threads
    )
    serve_task(CTranslate2(generator, spellings(folder)), read_task(given.task))


if __name__ == "__main__":
    main()
