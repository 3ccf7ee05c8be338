"""What the tests of training share: a tiny base, a small dataset, a host that records, and a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from smolora.v1 import settings_pb2
from smolorad.domain import Device, Dtype, LoraSettings, TrainerSettings
from smolorad.engine.model.base_model import BaseModel, TransformersModel
from smolorad.engine.model.model_text import make_model_text
from smolorad.engine.model.runner import CacheSupport
from smolorad.engine.model.torch_runner import TorchRunner
from smolorad.engine.text.grammar.grammar import GrammarCache
from smolorad.engine.text.vocabulary import Vocabulary
from smolorad.engine.train.run import train
from smolorad.errors import Cancelled
from smolorad.link.convert import to_message
from smolorad.link.v1 import link_pb2 as pb

WORDS = ("sun", "moon", "river", "stone", "bread", "water", "letter", "winter", "garden", "keeper", "light", "tower", "salt")
CALL = 7


def texts(count: int, first: int = 0) -> list[str]:
    """Sentences of 3 to 12 words, always the same ones."""
    return [" ".join(WORDS[(n * 5 + k * k) % len(WORDS)] for k in range(3 + n % 10)) for n in range(first, first + count)]


def write_dataset(folder: Path, *, train_rows: int = 10, held_out_rows: int = 5) -> Path:
    """A prepared dataset, as the corpus worker writes it."""
    splits = {"train": Dataset.from_dict({"text": texts(train_rows)})}
    if held_out_rows:
        splits["validation"] = Dataset.from_dict({"text": texts(held_out_rows, first=1000)})
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def write_columns(folder: Path, held_out_rows: int = 0, **columns: list[Any]) -> Path:
    """A prepared dataset of another shape; its last rows are held out."""
    whole = Dataset.from_dict(columns)
    cut = len(whole) - held_out_rows
    splits = {"train": whole.select(range(cut))}
    if held_out_rows:
        splits["validation"] = whole.select(range(cut, len(whole)))
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def read_base(folder: Path, dtype: torch.dtype = torch.float32) -> BaseModel:
    """A model folder as the engine holds it: in eval mode, frozen."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end_ids = frozenset({tokenizer.eos_token_id})
    vocabulary = Vocabulary(tokenizer, end_ids)
    whole = TransformersModel(model, tokenizer)
    return BaseModel(
        transformers_model=lambda: whole,
        tokenizer=tokenizer,
        name="tiny",
        path=folder,
        fingerprint="f" * 64,
        architecture=model.config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()),
        device=Device.CPU,
        dtype=Dtype(str(dtype).removeprefix("torch.")),
        context_length=getattr(model.config, "max_position_embeddings", 512),
        vocabulary_size=model.config.vocab_size,
        embeddings=len(model.get_input_embeddings().weight),
        end_ids=end_ids,
        text=make_model_text(tokenizer, end_ids),
        vocabulary=vocabulary,
        grammars=GrammarCache(vocabulary),
        runner=TorchRunner(model, CacheSupport.CHUNKS),
    )


def weights_of(base: BaseModel) -> str:
    """SHA-256 over every parameter and buffer of the base."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.model.state_dict(keep_vars=True).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass
class RecordingHost:
    """A host that records; `on_yield` may answer, cancel or drain."""

    on_yield: Callable[[int], None] = lambda count: None
    events: list[tuple[str, Any]] = field(default_factory=list)
    yields: int = 0
    is_draining: bool = False
    snapshot: Callable[[], Any] | None = None

    def yield_to_requests(self, call: int) -> None:
        assert call == CALL
        self.yields += 1
        self.on_yield(self.yields)

    def stopping(self, call: int) -> bool:
        assert call == CALL
        return self.is_draining

    def offer(self, call: int, snapshot: Callable[[], Any] | None, between: str = "") -> None:
        assert call == CALL
        self.snapshot = snapshot

    def emit(self, call: int, **body: Any) -> None:
        assert call == CALL
        self.events += body.items()

    def of(self, kind: str) -> list[Any]:
        """The events of one kind, in order."""
        return [body for name, body in self.events if name == kind]


def cancel_at(number: int) -> Callable[[int], None]:
    """Cancels at the yield of this number."""

    def on_yield(count: int) -> None:
        if count == number:
            raise Cancelled("The training was cancelled.")

    return on_yield


@dataclass(frozen=True)
class Job:
    """The folders of one job, and what it trains."""

    root: Path
    dataset: Path
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(r=4))
    trainer: TrainerSettings = field(
        default_factory=lambda: TrainerSettings(
            max_steps=6,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=2,
            save_steps=2,
            save_seconds=0,
            trainer="plain",
        )
    )

    parent: Path | None = None
    board: Path | None = None

    @property
    def micro_steps(self) -> int:
        """Micro-steps of an optimiser step, each after a yield; the fast trainer takes short rows at once."""
        return self.trainer.gradient_accumulation_steps if self.trainer.trainer == "plain" else 1

    @property
    def output(self) -> Path:
        return self.root / "stage" / "output"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def command(self) -> pb.Train:
        return pb.Train(
            job_id="j",
            dataset_path=str(self.dataset),
            lora=to_message(settings_pb2.LoraSettings, self.lora),
            trainer=to_message(settings_pb2.TrainerSettings, self.trainer),
            checkpoints_path=str(self.checkpoints),
            stage_path=str(self.root / "stage"),
            output_path=str(self.output),
            parent_path=str(self.parent or ""),
            tensorboard_path=str(self.board or ""),
        )

    def run(self, base: BaseModel, host: RecordingHost | None = None) -> pb.Trained:
        return train(self.command, CALL, base, host or RecordingHost())

    def adapter(self) -> dict[str, torch.Tensor]:
        return load_file(self.output / "adapter_model.safetensors")

    def saved_steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.checkpoints.iterdir())


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two adapters are the same bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def last_parts(names: Sequence[str]) -> set[str]:
    """`q_proj` of `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`."""
    return {name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}


def plain_sft(
    model: Path, rows: list[str] | Dataset, out: Path, lora: dict[str, Any], **settings: Any
) -> dict[str, torch.Tensor]:
    """What anybody would write with TRL: the adapter after training."""
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(out),
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **({"gradient_checkpointing": False} | settings),
        ),
        train_dataset=rows if isinstance(rows, Dataset) else Dataset.from_dict({"text": rows}),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )
    trainer.train()
    trainer.model.save_pretrained(out / "adapter")
    return load_file(out / "adapter" / "adapter_model.safetensors")
