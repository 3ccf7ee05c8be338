"""ImportAdapter: checks an uploaded PEFT folder, its config first, then its weights on the base, and publishes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smolorad.children.worker import Workers
from smolorad.domain import Adapter, check_name
from smolorad.errors import SmoloraError
from smolorad.jobs.artifacts import AdapterBase, Artifacts
from smolorad.jobs.peft_folder import read_lora
from smolorad.portable import source_of
from smolorad.residency import Residency, Resolver, no_progress
from smolorad.store.library import Library


class ImportAdapter:
    """Imports adapters. One that does not fit its base is refused: as the newest revision it would block its name."""

    def __init__(
        self, library: Library, artifacts: Artifacts, residency: Residency, resolver: Resolver, workers: Workers
    ) -> None:
        self._library = library
        self._artifacts = artifacts
        self._residency = residency
        self._resolver = resolver
        self._workers = workers

    async def run(self, folder: Path, name: str, base_model: str) -> Adapter:
        """Publishes a copy of an uploaded folder's adapter, for `base_model`, or for the loaded model where that is empty.

        The upload is removed once the copy is published.

        Raises InvalidRequest, NotFound, NoModel, Damaged, UnsupportedModel, NotFinite, WrongBase.
        """
        self._artifacts.check_place("adapter", name)
        with _of_upload(folder):
            lora, parameters = await asyncio.to_thread(read_lora, folder)
        resident = self._residency.resident
        if base_model and (resident is None or base_model != resident.name):
            model = await self._library.model(check_name(base_model, "base_model"))
            base = await self._resolver.find(model.name, no_progress)
            with _of_upload(folder):
                await self._workers.check_adapter(folder, base.path, model.name, trust_remote_code=base.trust_remote_code)
            adapter_base = AdapterBase(model.name, model.fingerprint, source_of(model.name, base.path))
            return await self._artifacts.import_adapter(folder, name, lora, parameters, adapter_base)
        async with self._residency.lease() as lease:
            with _of_upload(folder):
                await lease.engine.check_adapter(folder)
        source = source_of(lease.model.name, lease.base.path)
        adapter_base = AdapterBase(lease.model.name, lease.model.fingerprint, source)
        return await self._artifacts.import_adapter(folder, name, lora, parameters, adapter_base)


@contextmanager
def _of_upload(folder: Path) -> Iterator[None]:
    """Errors call the folder the upload, as the user's own has another name."""
    try:
        yield
    except SmoloraError as error:
        message = error.message.replace(f"{folder}/", "").replace(str(folder), "the upload")
        raise type(error)(message, error.violations) from error
