"""Calls about models.

`smolora._sync.models` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from datetime import timedelta

from smolora import _values as values
from smolora._async.calls import Calls
from smolora._async.streams import AsyncJobRun, AsyncLoading
from smolora._convert import from_message
from smolora._errors import Internal
from smolora._references import AnyPath, model_reference, new_request_id
from smolora._settings import duration, enum_name, fill
from smolora.v1 import common_pb2, models_pb2, models_pb2_grpc


def _load_request(
    model: AnyPath, device: str | None, dtype: str | None, precision: str | None, kv_dtype: str | None
) -> models_pb2.LoadModelRequest:
    return fill(
        models_pb2.LoadModelRequest,
        model=model_reference(model),
        device=enum_name(common_pb2.Device, device),
        dtype=enum_name(common_pb2.Dtype, dtype),
        precision=enum_name(common_pb2.Precision, precision),
        kv_dtype=enum_name(common_pb2.KvDtype, kv_dtype),
    )


class ModelCalls(Calls):
    """What a client does with models."""

    def load(
        self,
        model: AnyPath = "",
        *,
        device: str | None = None,
        dtype: str | None = None,
        precision: str | None = None,
        kv_dtype: str | None = None,
        keep_alive: float | timedelta | None = None,
    ) -> AsyncLoading:
        """Loads a model: a name of `models()`, `starter`, a hub id `owner/name`, or a folder (`./folder`, or a Path).

        `device`: `cpu`, `mps` or `cuda`; `dtype`: `float32`, `bfloat16` or `float16`; both are chosen by default. `precision`:
        `exact`, `int8` or `int4`, how generation reads the weights; by default the daemon's setting. `kv_dtype`: `bfloat16` or
        `int8`, the number format of KV caches; by default the daemon's setting, or that of the weights. `keep_alive`: seconds
        that it stays loaded without a request, negative for ever. Iterate the answer for the stages, or call its `result()`.
        """
        request = _load_request(model, device, dtype, precision, kv_dtype)
        if (span := duration(keep_alive)) is not None:
            request.keep_alive.CopyFrom(span)
        return AsyncLoading(self._stream(models_pb2_grpc.ModelServiceStub, "LoadModel", request, idle=None))

    async def estimate(
        self,
        model: AnyPath = "",
        *,
        device: str | None = None,
        dtype: str | None = None,
        precision: str | None = None,
        kv_dtype: str | None = None,
    ) -> values.LoadEstimate:
        """What `load` with the same arguments would take in memory, and whether that fits into what is free.

        Nothing is loaded or downloaded, and neither the loaded model nor a training is disturbed. Raises NotFound for a model
        that is not on the daemon's machine.
        """
        request = _load_request(model, device, dtype, precision, kv_dtype)
        request.dry_run = True
        stream = self._stream(models_pb2_grpc.ModelServiceStub, "LoadModel", request, idle=None)
        try:
            message = await stream.read()
        finally:
            stream.cancel()
        if message is None or message.WhichOneof("event") != "estimate":
            raise Internal("The daemon is too old to estimate a load; update it: pip install -U smolora.")
        return from_message(values.LoadEstimate, message.estimate)

    async def unload(self) -> str:
        """Ends the engine, so that its memory goes back to the system; returns the model's name, empty where there was none."""
        answer = await self._call(
            models_pb2_grpc.ModelServiceStub, "UnloadModel", models_pb2.UnloadModelRequest(), timeout=6 * self.timeout
        )
        return str(answer.name)

    async def models(self, limit: int = 100) -> list[values.Model]:
        """The models of the daemon's home, newest first; at most `limit`."""
        request = models_pb2.ListModelsRequest()
        return await self._list(models_pb2_grpc.ModelServiceStub, "ListModels", request, "models", values.Model, limit)

    async def model(self, name: str) -> values.Model:
        """One model."""
        answer = await self._call(models_pb2_grpc.ModelServiceStub, "GetModel", fill(models_pb2.GetModelRequest, name=name))
        return from_message(values.Model, answer.model)

    async def import_model(
        self, source: AnyPath, name: str, *, revision: str = "", request_id: str = ""
    ) -> AsyncJobRun[values.Model]:
        """Copies a model folder, a hub model (`owner/name`) or `starter` into the home. The result is the Model."""
        request = fill(
            models_pb2.ImportModelRequest,
            source=model_reference(source),
            name=name,
            revision=revision,
            request_id=request_id or new_request_id(),
        )
        return await self._run_job(models_pb2_grpc.ModelServiceStub, "ImportModel", request, values.Model, self.model)

    async def delete_model(self, name: str) -> None:
        """Removes a model; not while it is loaded."""
        await self._call(models_pb2_grpc.ModelServiceStub, "DeleteModel", fill(models_pb2.DeleteModelRequest, name=name))
