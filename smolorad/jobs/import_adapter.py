"""ImportAdapter: an uploaded PEFT folder is checked, its config first, then on the base it belongs to, and then published."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolorad.children.worker import Workers
from smolorad.domain import Adapter, LoadProgress, check_name
from smolorad.errors import SmoloraError
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.peft_folder import read_lora
from smolorad.portable import source_of
from smolorad.residency import Residency, Resolver
from smolorad.store.library import Library


class AdapterImport:
    """Brings adapters in. What cannot answer on its base is refused: as the newest revision it would block its name."""

    def __init__(self, library: Library, shelf: Artifacts, residency: Residency, resolver: Resolver, workers: Workers) -> None:
        self._library = library
        self._shelf = shelf
        self._residency = residency
        self._resolver = resolver
        self._workers = workers

    async def run(self, folder: Path, name: str, base_model: str) -> Adapter:
        """Publishes a copy of an uploaded folder's adapter, for `base_model`, or for the loaded model where that is empty.

        What is published needs its upload no more: that is removed.

        Raises InvalidRequest, NotFound, NoModel, Damaged, UnsupportedModel, NotFinite, WrongBase.
        """
        self._shelf.check_place("adapter", name)
        with _of_upload(folder):
            lora, parameters = await asyncio.to_thread(read_lora, folder)
        resident = self._residency.resident
        if base_model and (resident is None or base_model != resident.name):
            model = await self._library.model(check_name(base_model, "base_model"))
            base = await self._resolver.find(model.name, _ignore)
            with _of_upload(folder):
                await self._workers.check_adapter(folder, base.path, model.name, trust_remote_code=base.trust_remote_code)
            source = source_of(model.name, base.path)
            return await self._shelf.import_adapter(folder, name, lora, parameters, model.name, model.fingerprint, source)
        async with self._residency.hold() as held:
            with _of_upload(folder):
                await held.engine.check_adapter(folder)
            loaded = self._residency.base
        source = source_of(held.model.name, loaded.path if loaded is not None else None)
        return await self._shelf.import_adapter(folder, name, lora, parameters, held.model.name, held.model.fingerprint, source)


@contextmanager
def _of_upload(folder: Path) -> Iterator[None]:
    """Errors call the folder the upload, as the user's own has another name."""
    try:
        yield
    except SmoloraError as error:
        message = error.message.replace(f"{folder}/", "").replace(str(folder), "the upload")
        raise type(error)(message, error.violations) from error


def _ignore(progress: LoadProgress) -> None:
    """A model of this home is not fetched."""
