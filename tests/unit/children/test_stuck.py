"""For how long the engine is stuck with a call that was cancelled, as its pongs say."""

from __future__ import annotations

from typing import cast

import pytest

from smolorad.children.child import Child
from smolorad.children.engine import EngineProcess
from smolorad.link.v1 import link_pb2 as pb


class Told:
    """The child's side of a sign of life: a call that was cancelled 70 seconds ago, and what the engine does."""

    def __init__(self, busy_s: float, busy_call: int) -> None:
        self._pong = pb.Pong(busy_s=busy_s, busy_call=busy_call)

    async def ping(self) -> pb.Pong:
        return self._pong

    def left_s(self, call: int) -> float:
        return 70.0 if call == 7 else 0.0


@pytest.mark.parametrize(
    ("busy_s", "busy_call", "stuck_s"),
    [
        (80.0, 7, 70.0),  # it has worked on it since before it was cancelled
        (0.5, 7, 0.5),  # it waited behind another call, and the engine takes it only now
        (80.0, 8, 0.0),  # another call, which is not cancelled, takes long
    ],
)
async def test_only_the_step_of_a_cancelled_call_counts(busy_s: float, busy_call: int, stuck_s: float) -> None:
    pong = await EngineProcess(cast(Child, Told(busy_s, busy_call))).ping()
    assert pong.stuck_s == pytest.approx(stuck_s)
