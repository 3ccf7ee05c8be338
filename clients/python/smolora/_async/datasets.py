"""Calls about datasets.

`smolora._sync.datasets` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Unpack

from smolora import _values as values
from smolora._async.calls import Calls
from smolora._async.streams import AsyncJobRun
from smolora._convert import from_message
from smolora._errors import InvalidRequest, NotFound
from smolora._fields import PrepareKeywords
from smolora._files import find_files, fingerprint
from smolora._references import AnyPath, model_reference, new_request_id
from smolora._settings import fill, hub_dataset, prepare_settings
from smolora.v1 import datasets_pb2, datasets_pb2_grpc


class DatasetCalls(Calls):
    """What a client does with datasets."""

    async def upload(self, paths: AnyPath | Iterable[AnyPath], on_sent: Callable[[int, int], None] | None = None) -> str:
        """Sends files, and folders recursively without what begins with a dot; returns the upload's id.

        `on_sent(done, total)` is called with bytes, before each piece, in a thread.
        """
        return await self._send(find_files([paths] if isinstance(paths, (str, os.PathLike)) else paths), on_sent)

    async def prepare(
        self,
        name: str,
        paths: AnyPath | Iterable[AnyPath] = (),
        *,
        upload_id: str = "",
        hub: str | values.HubDataset | None = None,
        request_id: str = "",
        on_sent: Callable[[int, int], None] | None = None,
        **settings: Unpack[PrepareKeywords],
    ) -> AsyncJobRun[values.Dataset]:
        """Makes a dataset of files and folders (`paths`), of an upload, or of a dataset of the hub; exactly one of the three.

        `settings`: those of the contract by name: `on_error="drop", chunk_size=200`. What is left out, or None, takes the
        contract's default; `model` may be a folder, as in `load`. The result is the Dataset with its report. Where the newest
        revision was made of the same files, unchanged, in the same way, that is the result, and nothing is sent. `on_sent` is
        that of `upload`.
        """
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if [bool(given), bool(upload_id), hub is not None].count(True) != 1:
            raise InvalidRequest("prepare() takes exactly one of paths, upload_id and hub; give one of them.")
        if model := settings.get("model"):
            settings["model"] = model_reference(model)
        request = prepare_settings(settings)
        request.MergeFrom(fill(datasets_pb2.PrepareDatasetRequest, name=name, upload_id=upload_id, hub=hub_dataset(hub)))
        if given:
            if (known := await self._prepared_before(request, given)) is not None:
                return known
            request.upload_id = await self.upload(given, on_sent)
        request.MergeFrom(fill(datasets_pb2.PrepareDatasetRequest, request_id=request_id or new_request_id()))
        stub = datasets_pb2_grpc.DatasetServiceStub
        return await self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)

    async def _prepared_before(
        self, request: datasets_pb2.PrepareDatasetRequest, paths: list[AnyPath]
    ) -> AsyncJobRun[values.Dataset] | None:
        """What was made of the same files in the same way, if that is the newest; notes in the request what they are."""
        request.source_fingerprint = fingerprint(find_files(paths))
        try:
            stub = datasets_pb2_grpc.DatasetServiceStub
            return await self._run_job(stub, "PrepareDataset", request, values.Dataset, self.dataset)
        except NotFound:
            return None

    async def datasets(self, limit: int = 100) -> list[values.Dataset]:
        """Datasets, newest first, each with its newest revision; at most `limit`."""
        request = datasets_pb2.ListDatasetsRequest()
        stub = datasets_pb2_grpc.DatasetServiceStub
        return await self._list(stub, "ListDatasets", request, "datasets", values.Dataset, limit)

    async def dataset(self, name: str) -> values.Dataset:
        """`name` (its newest revision) or `name@revision`, with its report."""
        request = fill(datasets_pb2.GetDatasetRequest, name=name)
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "GetDataset", request)
        return from_message(values.Dataset, answer.dataset)

    async def preview(
        self, name: str, *, split: str = "train", offset: int = 0, limit: int = 5, model: AnyPath = ""
    ) -> values.Preview:
        """Some rows, as training will read them with `model`, by default the loaded one; `split`: `train`, `validation`."""
        request = fill(
            datasets_pb2.PreviewDatasetRequest, name=name, split=split, offset=offset, limit=limit, model=model_reference(model)
        )
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "PreviewDataset", request)
        return from_message(values.Preview, answer)

    async def diff_datasets(self, before: str, after: str, *, limit: int = 20) -> values.DatasetDiff:
        """Which rows `after` has and `before` has not, and the reverse; at most `limit` of each."""
        request = fill(datasets_pb2.DiffDatasetsRequest, before=before, after=after, limit=limit)
        answer = await self._call(datasets_pb2_grpc.DatasetServiceStub, "DiffDatasets", request, timeout=60 * self.timeout)
        return from_message(values.DatasetDiff, answer)

    async def delete_dataset(self, name: str) -> int:
        """Removes `name@revision`, or with `name` every revision; returns how many."""
        request = fill(datasets_pb2.DeleteDatasetRequest, name=name)
        return int((await self._call(datasets_pb2_grpc.DatasetServiceStub, "DeleteDataset", request)).revisions)
