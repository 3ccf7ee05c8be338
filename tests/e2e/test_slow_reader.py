"""Somebody who asks for much and reads none of it delays nobody."""

from __future__ import annotations

from pathlib import Path

import grpc

import smolora
from smolora.v1 import generation_pb2, generation_pb2_grpc
from tests.daemon_process import daemon_process
from tests.tiny import tiny_model

# With so many likeliest tokens beside each, more than gRPC and the daemon hold for a stream that is not read.
MANY, ASIDE = 3000, 20


def test_a_stream_that_is_not_read_delays_nobody(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", max_position_embeddings=2 * MANY)
    with daemon_process() as daemon, smolora.Client(daemon.socket) as client:
        client.load(str(model), keep_alive=-1).result()
        with grpc.insecure_channel(f"unix:{daemon.socket}", options=[("grpc.default_authority", "localhost")]) as channel:
            request = generation_pb2.GenerateRequest(
                prompt="A",
                sampling=generation_pb2.Sampling(max_tokens=MANY, temperature=1.0, seed=1),
                logprobs=True,
                top_logprobs=ASIDE,
            )
            unread = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)
            next(unread)
            for _ in range(3):
                answer = client.generate("The quick brown fox", max_tokens=64, temperature=0)
                answer.text()
                assert answer.outcome is not None
                assert answer.outcome.usage.completion_tokens > 0
            unread.cancel()
        assert client.generate("A", max_tokens=4, temperature=0).text() is not None
