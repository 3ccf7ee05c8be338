"""Calls about adapters.

`smolora._sync.adapters` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from smolora import _values as values
from smolora._async.models import ModelCalls
from smolora._async.system import SystemCalls
from smolora._convert import from_message
from smolora._files import adapter_files
from smolora._references import AnyPath, absolute_path, model_reference
from smolora._settings import fill
from smolora.v1 import models_pb2, models_pb2_grpc


class AdapterCalls(ModelCalls, SystemCalls):
    """What a client does with adapters; an import looks at the models and at the one that is loaded."""

    async def adapters(self, name: str = "", limit: int = 100) -> list[values.Adapter]:
        """Adapters, newest first, each revision by itself; only those of `name`, where it is given; at most `limit`."""
        request = fill(models_pb2.ListAdaptersRequest, name=name)
        return await self._list(models_pb2_grpc.ModelServiceStub, "ListAdapters", request, "adapters", values.Adapter, limit)

    async def adapter(self, name: str) -> values.Adapter:
        """`name` (its newest revision) or `name@revision`."""
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "GetAdapter", fill(models_pb2.GetAdapterRequest, name=name))
        return from_message(values.Adapter, answer.adapter)

    async def import_adapter(
        self, folder: AnyPath, name: str, *, base_model: AnyPath = "", on_sent: Callable[[int, int], None] | None = None
    ) -> values.Adapter:
        """Sends a PEFT LoRA folder as a new revision of `name`; it belongs to `base_model`, or to the loaded model.

        Of what a trainer saved there the adapter's config and weights alone are sent, and nothing before config, name and base
        are checked. Raises NotFound, Damaged, UnsupportedModel, NotFinite, WrongBase.
        """
        files = adapter_files(folder)
        base = model_reference(base_model)
        await self._check_names(name, base)
        upload_id = await self._send(files, on_sent)
        request = fill(models_pb2.ImportAdapterRequest, upload_id=upload_id, name=name, base_model=base)
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "ImportAdapter", request, timeout=6 * self.timeout)
        return from_message(values.Adapter, answer.adapter)

    async def _check_names(self, adapter: str, base_model: str) -> None:
        """Has the daemon refuse names now that it would refuse when everything was sent."""
        await self._call(
            models_pb2_grpc.ModelServiceStub, "ListAdapters", fill(models_pb2.ListAdaptersRequest, name=adapter, page_size=1)
        )
        resident = (await self.status()).resident
        named = base_model and not base_model.startswith("/")  # a folder is checked when everything was sent
        if named and (resident is None or resident.name != base_model):
            await self.model(base_model)

    async def export_adapter(self, name: str, path: AnyPath) -> Path:
        """Copies an adapter's PEFT folder to a folder that does not exist yet; returns that folder."""
        request = fill(models_pb2.ExportAdapterRequest, name=name, path=absolute_path(path))
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "ExportAdapter", request, timeout=6 * self.timeout)
        return Path(answer.path)

    async def delete_adapter(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(models_pb2.DeleteAdapterRequest, name=name)
        return int((await self._call(models_pb2_grpc.ModelServiceStub, "DeleteAdapter", request)).revisions)
