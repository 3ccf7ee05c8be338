"""GenerationService: text from the loaded model and its adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from smolora.v1 import generation_pb2 as pb
from smolora.v1 import generation_pb2_grpc
from smolorad.children.engine import AdapterFolder, LiveAdapter
from smolorad.domain import Adapter, GenerateOutcome, GenerateSpec, Ref
from smolorad.errors import EngineUnavailable, InvalidRequest, QueueFull
from smolorad.jobs.live_adapters import LiveAdapters, UnfinishedAdapter
from smolorad.link.convert import from_message, to_message
from smolorad.residency import Residency
from smolorad.services.generate_request import check_prompt, parse_request
from smolorad.services.grpc_errors import Context, map_errors
from smolorad.store.library import Library

_AnyAdapter = Adapter | UnfinishedAdapter | None

_TOKEN_IDS_LIMIT = 2**20


class GenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """See the contract, proto/smolora/v1/generation.proto."""

    def __init__(self, residency: Residency, library: Library, live: LiveAdapters, max_generations: int) -> None:
        self._residency = residency
        self._live = live
        self._library = library
        self._max_generations = max_generations
        self.active = 0

    @map_errors
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        spec = parse_request(request)
        adapter: _AnyAdapter = None
        if self._live.names_one(spec.adapter):
            adapter = await self._live.find(spec.adapter)
        elif spec.adapter:
            adapter = await self._library.adapter(Ref.parse(spec.adapter, "adapter"))
        if self.active >= self._max_generations:
            raise QueueFull(f"{self.active} generations are under way already; try again when one has ended.")
        self.active += 1
        try:
            async with aclosing(self._answer(spec, adapter)) as answer:
                async for message in answer:
                    yield message
        finally:
            self.active -= 1

    @map_errors
    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        spec = from_message(GenerateSpec, request)
        check_prompt(spec)
        async with self._residency.lease() as lease:
            ids = await lease.engine.count_tokens(spec.prompt, spec.messages, parse_special=spec.parse_special)
        return pb.CountTokensResponse(tokens=len(ids), token_ids=ids)

    @map_errors
    async def DecodeTokens(self, request: pb.DecodeTokensRequest, context: Context) -> pb.DecodeTokensResponse:
        if len(request.token_ids) > _TOKEN_IDS_LIMIT:
            raise InvalidRequest.field("token_ids", f"are {len(request.token_ids):,}, and {_TOKEN_IDS_LIMIT:,} is the limit")
        async with self._residency.lease() as lease:
            text = await lease.engine.decode_tokens(request.token_ids, skip_special_tokens=request.skip_special_tokens)
        return pb.DecodeTokensResponse(text=text)

    async def _answer(self, spec: GenerateSpec, adapter: _AnyAdapter) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Generates, and tries once more where the engine died before the first text: the client has seen none."""
        restarts, sent = self._residency.restarts, False
        try:
            async with aclosing(self._ask(spec, adapter)) as messages:
                async for message in messages:
                    sent = True
                    yield message
                return
        except EngineUnavailable:
            if sent or self._residency.restarts == restarts:
                raise
        async with aclosing(self._ask(spec, adapter)) as messages:
            async for message in messages:
                yield message

    async def _ask(self, spec: GenerateSpec, adapter: _AnyAdapter) -> AsyncGenerator[pb.GenerateResponse, None]:
        async with self._residency.lease(spec.model, keep_alive=spec.keep_alive) as lease:
            asked: AdapterFolder | LiveAdapter | None = None
            if isinstance(adapter, UnfinishedAdapter):
                lease.check_model(adapter.model, adapter.reference)
                asked = adapter.adapter
            elif adapter is not None:
                lease.check_base(adapter)
                asked = AdapterFolder(str(adapter.ref), str(adapter.ref), Path(adapter.path))
            async with aclosing(lease.engine.generate(spec, asked)) as events:
                async for event in events:
                    if isinstance(event, str):
                        yield pb.GenerateResponse(text=event)
                    elif isinstance(event, GenerateOutcome):
                        outcome = dataclasses.replace(event, model=lease.model.name)
                        yield pb.GenerateResponse(outcome=to_message(pb.GenerateOutcome, outcome))
                    else:
                        yield pb.GenerateResponse(token_logprob=to_message(pb.TokenLogprob, event))
