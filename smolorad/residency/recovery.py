"""Recovery: starts a dead engine again and loads its model, with growing pauses between the tries."""

from __future__ import annotations

import asyncio
import time

from smolorad.errors import EngineUnavailable, SmoloraError
from smolorad.log import Log
from smolorad.residency.resident import Loader, Resident
from smolorad.residency.resolver import no_progress
from smolorad.residency.tasks import BackgroundTasks

log = Log(__name__)

BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)  # before each try
_CALM_S = 60.0  # an engine that lived this long resets the count of tries


class Recovery:
    """At most one task, which brings back the model that was lost last."""

    def __init__(self, loader: Loader, changing: asyncio.Lock, tasks: BackgroundTasks) -> None:
        self._loader = loader
        self._changing = changing
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._lost: Resident | None = None
        self._tries = 0

    @property
    def under_way(self) -> bool:
        """Whether a model is being brought back."""
        return self._task is not None and not self._task.done()

    @property
    def model(self) -> str:
        """The model that is being brought back; empty where none is."""
        return self._lost.model.name if self._lost is not None and self.under_way else ""

    def start(self, lost: Resident) -> None:
        """Brings a model back, in place of one that was lost before it and is not back yet."""
        self._lost = lost
        if not self.under_way:
            self._task = self._tasks.spawn(self._run())

    def cancel(self) -> None:
        """Gives up."""
        if self._task is not None:
            self._task.cancel()

    def reset(self) -> None:
        """Allows the full number of tries again."""
        self._tries = 0

    async def wait(self) -> None:
        """Returns when no model is being brought back."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        if time.monotonic() - self._loader.ready_at > _CALM_S:
            self.reset()
        async with self._changing:
            while self._loader.resident is None and self._tries < len(BACKOFF_S):
                await asyncio.sleep(BACKOFF_S[self._tries])
                self._tries += 1
                if self._lost is None or not await self._try(self._lost):
                    return

    async def _try(self, lost: Resident) -> bool:
        """Loads the model once; false where another try is useless."""
        try:
            await self._loader.load(lost.base, lost.request, no_progress)
            log.info("engine restarted", model=lost.model.name, tries=self._tries)
        except (EngineUnavailable, OSError) as error:  # OSError: the system starts no process now
            log.warning("engine restart failed", tries=self._tries, why=error)
        except SmoloraError as error:
            log.error("cannot load the model again", model=lost.model.name, why=error.message)
            return False
        return True
