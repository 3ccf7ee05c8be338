"""The daemon itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from smolora._values.models import ResidentModel


class EngineState(enum.StrEnum):
    """What the engine does."""

    OFF = "off"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"


@dataclass(frozen=True, slots=True)
class Status:
    """What runs, and what it uses."""

    version: str
    pid: int
    start_time: datetime
    home: str
    socket: str
    engine_state: EngineState
    engine_pid: int
    engine_restarts: int
    resident: ResidentModel | None
    adapters: tuple[str, ...]
    unload_time: datetime | None
    running_job: str
    queued_jobs: int
    active_generations: int
    daemon_rss_bytes: int
    engine_rss_bytes: int
    contract: str
    tokens_per_second: float
    cache_bytes: int
    prefix_cache_bytes: int
