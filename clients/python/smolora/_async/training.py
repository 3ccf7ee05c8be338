"""Calls that train and merge.

`smolora._sync.training` is generated from this file: change this one, then run scripts/unasync.py.
"""

from __future__ import annotations

from typing import Unpack

from smolora import _values as values
from smolora._async.adapters import AdapterCalls
from smolora._async.streams import AsyncJobRun
from smolora._fields import TrainKeywords
from smolora._references import AnyPath, model_reference, new_request_id
from smolora._settings import enum_name, fill, train_settings
from smolora.v1 import common_pb2, training_pb2, training_pb2_grpc


class TrainingCalls(AdapterCalls):
    """What a client does to train adapters and to merge them; the results are adapters and models."""

    async def train(
        self,
        dataset: str,
        adapter: str,
        *,
        model: AnyPath = "",
        parent: str = "",
        request_id: str = "",
        **settings: Unpack[TrainKeywords],
    ) -> AsyncJobRun[values.Adapter]:
        """Trains an adapter on the loaded model, or on `model`, which is loaded first where another one is.

        `parent` is an adapter to continue from, in its shape: `name` or `name@revision`.
        `settings`: those of LoraSettings and TrainerSettings by name: `max_steps=200, learning_rate=1e-4, r=16`. What is left
        out takes the contract's default. The result is the Adapter. Cancel it with `cancel(run.job_id)`, never by leaving.
        """
        lora, trainer = train_settings(settings)
        request = fill(
            training_pb2.TrainRequest,
            dataset=dataset,
            adapter=adapter,
            model=model_reference(model),
            parent=parent,
            lora=lora,
            trainer=trainer,
            request_id=request_id or new_request_id(),
        )
        return await self._run_job(training_pb2_grpc.TrainingServiceStub, "Train", request, values.Adapter, self.adapter)

    async def merge(
        self, adapter: str, name: str, *, dtype: str | None = None, request_id: str = ""
    ) -> AsyncJobRun[values.Model]:
        """Merges an adapter into its base, as a model of its own; `dtype`: `float32`, `bfloat16` or `float16`.

        The result is the Model, with the proof that it answers as the adapter does.
        """
        request = fill(
            training_pb2.MergeRequest,
            adapter=adapter,
            name=name,
            dtype=enum_name(common_pb2.Dtype, dtype),
            request_id=request_id or new_request_id(),
        )
        return await self._run_job(training_pb2_grpc.TrainingServiceStub, "Merge", request, values.Model, self.model)
