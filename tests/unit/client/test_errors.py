"""What goes wrong raises one class a reason, and never an error of gRPC."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

import smolora
from smolora import _errors as errors
from smolora.common.paths import grpc_target
from smolora.v1 import errors_pb2, generation_pb2, system_pb2
from smolorad import errors as daemon_errors
from tests.unit.client.fake_daemon import FakeDaemon, fail, silence

REASONS = [name.removeprefix("ERROR_REASON_") for name, number in errors_pb2.ErrorReason.items() if number]


def test_every_reason_of_the_contract_has_a_class_of_its_own() -> None:
    classes = [errors.by_reason(reason) for reason in REASONS]
    assert [cls.reason for cls in classes] == REASONS
    assert len(set(classes)) == len(REASONS)


def test_client_and_daemon_name_their_classes_alike() -> None:
    for reason in REASONS:
        assert errors.by_reason(reason).__name__ == daemon_errors.by_reason(reason).__name__


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in errors.BY_REASON.values():
        assert cls.__name__ in errors.__doc__
        assert cls.__name__ in smolora.__all__


def test_a_reason_of_a_newer_daemon_is_still_one_of_ours() -> None:
    assert errors.by_reason("SOMETHING_NEW") is smolora.SmoloraError


@pytest.mark.parametrize("reason", REASONS)
async def test_a_reason_on_the_wire_raises_its_class(daemon: FakeDaemon, client: Any, reason: str) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await fail(context, reason, "Do this.", violations=[("trainer.max_steps", "is 0")], retry_s=5)

    daemon.script["GetStatus"] = refuse
    with pytest.raises(errors.by_reason(reason)) as caught:
        await client.status()
    assert type(caught.value) is errors.by_reason(reason)
    assert (caught.value.message, str(caught.value)) == ("Do this.", "Do this.")
    assert caught.value.violations == (smolora.Violation("trainer.max_steps", "is 0"),)
    assert caught.value.retry_after == 5.0
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, smolora.InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, smolora.NotFound),
        (grpc.StatusCode.DEADLINE_EXCEEDED, smolora.TimedOut),
        (grpc.StatusCode.UNAVAILABLE, smolora.ConnectionLost),
        (grpc.StatusCode.CANCELLED, smolora.Cancelled),
        (grpc.StatusCode.UNKNOWN, smolora.Internal),
    ],
)
async def test_a_status_without_a_reason_is_told_by_its_code(
    daemon: FakeDaemon, client: Any, code: grpc.StatusCode, expected: type[Exception]
) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(code, "bare")

    daemon.script["GetStatus"] = refuse
    with pytest.raises(expected):
        await client.status()


async def test_a_call_the_daemon_does_not_know_says_that_versions_differ(client: Any) -> None:
    with pytest.raises(smolora.Internal, match="differ in version"):
        await client.status()


async def test_a_message_too_large_is_the_callers_to_mend(daemon: FakeDaemon, client: Any) -> None:
    async def count(request: Any, context: Any) -> Any:
        return generation_pb2.CountTokensResponse()

    daemon.script["CountTokens"] = count
    with pytest.raises(smolora.InvalidRequest, match="too much for one call"):
        await client.count_tokens("x" * 5 * 2**20)


async def test_details_that_contradict_the_status_line_do_not_break_the_client(daemon: FakeDaemon, client: Any) -> None:
    async def refuse(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "none here", (("grpc-status-details-bin", b"\xff\xff"),))

    daemon.script["GetStatus"] = refuse
    with pytest.raises(smolora.NotFound, match="none here"):
        await client.status()


async def test_no_daemon_names_the_line_that_starts_one(short_path: Path) -> None:
    async with smolora.AsyncClient(short_path / "none.sock") as aio:
        with pytest.raises(smolora.DaemonNotRunning, match=r"\n  SMOLORA_SOCKET=.*none\.sock smolorad serve$"):
            await aio.status()
        with pytest.raises(smolora.DaemonNotRunning):
            await aio.train("verses", "poet")
        with pytest.raises(smolora.DaemonNotRunning):
            await aio.watch("j1").result()
        with pytest.raises(smolora.DaemonNotRunning):
            await aio.generate("x").text()


async def test_a_daemon_that_starts_later_is_found_at_once(short_path: Path, daemon: FakeDaemon) -> None:
    async def status(request: Any, context: Any) -> Any:
        return system_pb2.GetStatusResponse(version="later")

    daemon.script["GetStatus"] = status
    await daemon.stop()
    daemon.socket.unlink(missing_ok=True)
    async with smolora.AsyncClient(daemon.socket) as aio:
        with smolora.Client(daemon.socket) as blocking:
            for _ in range(3):  # each miss makes gRPC wait longer before it tries again
                with pytest.raises(smolora.DaemonNotRunning):
                    await aio.status()
                with pytest.raises(smolora.DaemonNotRunning):
                    await asyncio.to_thread(blocking.status)
            await daemon.start()
            assert (await aio.status()).version == "later"
            assert (await asyncio.to_thread(blocking.status)).version == "later"


def test_no_daemon_at_the_usual_place_needs_no_socket_named(home: Path) -> None:
    with smolora.Client() as blocking, pytest.raises(smolora.DaemonNotRunning, match=r"\n  smolorad serve$"):
        blocking.status()


def test_a_socket_left_by_a_killed_daemon_is_no_daemon(short_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(short_path / "d.sock"))
    with smolora.Client(short_path / "d.sock") as blocking, pytest.raises(smolora.DaemonNotRunning):
        blocking.status()


def test_a_socket_path_that_no_system_takes_is_refused_with_its_length() -> None:
    with pytest.raises(smolora.InvalidRequest, match="is 104 bytes long, and 103 is the limit"):
        smolora.Client("/" + "s" * 103)


async def test_a_path_with_spaces_and_percent_signs_is_reached(short_path: Path) -> None:
    folder = short_path / "Application Support é%41"
    folder.mkdir()
    fake = FakeDaemon(folder / "d.sock")

    async def status(request: Any, context: Any) -> Any:
        return system_pb2.GetStatusResponse(version="1")

    fake.script["GetStatus"] = status
    await fake.start()
    try:
        async with smolora.AsyncClient(fake.socket) as aio:
            assert (await aio.status()).version == "1"
    finally:
        await fake.stop()


def test_a_path_that_is_no_text_can_be_reached_too() -> None:
    assert grpc_target(Path(os.fsdecode(b"/tmp/\xff a.sock"))) == "unix:/tmp/%FF%20a.sock"


async def test_a_silent_daemon_ends_a_call_at_its_deadline(daemon: FakeDaemon) -> None:
    async def hang(request: Any, context: Any) -> None:
        await silence()

    daemon.script["GetStatus"] = hang
    async with smolora.AsyncClient(daemon.socket, timeout=0.2) as aio:
        with pytest.raises(smolora.TimedOut):
            await aio.status()


def test_a_closed_client_says_so(short_path: Path) -> None:
    blocking = smolora.Client(short_path / "d.sock")
    blocking.close()
    with pytest.raises(RuntimeError, match="closed"):
        blocking.status()
