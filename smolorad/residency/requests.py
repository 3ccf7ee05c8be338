"""LoadRequest: which model to load, and how; and the requests that the daemon remembers for its next start."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import timedelta

from smolorad.config import Settings
from smolorad.domain import Device, Dtype, KvDtype, Placing, Precision
from smolorad.errors import NoSpace
from smolorad.log import Log
from smolorad.store.database import CannotWrite
from smolorad.store.library import Library

log = Log(__name__)

_LOADED_KEY, _LAST_KEY = "model.resident", "model.last_wish"  # as released versions wrote them


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Which model to load, and how. None and an empty name mean the daemon's choice."""

    model: str = ""
    device: Device | None = None
    dtype: Dtype | None = None
    keep_alive: timedelta | None = None
    precision: Precision | None = None
    kv_dtype: KvDtype | None = None

    @property
    def placing(self) -> Placing:
        """Where and how precisely the engine is to compute."""
        return Placing(self.device, self.dtype, self.precision or Precision.EXACT, self.kv_dtype)

    def with_defaults(self, model: str, settings: Settings) -> LoadRequest:
        """The request for a model, with the daemon's settings where it names none."""
        return dataclasses.replace(
            self,
            model=model,
            device=self.device or settings.device,
            dtype=self.dtype or settings.dtype,
            precision=self.precision or settings.precision,
            kv_dtype=self.kv_dtype or settings.kv_dtype,
        )

    def to_json(self) -> str:
        """The request as the database keeps it."""
        keep_alive_s = None if self.keep_alive is None else self.keep_alive.total_seconds()
        return json.dumps(
            {
                "model": self.model,
                "device": self.device,
                "dtype": self.dtype,
                "precision": self.precision,
                "kv_dtype": self.kv_dtype,
                "keep_alive_s": keep_alive_s,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> LoadRequest:
        """The request that `to_json` wrote, in this or an earlier version."""
        found = json.loads(text)
        return cls(
            model=found["model"],
            device=Device(found["device"]) if found["device"] else None,
            dtype=Dtype(found["dtype"]) if found["dtype"] else None,
            precision=Precision(found["precision"]) if found.get("precision") else None,
            kv_dtype=KvDtype(found["kv_dtype"]) if found.get("kv_dtype") else None,
            keep_alive=None if found["keep_alive_s"] is None else timedelta(seconds=found["keep_alive_s"]),
        )


class LoadHistory:
    """Remembers what is loaded, for the daemon's next start, and what was loaded last.

    A database that refuses the note undoes no load: the model is loaded or unloaded already.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    async def loaded(self) -> LoadRequest | None:
        """The request of the model that was loaded when the daemon ended."""
        text = await self._library.recall(_LOADED_KEY)
        return LoadRequest.from_json(text) if text else None

    async def last(self) -> LoadRequest:
        """The last request that loaded a model; an empty one where there was none."""
        text = await self._library.recall(_LAST_KEY)
        return LoadRequest.from_json(text) if text else LoadRequest()

    async def set_loaded(self, request: LoadRequest) -> None:
        """Notes that a model is loaded."""
        await self._remember(_LOADED_KEY, request.to_json())

    async def set_last(self, request: LoadRequest) -> None:
        """Notes the request to repeat where a later one names no model."""
        await self._remember(_LAST_KEY, request.to_json())

    async def set_unloaded(self) -> None:
        """Notes that no model is loaded."""
        await self._remember(_LOADED_KEY, "")

    async def _remember(self, key: str, value: str) -> None:
        try:
            await self._library.remember(key, value)
        except (NoSpace, CannotWrite) as error:
            log.warning("cannot store which model is loaded", key=key, why=error.message)
