"""Frames over real socketpairs, from both ends."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolorad.errors import EngineUnavailable, Internal
from smolorad.link import frames
from smolorad.link.frames import MAX_FRAME_BYTES, AsyncFrames, Frames
from smolorad.link.v1 import link_pb2 as pb

EVENTS = st.builds(pb.Event, call=st.integers(0, 2**64 - 1), text=st.text(max_size=3000))


@given(st.lists(EVENTS, max_size=20))
def test_what_is_sent_arrives_in_order(events: list[pb.Event]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: [Frames(ours).send(event) for event in events])
        sender.start()
        reader = Frames(theirs)
        assert [reader.receive(pb.Event) for _ in events] == events
        sender.join()


@given(EVENTS, st.data())
def test_a_frame_cut_anywhere_is_the_end(event: pb.Event, data: st.DataObject) -> None:
    body = event.SerializeToString()
    whole = struct.pack("!I", len(body)) + body
    cut = data.draw(st.integers(0, len(whole) - 1))
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(whole[:cut])
        assert Frames(theirs).receive(pb.Event) is None


def test_a_child_whose_daemon_is_killed_with_an_event_unread_ends() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "smolorad.corpus", "--link-fd", str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True) as child:
        try:
            theirs.close()
            assert ours.recv(1, socket.MSG_PEEK)  # that it is ready; the kernel drops it when this end closes
            ours.close()
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (child.returncode, said) == (1, "")


async def test_the_two_kinds_of_ends_speak_to_each_other() -> None:
    ours, theirs = socket.socketpair()
    daemon, child = await AsyncFrames.over(ours), Frames(theirs)
    big = pb.Command(call=1, generate=pb.Generate(adapter=pb.AdapterFolder(key="x" * 3_000_000)))
    reading = asyncio.create_task(asyncio.to_thread(child.receive, pb.Command))
    await daemon.send(big)
    assert await reading == big
    child.send(pb.Event(call=1, text="a"))
    assert await daemon.receive(pb.Event) == pb.Event(call=1, text="a")
    daemon.close()
    assert await asyncio.to_thread(child.receive, pb.Command) is None
    theirs.close()


async def test_a_daemon_sees_that_its_child_is_gone() -> None:
    ours, theirs = socket.socketpair()
    daemon = await AsyncFrames.over(ours)
    theirs.close()
    assert await daemon.receive(pb.Event) is None
    with pytest.raises(EngineUnavailable, match="try again"):
        await _send_many(daemon)
    daemon.post(pb.Command(call=1, cancel=pb.Cancel()))  # of no consequence
    daemon.close()


async def _send_many(daemon: AsyncFrames) -> None:
    for _ in range(100):  # the first ones may still find room in the socket
        await daemon.send(pb.Command(call=1, ping=pb.Ping()))


async def test_a_frame_too_long_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    ours, theirs = socket.socketpair()
    daemon, child = await AsyncFrames.over(ours), Frames(theirs)
    with pytest.raises(Internal, match="100"):
        child.send(pb.Event(text="x" * 200))
    theirs.sendall(struct.pack("!I", MAX_FRAME_BYTES + 1))
    with pytest.raises(Internal, match="announces"):
        await daemon.receive(pb.Event)
    daemon.close()
    theirs.close()


def test_several_threads_may_send() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer, reader = Frames(ours), Frames(theirs)

        def send(call: int) -> None:
            for i in range(200):
                writer.send(pb.Event(call=call, text=str(i)))

        threads = [threading.Thread(target=send, args=(call,)) for call in range(4)]
        for thread in threads:
            thread.start()
        seen: dict[int, list[str]] = {call: [] for call in range(4)}
        for _ in range(800):
            event = reader.receive(pb.Event)
            assert event is not None
            seen[event.call].append(event.text)
        for thread in threads:
            thread.join()
        assert all(texts == [str(i) for i in range(200)] for texts in seen.values())
