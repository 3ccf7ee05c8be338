"""The base model in memory. It never changes; adapters and trainings get views that share its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolorad.chat.model import ModelText
from smolorad.domain import Device, Dtype, KvDtype, LoadProgress, Precision, ResidentModel
from smolorad.engine.model.mapped_weights import ExactWeights
from smolorad.engine.model.runner import CacheSupport, ModelRunner
from smolorad.engine.native.decoder import NativeModel
from smolorad.engine.runtime.device import trim_memory
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.portable import Source, source_of

LoadReport = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True)
class TransformersModel:
    """The base as transformers' classes, in eval mode, its parameters frozen."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A causal language model that is ready to compute."""

    transformers_model: Callable[[], TransformersModel]  # always the same one; the first call may build it
    tokenizer: Any  # a ServingTokenizer, or that of the transformers model
    name: str
    path: Path
    fingerprint: str
    architecture: str
    parameters: int
    weight_bytes: int  # of all parameters, exactly
    device: Device
    dtype: Dtype
    context_length: int  # max tokens of prompt and answer together
    vocabulary_size: int  # token ids that the model can generate are below this
    embeddings: int  # token ids that it can read are below this
    end_ids: frozenset[int]  # tokens that end an answer
    vocabulary: Vocabulary
    text: ModelText | None  # None where the tokenizer is not one of the tokenizers library
    grammars: GrammarCache
    runner: ModelRunner | None = None  # None where the native step computes everything
    notes: tuple[str, ...] = ()  # of the device check: what it refused, and what was taken instead
    trust_remote_code: bool = False
    precision: Precision = Precision.EXACT
    kv_dtype: KvDtype | None = None
    native: NativeModel | None = None  # where this machine and this model allow it
    packed: Any | None = None  # a `packed_linear.Packed`, where there is no native model
    exact_weights: ExactWeights | None = None  # if generation reads packed ones, and these are in files
    long_product_guard: Any | None = None  # splits long matrix products while the base lives, where its layers need it

    @property
    def model(self) -> Any:
        """The model of transformers' class."""
        return self.transformers_model().model

    @property
    def source(self) -> Source:
        """Its name outside of this machine."""
        return source_of(self.name, self.path)

    @property
    def cache_support(self) -> CacheSupport:
        """In which steps transformers' code computes it correctly."""
        return self.runner.cache_support if self.runner is not None else CacheSupport.CHUNKS

    def view(self, *, own_biases: bool = False, for_generation: bool = False) -> Any:
        """A module tree of its own over the same tensors: PEFT may inject layers into it without changing the base.

        `own_biases` gives the view copies of every bias, for LoRA settings that train or bring biases. `for_generation`: the
        view only generates, in the precision that was chosen for generation.
        """
        from smolorad.engine.model.shared_view import share

        return share(self.packed.model if for_generation and self.packed is not None else self.model, own_biases=own_biases)

    def release_idle_memory(self) -> None:
        """Gives back unused memory, and the exact weights' pages that only a training needed."""
        if self.native is not None:
            self.native.release_idle_memory()
        trim_memory(self.device)
        if self.exact_weights is not None:
            self.exact_weights.release_idle_memory()

    def describe(self, load_s: float) -> ResidentModel:
        """What the daemon reports about it; `load_s` is how long loading took."""
        decoder = "native" if self.native is not None else "packed" if self.packed is not None else "torch"
        read_bytes = self.native.nbytes if self.native else self.packed.nbytes if self.packed else self.weight_bytes
        copy_bytes = read_bytes if self.precision is not Precision.EXACT else 0
        exact_bytes = self.weight_bytes if self.exact_weights is None else self.exact_weights.memory_nbytes
        exact_bytes += self.packed.exact_nbytes if self.packed and self.exact_weights else 0
        return ResidentModel(
            name=self.name,
            fingerprint=self.fingerprint,
            architecture=self.architecture,
            parameters=self.parameters,
            device=self.device,
            dtype=self.dtype,
            weight_bytes=self.weight_bytes,
            context_length=self.context_length,
            has_chat_template=bool(self.tokenizer.chat_template),
            self_test_notes=self.notes,
            load_s=load_s,
            precision=self.precision,
            token_bytes=self.native.token_nbytes if self.native else read_bytes,
            memory_bytes=copy_bytes + exact_bytes,
            decoder=decoder,
            kv_dtype=self.kv_dtype,
            cache_token_bytes=self.native.cache_token_nbytes if self.native else 0,
        )
