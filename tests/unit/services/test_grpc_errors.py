"""Errors and the statuses they become."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from smolora.v1 import errors_pb2
from smolorad import errors
from smolorad.errors import BadData, EngineUnavailable, InvalidRequest, QueueFull, SmoloraError, Violation
from smolorad.services.grpc_errors import CODE, DOMAIN, status_of

REASONS = [value.name.removeprefix("ERROR_REASON_") for value in errors_pb2.ErrorReason.DESCRIPTOR.values if value.number]


def details(status: status_pb2.Status, kind: type) -> list:  # type: ignore[type-arg]
    found = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


def test_every_reason_of_the_contract_has_a_code_and_a_class() -> None:
    assert set(CODE) == set(REASONS)
    assert {errors.by_reason(reason).reason for reason in REASONS} == set(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_a_status_has_exactly_one_error_info(reason: str) -> None:
    status = status_of(errors.by_reason(reason)("Do this."))
    (info,) = details(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, status.message) == (reason, DOMAIN, "Do this.")
    assert status.code == CODE[reason].value[0] != grpc.StatusCode.OK.value[0]


def test_fields_at_fault_are_named() -> None:
    (bad,) = details(status_of(InvalidRequest.field("trainer.max_steps", "is 0")), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("trainer.max_steps", "is 0")]


@pytest.mark.parametrize("kind", [QueueFull, EngineUnavailable])
def test_who_is_busy_says_when_to_try_again(kind: type[SmoloraError]) -> None:
    (retry,) = details(status_of(kind("Busy.")), error_details_pb2.RetryInfo)
    assert retry.retry_delay.seconds > 0


def test_a_status_stays_below_what_metadata_may_hold() -> None:
    rows = [Violation(f"verses-{'é' * 200}.jsonl:{n}", "is no JSON: " + "x" * 300) for n in range(100)]
    status = status_of(BadData("ü" * 10_000, rows))
    assert len(status.message.encode()) <= 1003
    # Base64 of the details, and the message once more in percent-encoding.
    assert len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode()) < 9000
    (bad,) = details(status, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == rows[0].field


def test_half_a_character_in_a_message_is_no_obstacle() -> None:
    """A path of bytes that are no text has such halves; sent to the daemon as they are, they ended the engine."""
    error = InvalidRequest.field("caf\udce9", "is \ud800")
    assert (str(error), error.message) == ("caf?: is ?",) * 2
    assert error.violations == (Violation("caf?", "is ?"),)
