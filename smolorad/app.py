"""The daemon's rooms, put together once: store, residency, jobs, services; opened, started, drained."""

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
from smolorad.jobs.import_adapter import AdapterImport
from smolorad.jobs.import_model import Import
from smolorad.jobs.job_runner import JobRunner, Kind
from smolorad.jobs.live_adapters import LiveAdapters
from smolorad.jobs.merge import Merge
from smolorad.jobs.prepare import Prepare
from smolorad.jobs.queue import Queue
from smolorad.jobs.train import Train
from smolorad.jobs.units import Units
from smolorad.residency import Residency, Resolver
from smolorad.services.datasets import DatasetService
from smolorad.services.generation import GenerationService
from smolorad.services.job_stream import JobViews
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
    """Where tests put their own: how an engine is started, and who does one-shot work."""

    engines: EngineFactory
    workers: Workers


class App:
    """Everything between the socket and the children."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        seams: Backends,
        end: Callable[[timedelta | None], None],
    ) -> None:
        home, workers = settings.places, seams.workers
        store, library = JobStore(database), Library(database)
        self._units = units = Units()
        self._home, self._library, self._workers = home, library, workers
        resolver = Resolver(library, workers, paths.cache_path(), settings.allow_remote_code)
        self._residency = residency = Residency(settings, library, resolver, seams.engines)
        shelf = Artifacts(home, store, library, units)
        train = Train(home, library, shelf, residency, resolver, workers)
        merge = Merge(home, library, shelf, workers, resolver)
        prepare = Prepare(home, workers, store, library, shelf, residency, resolver)
        import_ = Import(home, shelf, workers, resolver)
        events = Events(store)
        kinds: dict[JobKind, Kind] = {
            JobKind.TRAIN: train,
            JobKind.MERGE: merge,
            JobKind.PREPARE: prepare,
            JobKind.IMPORT: import_,
        }
        machine = JobRunner(home, store, library, events, kinds)
        self._queue = queue = Queue(home, store, events, machine, units, settings.max_queue)
        views = JobViews(store, events, queue, lambda: residency.resident.name if residency.resident else "")
        uploads = Uploads(home, units)
        generation = GenerationService(residency, library, LiveAdapters(home, store), settings.max_generations)
        self._datasets = DatasetService(uploads, library, shelf, workers, queue, views, prepare)
        self._training = TrainingService(library, queue, views, train, merge)
        self._jobs = JobService(store, queue, views)
        import_adapter = AdapterImport(library, shelf, residency, resolver, workers)
        self._models = ModelService(residency, library, shelf, uploads, queue, views, import_, import_adapter, units)
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
        """Before the first call is answered: folders and rows agree.

        A record of a copied home must not lead a removal to the original's folder, and no call may come between a folder that
        an earlier daemon did not record and its row.
        """
        await self._library.relocate(self._home)
        await adopt(self._home, self._library)

    async def start(self) -> None:
        """Takes up what an earlier daemon left: the model that was resident, jobs."""
        self._residency.start_preload()
        await self._queue.start()

    async def drain(self, grace_s: float) -> None:
        """Has training checkpoint within the grace, and interrupts the other jobs; all of them go on after the next start."""
        self._queue.shut()
        await self._residency.close(grace_s)
        await self._queue.close()
        await self._workers.close()

    async def close(self) -> None:
        """Returns once what calls have begun to change is changed; called when the server takes no more calls."""
        await self._units.close()


def real_backends(settings: Settings) -> Backends:
    """The processes."""
    cache = paths.cache_path()
    return Backends(lambda: EngineProcess.start(settings.environ), WorkerProcesses(settings.environ, cache))
