"""What a config says of how MLX has quantised a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smolorad.engine.mlx.packing import AFFINE, MODES, Packing
from smolorad.errors import Damaged, UnsupportedModel

_KEYS = ("quantization", "quantization_config")  # with the same content; older releases wrote the first alone
_OF_OTHERS = "quant_method"
_ADVICE = "get the model again"


@dataclass(frozen=True, slots=True)
class MlxSettings:
    """How every module is packed that nothing else is said of, and what is said of others."""

    model: str  # in messages
    default: Packing
    modules: Mapping[str, Any]

    def packing_of(self, module: str) -> Packing | None:
        """How a module is packed; None for one that is not. Raises Damaged, UnsupportedModel."""
        match self.modules.get(module, True):
            case True:
                return self.default
            case False | None:
                return None
            case Mapping() as own:
                if own.get("global_scale"):
                    raise _unread(self.model, "with a `global_scale`")
                return _packing(own, self.model, f" of {module}")
            case other:
                raise Damaged(f"The config of {self.model} has {_shown(other)} as quantization of {module}; {_ADVICE}.")


def read_settings(config: Mapping[str, Any], model: str) -> MlxSettings | None:
    """How MLX has quantised the model of a config; None where it has not. Raises Damaged, UnsupportedModel."""
    given = config.get(_KEYS[0])
    if given is not None and not isinstance(given, Mapping):
        raise Damaged(f"The config of {model} has {_shown(given)} as quantization, which must be an object; {_ADVICE}.")
    found = next((one for one in map(config.get, _KEYS) if is_mlx(one)), None)
    if found is None:
        return None
    for key in ("bits", "group_size"):
        if key not in found:
            raise Damaged(f"The config of {model} has a quantization without {key}; {_ADVICE}.")
    return MlxSettings(model, _packing(found, model), found)


def is_mlx(quantization: object) -> bool:
    """Whether this value of a config is what MLX writes: it names no method."""
    return (
        isinstance(quantization, Mapping)
        and _OF_OTHERS not in quantization
        and not {"bits", "group_size"}.isdisjoint(quantization)
    )


def without_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config without what MLX added to it; itself where that is nothing.

    Nor does it name code of its own (`auto_map`): that would read the weights as they are stored.
    """
    if not any(is_mlx(config.get(key)) for key in _KEYS):
        return config
    return {key: value for key, value in config.items() if key not in (*_KEYS, "auto_map")}


def _packing(given: Mapping[str, Any], model: str, of: str = "") -> Packing:
    mode = given.get("mode", AFFINE)
    if not isinstance(mode, str) or mode not in MODES:
        raise _unread(model, f"in the mode {_shown(mode)}{of}")
    bits, groups = MODES[mode]
    packing = (
        Packing(given.get("bits") or bits[0], given.get("group_size") or groups[0], mode)
        if of
        else Packing(given["bits"], given["group_size"], mode)
    )
    for key, value, known in (("bits", packing.bits, bits), ("group_size", packing.group_size, groups)):
        if type(value) is not int or value not in known:
            raise Damaged(
                f"The config of {model} has {_shown(value)} as {key}{of} in its quantization, and MLX has "
                f"{', '.join(map(str, sorted(known)))} in the mode {mode}; {_ADVICE}."
            )
    return packing


def _unread(model: str, how: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{model} is quantised by MLX {how}, which smolora does not read; load the model that it was made from."
    )


def _shown(value: object) -> str:
    return repr(value)[:60]
