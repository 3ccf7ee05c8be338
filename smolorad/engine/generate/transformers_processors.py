"""transformers' own processors, for settings that are rarely used."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import LogitsProcessor
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    TopHLogitsWarper,
    TypicalLogitsWarper,
)

from smolorad.domain import Sampling
from smolorad.engine.generate.logits_processors import Processor
from smolorad.engine.generate.torch_threads import single_threaded
from smolorad.engine.runtime.dtypes import Ids, Scores


class TorchProcessor:
    """Calls one of transformers' processors, which take batches of tensors."""

    def __init__(self, processor: LogitsProcessor) -> None:
        self._processor = processor

    def __call__(self, ids: Ids, scores: Scores) -> Scores:
        with single_threaded():
            changed: Scores = self._processor(torch.from_numpy(ids)[None], torch.from_numpy(scores)[None])[0].numpy()
            return changed


def before_top_k(sampling: Sampling) -> Iterator[Processor]:
    """Those of the settings that `generate` applies before `TopK`."""
    if sampling.top_h is not None:
        yield TorchProcessor(TopHLogitsWarper(sampling.top_h))


def after_min_p(sampling: Sampling) -> Iterator[Processor]:
    """Those of the settings that `generate` applies last."""
    if sampling.typical_p < 1.0:
        yield TorchProcessor(TypicalLogitsWarper(sampling.typical_p))
    if sampling.epsilon_cutoff > 0.0:
        yield TorchProcessor(EpsilonLogitsWarper(sampling.epsilon_cutoff))
    if sampling.eta_cutoff > 0.0:
        yield TorchProcessor(EtaLogitsWarper(sampling.eta_cutoff))
