"""Recognizes models whose weights are quantised: MLX's are read, and of the others it says what to load instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smolorad.engine.mlx.settings import MlxSettings, is_mlx, read_settings
from smolorad.engine.model.families import MODEL_TYPES
from smolorad.errors import UnsupportedModel
from smolorad.safetensors_file import StoredTensor

# The common name of each `quant_method` in a config.
_METHODS = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "auto_round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM (fp8)",
    "fp8": "fp8",
    "fp_quant": "FP-Quant",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
_MLX = "MLX"
_UNNAMED = "a method that its config does not name"
_INSTEAD = "load the model that it was made from, with `--precision int4` or `int8` where memory is short"
# How to recognize a packed weight: by its name and number format in a safetensors file.
_PACKED: Mapping[str, Callable[[str, str], bool]] = {
    _MLX: lambda tensor, dtype: dtype == "U32" and tensor.endswith(".weight"),
    "GPTQ or AWQ": lambda tensor, dtype: tensor.endswith(".qweight"),
    "bitsandbytes": lambda tensor, dtype: tensor.endswith((".weight.absmax", ".weight.SCB", ".SCB")),
    "compressed-tensors": lambda tensor, dtype: tensor.endswith(".weight_packed"),
    "fp8": lambda tensor, dtype: dtype.startswith("F8_") and tensor.endswith(".weight"),
    "MXFP4": lambda tensor, dtype: dtype == "U8" and tensor.endswith("_blocks"),
    # Integers that were taken for weights would make a model that answers nonsense.
    _UNNAMED: lambda tensor, dtype: dtype.startswith(("I", "U")) and tensor.endswith(".weight") and dtype != "U32",
}


def mlx_settings(config: Mapping[str, Any], name: str) -> MlxSettings | None:
    """How MLX has quantised the model called `name`; None where it has not.

    Raises Damaged for a config that MLX does not write, UnsupportedModel for models whose weights it changes in other ways.
    """
    settings = read_settings(config, name)
    if settings is not None and config["model_type"] not in MODEL_TYPES:
        raise UnsupportedModel(
            f"{name} is quantised by MLX, and smolora does not know how MLX changes the weights of a "
            f"{str(config['model_type'])[:60]!r}; {_INSTEAD}."
        )
    return settings


def refuse_quantized(config: Mapping[str, Any], name: str) -> None:
    """Raises UnsupportedModel, which says how, where the config of the model called `name` says that it is quantised.

    Not for what `mlx_settings` finds.
    """
    if is_mlx(config.get("quantization")) or is_mlx(config.get("quantization_config")):
        return
    inner = config.get("text_config")
    for one in (config, inner if isinstance(inner, dict) else {}):
        settings, by_mlx = one.get("quantization_config"), one.get("quantization")
        if isinstance(settings, dict) and (method := _given_method(settings)):
            raise _refusal(name, _method(method, settings), _bits(settings))
        for given in (by_mlx, settings):  # MLX writes both, neither of them with a method
            if isinstance(given, dict) and "bits" in given:
                raise _refusal(name, _MLX, _bits(given))
        if settings is not None:
            raise _refusal(name, _UNNAMED)


def refuse_packed(tensors: Iterable[StoredTensor], name: str, *, packed_by_mlx: bool = False) -> None:
    """Raises UnsupportedModel for weights that only quantised models have, where the config does not say so."""
    found = [(tensor.name, tensor.format) for tensor in tensors]
    for method, is_packed in _PACKED.items():
        if any(is_packed(*one) for one in found) and not (packed_by_mlx and method == _MLX):
            raise _refusal(name, method)


def _given_method(settings: Mapping[str, Any]) -> str:
    """What a config calls the method, or which it is where older releases of bitsandbytes and ModelOpt wrote no name."""
    given = settings.get("quant_method")
    if isinstance(given, str) and given:
        return given
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return "modelopt" if "quant_algo" in settings else ""


def _method(given: str, settings: Mapping[str, Any]) -> str:
    if given == "bitsandbytes" and settings.get("load_in_4bit"):
        return "bitsandbytes (4 bits)"
    if given == "bitsandbytes" and settings.get("load_in_8bit"):
        return "bitsandbytes (8 bits)"
    return _METHODS.get(given.lower(), given[:40])


def _bits(settings: Mapping[str, Any]) -> str:
    bits = settings.get("bits", settings.get("w_bit"))
    return f" ({bits} bits)" if isinstance(bits, int) and not isinstance(bits, bool) and 0 < bits < 64 else ""


def _refusal(name: str, method: str, bits: str = "") -> UnsupportedModel:
    return UnsupportedModel(f"{name} is quantised by {method}{bits}, and smolora does not read such weights; {_INSTEAD}.")
