"""ModelService: base models and adapters, and the loaded model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

from smolora.v1 import models_pb2 as pb
from smolora.v1 import models_pb2_grpc
from smolorad.domain import Adapter, ImportSpec, JobKind, LoadEstimate, Model, Ref, ResidentModel, check_name
from smolorad.errors import EngineUnavailable
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.import_adapter import ImportAdapter
from smolorad.jobs.import_model import ImportModel
from smolorad.jobs.queue import Queue
from smolorad.jobs.units import Units, unit
from smolorad.link.convert import from_message, to_message
from smolorad.paths import user_path
from smolorad.residency import LoadRequest, Residency
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.services.job_stream import JobStreams
from smolorad.services.messages import model_message
from smolorad.services.pagination import page
from smolorad.services.uploads import Uploads
from smolorad.services.validation import check_duration, check_request_id
from smolorad.store.library import Library


class ModelService(models_pb2_grpc.ModelServiceServicer):
    """See the contract, proto/smolora/v1/models.proto."""

    def __init__(
        self,
        residency: Residency,
        library: Library,
        artifacts: Artifacts,
        uploads: Uploads,
        queue: Queue,
        streams: JobStreams,
        import_model: ImportModel,
        import_adapter: ImportAdapter,
        units: Units,
    ) -> None:
        self._residency = residency
        self._library = library
        self._artifacts = artifacts
        self._uploads = uploads
        self._queue = queue
        self._streams = streams
        self._import_model = import_model
        self._import_adapter = import_adapter
        self._units = units

    @map_errors
    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> AsyncIterator[pb.LoadModelResponse]:
        check_duration(request.keep_alive, "keep_alive")
        if request.dry_run:
            found = await self._residency.estimate(from_message(LoadRequest, request))
            yield pb.LoadModelResponse(estimate=to_message(pb.LoadEstimate, found))
            return
        async with aclosing(self._residency.load(from_message(LoadRequest, request))) as stages:
            async for stage in stages:
                match stage:
                    case ResidentModel():
                        yield pb.LoadModelResponse(resident=to_message(pb.ResidentModel, stage))
                    case LoadEstimate():
                        yield pb.LoadModelResponse(estimate=to_message(pb.LoadEstimate, stage))
                    case _:
                        yield pb.LoadModelResponse(progress=to_message(pb.LoadProgress, stage))

    @map_errors
    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        return pb.UnloadModelResponse(name=await self._residency.unload())

    @map_errors
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        rows, token = await page(request, self._library.models, lambda model: model.name, self._message)
        return pb.ListModelsResponse(models=rows, next_page_token=token)

    @map_errors
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=model_message(await self._library.model(check_name(request.name)), self._resident))

    @map_errors
    async def ImportModel(self, request: pb.ImportModelRequest, context: Context) -> AsyncIterator[pb.ImportModelResponse]:
        request_id = check_request_id(request.request_id)
        job = await self._queue.earlier(JobKind.IMPORT, request.name, request_id)
        if job is None:
            spec = await self._import_model.plan(from_message(ImportSpec, request))
            job = await self._queue.submit(JobKind.IMPORT, spec.name, spec, request_id)
        async with aclosing(self._streams.events(job.id)) as events:
            async for event in events:
                yield pb.ImportModelResponse(job_event=event)
        job = await self._streams.succeeded(job.id)
        yield pb.ImportModelResponse(model=model_message(await self._library.model(job.result), self._resident))

    @map_errors
    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        await self._artifacts.remove_model(check_name(request.name), self._residency.uses)
        return pb.DeleteModelResponse()

    @map_errors
    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        name = check_name(request.name) if request.name else ""

        async def fetch(limit: int, before: str | None) -> list[Adapter]:
            return await self._library.adapters(limit, before, name=name)

        rows, token = await page(request, fetch, lambda adapter: str(adapter.ref), _message)
        return pb.ListAdaptersResponse(adapters=rows, next_page_token=token)

    @map_errors
    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:
        return pb.GetAdapterResponse(adapter=_message(await self._library.adapter(Ref.parse(request.name))))

    @map_errors
    async def ImportAdapter(self, request: pb.ImportAdapterRequest, context: Context) -> pb.ImportAdapterResponse:
        name = check_name(request.name)
        adapter = await self._import_adapter.run(self._uploads.folder(request.upload_id), name, request.base_model)
        return pb.ImportAdapterResponse(adapter=_message(adapter))

    @map_errors
    async def ExportAdapter(self, request: pb.ExportAdapterRequest, context: Context) -> pb.ExportAdapterResponse:
        adapter = await self._library.adapter(Ref.parse(request.name))
        await self._artifacts.export_adapter(adapter, user_path(request.path, "path"))
        return pb.ExportAdapterResponse(path=request.path)

    @map_errors
    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        return pb.DeleteAdapterResponse(revisions=await self._delete_adapter(Ref.parse(request.name)))

    @unit
    async def _delete_adapter(self, ref: Ref) -> int:
        removed = await self._artifacts.remove_adapter(ref)
        with contextlib.suppress(EngineUnavailable):  # an engine that has died has nothing in memory
            await self._residency.detach(removed)
        return len(removed)

    def _message(self, model: Model) -> pb.Model:
        return model_message(model, self._resident)

    @property
    def _resident(self) -> str:
        return resident.name if (resident := self._residency.resident) else ""


def _message(adapter: Adapter) -> pb.Adapter:
    return to_message(pb.Adapter, adapter)
