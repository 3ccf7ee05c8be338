"""From a model folder to a base model without torch: models that a blueprint describes, on a CPU, by the native step alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from smolora.common.paths import cache_path
from smolorad import publish
from smolorad.domain import Device, Dtype, KvDtype, LoadProgress, LoadStage, Precision
from smolorad.engine.model import blueprint_cache
from smolorad.engine.model.base_model import BaseModel, LoadReport, TransformersModel
from smolorad.engine.model.blueprint import TOKENIZER, Blueprint
from smolorad.engine.model.estimate import ModelSizes
from smolorad.engine.model.folder import TOKENIZERS, ModelFolder
from smolorad.engine.model.load_options import LoadOptions
from smolorad.engine.model.model_text import make_model_text
from smolorad.engine.model.native_sizes import described_bytes, native_sizes
from smolorad.engine.model.native_weights import NativeWeights
from smolorad.engine.model.weights import ARRAY_DTYPES
from smolorad.engine.native.build import library
from smolorad.engine.native.decoder import NativeModel, packable, takes_prompts
from smolorad.engine.native.library import Library
from smolorad.engine.native.misfit import misfit
from smolorad.engine.runtime.device import Hardware, Placement, default_threads, place, trim_memory
from smolorad.engine.runtime.dtypes import STORED
from smolorad.engine.runtime.gc import gc_paused
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.errors import NotFound, SmoloraError

_MAX_TOKENS = 2**31  # C and the tokenizer count them in 31 and 32 bits


@dataclass(frozen=True, slots=True)
class NativePlan:
    """How the native step serves a model, before its weights are read."""

    compiled: Library
    placement: Placement
    blueprint: Blueprint
    blueprint_folder: Path

    def sizes(self, kv_dtype: KvDtype | None) -> ModelSizes:
        """What decides how much memory it takes."""
        return native_sizes(
            self.blueprint.decoder,
            self.blueprint.parameters,
            self.placement.dtype,
            context_length=self.blueprint.context_length,
            tokenizer_bytes=described_bytes(self.blueprint_folder / TOKENIZERS[0], self.blueprint_folder / TOKENIZER),
            threads=self.compiled.threads,
            kv_dtype=kv_dtype,
        )


def plan_native(
    folder: ModelFolder,
    options: LoadOptions,
    *,
    hardware: Hardware,
    threads: int | None,
    on_describe: Callable[[], None] = lambda: None,
) -> NativePlan | None:
    """How the native step serves a model; None where computing it takes torch.

    `on_describe` is called before the model is described for the first time, which takes seconds. Otherwise as `load`.
    """
    precision = options.precision
    # The number of parameters decides for MPS alone.
    placement = place(options.device, options.dtype, 0, hardware)
    if placement.device is not Device.CPU or placement.dtype not in ARRAY_DTYPES:
        return None
    compiled = library(cache_path(), threads or default_threads())
    if compiled is None or not takes_prompts(compiled, ARRAY_DTYPES[placement.dtype], precision):
        return None
    found = blueprint_cache.find(folder, placement.dtype, cache_path(), on_describe)
    if found is None or (precision is not Precision.EXACT and not packable(found[0].decoder)):
        return None
    blueprint, blueprint_folder = found
    if misfit(blueprint.decoder, blueprint.parameters) or not _is_of(blueprint, folder):  # the cached file was changed
        return None
    return NativePlan(compiled, placement, blueprint, blueprint_folder)


def load_native(folder: ModelFolder, plan: NativePlan, options: LoadOptions, report: LoadReport) -> BaseModel:
    """The base model; errors as in `load`."""
    precision = options.precision
    placement, blueprint, decoder = plan.placement, plan.blueprint, plan.blueprint.decoder
    compiled, blueprint_folder = plan.compiled, plan.blueprint_folder
    report(LoadProgress(LoadStage.READ, 0, folder.size))
    with ThreadPoolExecutor(1) as beside:  # it releases Python's lock while it works
        summing = beside.submit(folder.fingerprint)
        # Before the weights: while a large tokenizer is read, it takes four times the memory that it takes afterwards.
        tokenizer = blueprint.tokenizer(blueprint_folder)
        trim_memory(Device.CPU)
        weights = NativeWeights(folder.weights, blueprint, placement.dtype, precision)
        native = NativeModel(compiled, decoder, weights.arrays, precision, weights.sources(), options.kv_dtype)
        fingerprint = summing.result()
    report(LoadProgress(LoadStage.READ, folder.size, folder.size))
    report(LoadProgress(LoadStage.MOVE, detail=f"{placement.dtype} on {placement.device}"))
    report(LoadProgress(LoadStage.WARM_UP))
    vocabulary = Vocabulary(tokenizer, blueprint.end_ids)
    return BaseModel(
        transformers_model=functools.cache(
            lambda: _transformers_model(blueprint_folder, folder.path, weights, placement.dtype)
        ),
        tokenizer=tokenizer,
        name=folder.name,
        path=folder.path,
        fingerprint=fingerprint,
        architecture=blueprint.architecture,
        parameters=sum(map(math.prod, blueprint.parameters.values())),
        weight_bytes=weights.nbytes,
        device=placement.device,
        dtype=placement.dtype,
        context_length=blueprint.context_length,
        vocabulary_size=blueprint.vocabulary_size,
        embeddings=blueprint.parameters[decoder.embedding][0],
        end_ids=frozenset(blueprint.end_ids),
        vocabulary=vocabulary,
        text=make_model_text(tokenizer, vocabulary.end_ids),
        grammars=GrammarCache(vocabulary),
        precision=precision,
        kv_dtype=options.kv_dtype,
        native=native,
        exact_weights=None if precision is Precision.EXACT else weights,
    )


def _is_of(blueprint: Blueprint, folder: ModelFolder) -> bool:
    """Whether the folder's files have the tensors that give each parameter, and the ids of tokens can be some."""
    counts = {tensor.name: tensor.count for tensor in folder.tensors if tensor.format in STORED}
    found = {name: sum(counts.get(one, 0) for one in blueprint.sources.get(name, ())) for name in blueprint.parameters}
    fit = all(found[name] == math.prod(shape) > 0 for name, shape in blueprint.parameters.items())
    return fit and all(0 <= id < _MAX_TOKENS for id in blueprint.end_ids)


def _transformers_model(blueprint: Path, folder: Path, weights: NativeWeights, dtype: Dtype) -> TransformersModel:
    """Reads config and tokenizer from the blueprint's copy or from the model folder: either may be gone or changed by now."""
    found = blueprint if publish.is_whole(blueprint) else folder if _is_same(folder, dtype, blueprint.name) else None
    if found is None:
        raise NotFound(f"The model's files in {folder} are gone or changed; bring them back, or load another model.")
    with gc_paused():
        from smolorad.engine.model.to_transformers import to_transformers

    return to_transformers(found, weights.all(), dtype)


def _is_same(folder: Path, dtype: Dtype, key: str) -> bool:
    try:
        return blueprint_cache.key_of(ModelFolder.open(folder), dtype) == key
    except (SmoloraError, OSError):
        return False
