"""The resident base: one model in memory, never changed, and views that share its tensors."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from smolorad.domain import Device, Dtype, Precision, ResidentModel
from smolorad.engine.constraint import Constraints
from smolorad.engine.device import release
from smolorad.engine.forward import Steps
from smolorad.engine.native.linear import Packed
from smolorad.engine.native.step import NativeModel
from smolorad.engine.parked import Parked
from smolorad.engine.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Base:
    """A causal language model that is ready to compute: in eval mode, its parameters frozen."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerBase
    name: str
    path: Path
    fingerprint: str
    device: Device
    dtype: Dtype
    context_length: int  # tokens, prompt and answer together
    end_ids: frozenset[int]  # tokens that end an answer
    vocabulary: Vocabulary
    constraints: Constraints  # the forms that answers were asked for
    notes: tuple[str, ...] = ()  # of the self-test: what it refused, and what was taken instead
    trust_remote_code: bool = False
    precision: Precision = Precision.EXACT
    native: NativeModel | None = None  # one step in one call, where this machine and this model allow it
    packed: Packed | None = None  # the generic way, where there is no native one
    parked: Parked | None = None  # where the exact weights lie, if generation has others
    steps: Steps = Steps.CHUNKS  # what transformers' code computes at once

    @property
    def speaker(self) -> Any:
        """The model as generation asks it."""
        return self.packed.model if self.packed is not None else self.model

    def view(self, *, own_biases: bool = False, speaks: bool = False) -> Any:
        """A module tree of its own over the base's very tensors: PEFT may inject into it, the base does not notice.

        `own_biases` gives the view copies of every bias, for LoRA settings that train or bring biases. `speaks`: it is for
        generation alone, in the precision that was chosen for it.
        """
        return share(self.speaker if speaks else self.model, own_biases=own_biases)

    def rest(self) -> None:
        """Gives back what memory nobody holds, and what only a training needed."""
        release(self.device)
        if self.parked is not None:
            self.parked.rest()

    def resident(self, load_s: float) -> ResidentModel:
        """What others are told about it; `load_s` is how long it took to load."""
        parameters = list(self.model.parameters())
        weight_bytes = sum(p.numel() * p.element_size() for p in parameters)
        decoder = "native" if self.native is not None else "packed" if self.packed is not None else "torch"
        token_bytes = self.native.nbytes if self.native else self.packed.nbytes if self.packed else weight_bytes
        copy_bytes = token_bytes if self.precision is not Precision.EXACT else 0
        return ResidentModel(
            name=self.name,
            fingerprint=self.fingerprint,
            architecture=self.model.config.model_type,
            parameters=sum(p.numel() for p in parameters),
            device=self.device,
            dtype=self.dtype,
            weight_bytes=weight_bytes,
            context_length=self.context_length,
            has_chat_template=bool(self.tokenizer.chat_template),
            self_test_notes=self.notes,
            load_s=load_s,
            precision=self.precision,
            token_bytes=token_bytes,
            memory_bytes=copy_bytes + (weight_bytes if self.parked is None else 0),
            decoder=decoder,
        )


def share(model: nn.Module, *, own_biases: bool = False) -> Any:
    """A deep copy of the modules whose parameters and buffers are the originals."""
    shared: dict[int, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not (own_biases and name.endswith("bias")):
            shared[id(tensor)] = tensor
    return copy.deepcopy(model, shared)
