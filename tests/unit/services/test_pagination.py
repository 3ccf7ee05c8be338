"""Pages: each row once, whatever the size of a page and of its messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smolora.v1 import jobs_pb2
from smolora.v1.generation_pb2 import ChatMessage
from smolorad.services.grpc_errors import MESSAGE_LIMIT_BYTES
from smolorad.services.pagination import page


async def pages(sizes: list[int], page_size: int) -> list[list[str]]:
    """The rows of every page, of messages with these sizes."""

    async def fetch(limit: int, before: str | None) -> list[int]:
        begin = 0 if before is None else int(before) + 1
        return list(range(len(sizes)))[begin : begin + limit]

    found, token = [], ""
    while True:
        request = jobs_pb2.ListJobsRequest(page_size=page_size, page_token=token)
        messages, token = await page(request, fetch, str, lambda row: ChatMessage(role=str(row), content="x" * sizes[row]))
        assert sum(message.ByteSize() for message in messages) < MESSAGE_LIMIT_BYTES
        found.append([message.role for message in messages])
        if not token:
            return found


@given(st.lists(st.sampled_from([0, 10, 1_000_000, 2_900_000, 3_100_000]), max_size=12), st.integers(1, 13))
async def test_every_row_comes_once_and_each_page_fits_into_a_message(sizes: list[int], page_size: int) -> None:
    found = await pages(sizes, page_size)
    assert [row for rows in found for row in rows] == [str(row) for row in range(len(sizes))]
    assert all(found[:-1])


@given(st.lists(st.booleans(), max_size=9), st.integers(1, 10))
async def test_a_row_that_no_message_can_carry_hides_no_other(damaged: list[bool], page_size: int) -> None:
    async def fetch(limit: int, before: str | None) -> list[int]:
        begin = 0 if before is None else int(before) + 1
        return list(range(len(damaged)))[begin : begin + limit]

    found, token = [], ""
    while True:
        request = jobs_pb2.ListJobsRequest(page_size=page_size, page_token=token)
        # attempts is an int32
        messages, token = await page(
            request, fetch, str, lambda row: jobs_pb2.Job(id=str(row), attempts=2**40 if damaged[row] else 1)
        )
        found += [message.id for message in messages]
        if not token:
            break
    assert found == [str(row) for row, is_damaged in enumerate(damaged) if not is_damaged]
