"""App: the store, the residency, the jobs and the services, wired together once; started and drained together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import grpc.aio

from smolora.common import paths
from smolora.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from smolorad.children.engine import EngineFactory, EngineProcess
from smolorad.children.worker import WorkerProcesses, Workers
from smolorad.config import Settings
from smolorad.domain import JobKind
from smolorad.jobs.artifacts import Artifacts
from smolorad.jobs.events import Events
from smolorad.jobs.import_adapter import ImportAdapter
from smolorad.jobs.import_model import ImportModel
from smolorad.jobs.job_runner import JobHandler, JobRunner
from smolorad.jobs.live_adapters import LiveAdapters
from smolorad.jobs.merge import Merge
from smolorad.jobs.prepare import Prepare
from smolorad.jobs.queue import Queue
from smolorad.jobs.train import Train
from smolorad.jobs.units import Units
from smolorad.residency import Residency, Resolver
from smolorad.services.datasets import DatasetService
from smolorad.services.generation import GenerationService
from smolorad.services.job_stream import JobStreams
from smolorad.services.jobs import JobService
from smolorad.services.models import ModelService
from smolorad.services.system import SystemService
from smolorad.services.training import TrainingService
from smolorad.services.uploads import Uploads
from smolorad.store.database import Database
from smolorad.store.jobs import JobStore
from smolorad.store.library import Library
from smolorad.store.recover import adopt

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (datasets_pb2, "DatasetService"),
        (training_pb2, "TrainingService"),
        (jobs_pb2, "JobService"),
        (models_pb2, "ModelService"),
        (generation_pb2, "GenerationService"),
        (system_pb2, "SystemService"),
    )
)


@dataclass(frozen=True, slots=True)
class Backends:
    """The child processes: how to start an engine, and the workers of one-shot jobs. Tests replace them."""

    engines: EngineFactory
    workers: Workers


class App:
    """Everything between the socket and the children."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        backends: Backends,
        end: Callable[[timedelta | None], None],
    ) -> None:
        home, workers = settings.places, backends.workers
        store, library = JobStore(database), Library(database)
        self._units = units = Units()
        self._home, self._library, self._workers = home, library, workers
        resolver = Resolver(library, workers, paths.cache_path(), settings.allow_remote_code)
        self._residency = residency = Residency(settings, library, resolver, backends.engines)
        artifacts = Artifacts(home, store, library, units)
        train = Train(home, library, artifacts, residency, resolver, workers)
        merge = Merge(home, library, artifacts, workers, resolver)
        prepare = Prepare(
            home, workers, store=store, library=library, artifacts=artifacts, residency=residency, resolver=resolver
        )
        import_model = ImportModel(home, artifacts, workers, resolver)
        events = Events(store)
        handlers: dict[JobKind, JobHandler] = {
            JobKind.TRAIN: train,
            JobKind.MERGE: merge,
            JobKind.PREPARE: prepare,
            JobKind.IMPORT: import_model,
        }
        runner = JobRunner(home, store, library, events, handlers)
        self._queue = queue = Queue(home, store, events, runner, units, settings.max_queue)
        streams = JobStreams(store, events, queue, lambda: residency.resident.name if residency.resident else "")
        uploads = Uploads(home, units)
        generation = GenerationService(residency, library, LiveAdapters(home, store), settings.max_generations)
        self._datasets = DatasetService(
            library=library,
            uploads=uploads,
            artifacts=artifacts,
            workers=workers,
            queue=queue,
            streams=streams,
            prepare=prepare,
        )
        self._training = TrainingService(library, queue, streams, train, merge)
        self._jobs = JobService(store, queue, streams)
        self._models = ModelService(
            residency=residency,
            library=library,
            uploads=uploads,
            artifacts=artifacts,
            queue=queue,
            streams=streams,
            import_model=import_model,
            import_adapter=ImportAdapter(library, artifacts, residency, resolver, workers),
            units=units,
        )
        self._generation = generation
        self._system = SystemService(settings, residency, queue, generation, end)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the services to a server that is not started yet."""
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(self._datasets, server)
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self._training, server)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(self._jobs, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self._models, server)
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self._generation, server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(self._system, server)

    async def settle(self) -> None:
        """Makes folders and rows agree, before the first call is answered.

        A record of a copied home must not lead a removal to the original's folder, and no call may come between a folder that
        an earlier daemon did not record and its row.
        """
        await self._library.relocate(self._home)
        await adopt(self._home, self._library)

    async def start(self) -> None:
        """Resumes what an earlier daemon left: loads its model again and runs its unfinished jobs."""
        self._residency.start_preload()
        await self._queue.start()

    async def drain(self, grace_s: float) -> None:
        """Lets a training checkpoint within the grace and interrupts the other jobs; all of them resume at the next start."""
        self._queue.shut()
        await self._residency.close(grace_s)
        await self._queue.close()
        await self._workers.close()

    async def close(self) -> None:
        """Waits for the changes that calls have begun; called when the server takes no more calls."""
        await self._units.close()


def real_backends(settings: Settings) -> Backends:
    """Engine and workers as child processes."""
    cache = paths.cache_path()
    return Backends(
        lambda: EngineProcess.start(settings.environ, settings.prefix_cache_disk_bytes),
        WorkerProcesses(settings.environ, cache),
    )
