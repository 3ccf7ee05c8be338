"""Makes a model folder for GGUF files: config, tokenizer and layout are written once, and the weights stay where they are."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from gguf.constants import GGMLQuantizationType

import smolorad.engine.gguf
from smolorad import publish
from smolorad.domain import PhaseProgress
from smolorad.engine.gguf.header import GgufHeader, GgufTensor, open_shards
from smolorad.engine.gguf.layout import LAYOUT, Layout
from smolorad.engine.gguf.metadata import Metadata
from smolorad.engine.gguf.weights import GgufWeights
from smolorad.engine.model.folder import CONFIG, GENERATION
from smolorad.engine.runtime.cache_folder import read_or_make
from smolorad.engine.worker.progress import Report
from smolorad.errors import Damaged, NotFound
from smolorad.safetensors_file import version_of

_CHUNK_BYTES = 16 * 2**20
_MAX_FACTORS = 2**14  # of RoPE, one for each two numbers of a head
_DTYPES = {GGMLQuantizationType.F32: "float32", GGMLQuantizationType.F16: "float16"}


def ensure_folder(files: Sequence[Path], cache: Path, report: Report) -> Path:
    """The model folder of the GGUF `files` below `cache`, made if it is not there or they have changed.

    When it is made, folders of files that are gone or changed are removed. `report` gets the phases `read` and `convert`; an
    error that it raises stops the work. Raises UnsupportedModel, Damaged.
    """

    def read(folder: Path) -> Path:
        GgufWeights.open(folder)
        return folder

    def make(stage: Path) -> None:
        _make(files, stage, report)
        _remove_stale(cache / "gguf")

    return read_or_make(cache / "gguf" / _key(files), make, read)


def _remove_stale(cache: Path) -> None:
    """A large tokenizer takes 30 MB, and a file may be downloaded anew each week."""
    for folder in cache.iterdir():
        if folder.name.startswith("."):
            continue
        try:
            GgufWeights.open(folder).sums({})
        except (NotFound, Damaged):
            publish.remove(folder)


def _key(files: Sequence[Path]) -> str:
    """The folder's name: a sum over the files as they are, and the code that reads them."""
    digest = hashlib.sha256("\0".join(version(one) for one in ("transformers", "tokenizers", "gguf")).encode())
    for path in files:
        digest.update(repr((str(path), version_of(path.stat()))).encode())
    for source in sorted(Path(smolorad.engine.gguf.__path__[0]).glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]


def _make(files: Sequence[Path], stage: Path, report: Report) -> None:
    headers = open_shards(tuple(files))
    shapes = {tensor.name: tensor.shape for header in headers for tensor in header.tensors}
    metadata = Metadata(files[0], headers[0].metadata, shapes)
    report(PhaseProgress("convert", 0, 1, "model"))
    layout = _described(headers, metadata, stage, report)
    (stage / LAYOUT).write_bytes(msgspec.json.encode(layout))
    report(PhaseProgress("convert", 1, 1, "model"))


def _described(headers: Sequence[GgufHeader], m: Metadata, stage: Path, report: Report) -> Layout:
    """Writes config and tokenizer into `stage`; the layout."""
    from transformers import CONFIG_MAPPING

    from smolorad.engine.gguf.config import config_fields, known_architecture
    from smolorad.engine.gguf.find_parameters import make_layout
    from smolorad.engine.gguf.tokenizer import end_ids, write_tokenizer
    from smolorad.engine.model.meta_model import build_on_meta
    from smolorad.engine.model.size_check import Stored
    from smolorad.engine.model.transformers_folder import read_model_config
    from smolorad.engine.runtime.errors import reading

    architecture = known_architecture(m)
    fields = config_fields(m, architecture, lambda name: _numbers(headers, name))
    with reading(m.path, "download it again"):
        config = CONFIG_MAPPING[architecture.model_type](**fields, dtype=_dtype(headers))
        config.save_pretrained(stage)
    write_tokenizer(m.values, stage, name=str(m.path), context_length=m.whole("context_length"))
    (stage / GENERATION).write_text(json.dumps({"eos_token_id": end_ids(m.values)}) + "\n", encoding="utf-8")
    config = read_model_config(stage, json.loads((stage / CONFIG).read_text(encoding="utf-8")), str(m.path))
    model = build_on_meta(config, Stored.of(list(m.tensors.items())), m.path)
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return make_layout(headers, tuple(_sums(headers, report)), m, architecture, parameters)


def _sums(headers: Sequence[GgufHeader], report: Report) -> Iterator[str]:
    """The SHA-256 of each file."""
    total, done = sum(header.size for header in headers), 0
    for header in headers:
        digest = hashlib.sha256()
        with header.path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                report(PhaseProgress("read", done, total, "bytes"))
                digest.update(chunk)
                done += len(chunk)
        if version_of(header.path.stat()) != header.version:
            raise Damaged(f"{header.path} was changed while it was read; load the model again when it is whole.")
        yield digest.hexdigest()
    report(PhaseProgress("read", total, total, "bytes"))


def _numbers(headers: Sequence[GgufHeader], name: str) -> Sequence[float] | None:
    """The numbers of a small tensor that is kept exactly; None where there is none."""
    for header in headers:
        for tensor in header.tensors:
            if tensor.name == name:
                return _exact(header, tensor)
    return None


def _exact(header: GgufHeader, tensor: GgufTensor) -> Sequence[float]:
    """Numbers above 0, each as the shortest decimal that gives its bits."""
    if tensor.type != GGMLQuantizationType.F32 or tensor.shape[0] > _MAX_FACTORS or len(tensor.shape) != 1:
        raise Damaged(f"{header.path} has {tensor.name} as no short list of numbers; download it again.")
    with header.path.open("rb") as file:
        file.seek(tensor.begin)
        raw = file.read(tensor.nbytes)
    read = np.frombuffer(raw, np.float32) if len(raw) == tensor.nbytes else np.empty(0, np.float32)
    if not (len(read) and np.isfinite(read).all() and read.min() > 0):
        raise Damaged(f"{header.path} has a number in {tensor.name} that divides nothing; download it again.")
    return [float(np.format_float_positional(number, unique=True)) for number in read]


def _dtype(headers: Sequence[GgufHeader]) -> str:
    """The number format of most of the weights; bfloat16 where they are quantised."""
    counts: Counter[GGMLQuantizationType] = Counter()
    for header in headers:
        for tensor in header.tensors:
            counts[tensor.type] += math.prod(tensor.shape)
    return _DTYPES.get(counts.most_common(1)[0][0] if counts else GGMLQuantizationType.BF16, "bfloat16")
