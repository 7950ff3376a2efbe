"""The link itself: frames move both ways, none waits for the other way, and however it ends, it ends whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.message import Message

from troth import failpoints
from troth import link as link_module
from troth.errors import RemoteProtocolError
from troth.link import Link, Outbox, Packed, from_wire, paced
from troth.v1 import participant_pb2

Frame = participant_pb2.SessionRequest


class Peer:
    """The other end of a stream: takes frames, one at a time when it is told to, and sends some."""

    def __init__(self, *frames: Frame, stays: bool = False) -> None:
        self.frames = frames
        self.stays = stays
        self.left = asyncio.Event()
        self.taken: list[Frame] = []
        self.full = asyncio.Event()
        """A frame waits until it is taken."""
        self.takes = asyncio.Event()
        self.takes.set()

    async def write(self, packed: Packed) -> None:
        self.full.set()
        await self.takes.wait()
        self.taken.append(from_wire(Frame, packed.data))

    async def incoming(self) -> AsyncIterator[Message]:
        for frame in self.frames:
            yield frame
        if self.stays:
            await self.left.wait()

    @property
    def votes(self) -> list[str]:
        return [vote.transaction_id for frame in self.taken for vote in frame.votes]


def vote(name: str) -> participant_pb2.Vote:
    return participant_pb2.Vote(transaction_id=name, kind=participant_pb2.VOTE_KIND_YES)


def linked(peer: Peer, receive: Callable[[Message], None] = lambda frame: None) -> tuple[Link[Frame], Outbox[Frame]]:
    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000)
    return Link("participant", outbox, peer.write, peer.incoming(), receive), outbox


async def test_it_ends_when_the_peer_ends_the_stream() -> None:
    received: list[Message] = []
    frames = (Frame(reports_complete=True), Frame(votes=[vote("a")]))
    link, _ = linked(Peer(*frames), received.append)
    await link.run()
    assert received == list(frames)


async def test_what_waits_is_written_before_it_ends_by_itself() -> None:
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    outbox.put("votes", vote("a"))
    outbox.set("hello", participant_pb2.Hello(participant="pay"))
    link.end()
    await link.run()
    assert peer.votes == ["a"]
    assert peer.taken[0].hello.participant == "pay"


async def test_a_peer_that_has_said_its_last_word_still_gets_what_waits() -> None:
    peer = Peer()
    peer.takes.clear()
    link, outbox = linked(peer)
    outbox.put("votes", vote("a"))
    link.end()
    running = asyncio.create_task(link.run())
    await peer.full.wait()
    for _ in range(10):  # its end is read meanwhile
        await asyncio.sleep(0)
    peer.takes.set()
    await running
    assert peer.votes == ["a"]


async def test_that_a_peer_that_has_left_takes_nothing_more_is_no_error() -> None:
    async def gone(_: Packed) -> None:
        raise OSError("the transport is gone")

    peer = Peer()
    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000)
    link = Link("participant", outbox, gone, peer.incoming(), lambda frame: None)
    outbox.put("votes", vote("a"))
    link.end()
    await link.run()


async def test_a_writer_with_nothing_to_write_is_woken() -> None:
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    await turns()
    assert not peer.taken
    outbox.put("votes", vote("a"))
    await peer.full.wait()
    await turns()
    assert peer.votes == ["a"]
    peer.full.clear()
    outbox.set("reports_complete", True)
    await peer.full.wait()
    peer.left.set()
    await running
    assert peer.taken[1] == Frame(reports_complete=True)


async def test_reading_never_waits_for_writing() -> None:
    received: list[Message] = []
    peer = Peer(Frame(votes=[vote("theirs")]), stays=True)
    peer.takes.clear()
    link, outbox = linked(peer, received.append)
    outbox.put("votes", vote("ours"))
    running = asyncio.create_task(link.run())
    await peer.full.wait()
    await turns()
    assert len(received) == 1 and not peer.taken
    outbox.put("votes", vote("later"))
    peer.takes.set()
    link.end()
    await running
    assert [len(frame.votes) for frame in peer.taken] == [1, 1]


async def test_after_a_frame_others_gather_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MESSAGE_GAP_SECONDS", 0.25)
    monkeypatch.setattr(link_module, "FRAME_GAP_SECONDS_MAX", 0.5)
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    for name in "abcd":
        outbox.put("votes", vote(name))
        await turns()
    assert peer.votes == ["a"], "the first goes at once"
    peer.full.clear()
    await peer.full.wait()
    peer.left.set()
    await running
    assert [[one.transaction_id for one in frame.votes] for frame in peer.taken] == [["a"], ["b", "c", "d"]]


async def test_what_is_patient_travels_with_what_is_not() -> None:
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    outbox.put("acknowledgements", participant_pb2.Acknowledgement(transaction_id="patient"), patient=True)
    outbox.put("acknowledgements", participant_pb2.Acknowledgement(transaction_id="too"), patient=True)
    outbox.put("votes", vote("urgent"))
    await peer.full.wait()
    peer.left.set()
    await running
    assert [(len(frame.votes), len(frame.acknowledgements)) for frame in peer.taken] == [(1, 2)]


async def test_what_is_patient_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PATIENCE_SECONDS", 3600.0)
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    outbox.put("votes", vote("a"), patient=True)
    await turns()
    assert not peer.taken and outbox.patience is not None
    assert outbox.patience.when() <= asyncio.get_running_loop().time() + 3600.0
    outbox.patience.cancel()
    peer.left.set()
    await running


async def test_patience_ends() -> None:
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    outbox.put("votes", vote("a"), patient=True)
    await peer.full.wait()
    peer.left.set()
    await running
    assert peer.votes == ["a"]


async def test_a_writer_that_is_woken_for_nothing_waits_again() -> None:
    peer = Peer(stays=True)
    link, outbox = linked(peer)
    running = asyncio.create_task(link.run())
    outbox.put("votes", vote("dropped"))
    outbox.clear()
    await turns()
    outbox.put("votes", vote("a"))
    await peer.full.wait()
    peer.left.set()
    await running
    assert peer.votes == ["a"]


async def test_what_was_dropped_loses_no_patience() -> None:
    _, outbox = linked(Peer())
    outbox.put("votes", vote("a"), patient=True)
    outbox.clear()
    patience = outbox.patience
    assert patience is not None
    while outbox.patience is not None:  # noqa: ASYNC110 - a timer of the loop ends it
        await asyncio.sleep(0)
    waiting = asyncio.create_task(outbox.wait())
    await turns()
    assert not waiting.done()
    waiting.cancel()


async def test_an_error_of_the_transport_is_raised_and_both_ways_end() -> None:
    peer = Peer(stays=True)

    async def broken(packed: Packed) -> None:
        raise ConnectionError("reset")

    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000)
    link = Link("participant", outbox, broken, peer.incoming(), lambda frame: None)
    outbox.put("votes", vote("a"))
    with pytest.raises(ConnectionError):
        await link.run()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("troth-link")]


async def test_an_error_of_the_receiver_is_raised() -> None:
    def refuse(frame: Message) -> None:
        raise RemoteProtocolError("that frame may not come now")

    link, _ = linked(Peer(Frame(), stays=True), refuse)
    with pytest.raises(RemoteProtocolError):
        await link.run()


async def test_who_is_cancelled_leaves_no_task() -> None:
    link, _ = linked(Peer(stays=True))
    running = asyncio.create_task(link.run())
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("troth-link")]


async def test_failpoints_hear_of_every_field_both_ways() -> None:
    peer = Peer(Frame(votes=[vote("a")], reports_complete=True), stays=True)
    link, outbox = linked(peer)
    outbox.put("votes", vote("b"))
    outbox.set("reports_complete", True)
    link.end()
    heard: list[str] = []
    with failpoints.observed(heard.append):
        await link.run()
    assert sorted(heard) == sorted(
        f"participant:{moment}:{field}"
        for moment in ("on-receive", "before-send", "after-send")
        for field in ("reports_complete", "votes")
    )


def test_what_does_not_decode_is_a_violation_by_the_peer() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        from_wire(Frame, b"\xff\xff\xff")
    assert "SessionRequest" in caught.value.message


async def turns() -> None:
    """Let everybody come to rest who waits for nothing but the loop."""
    for _ in range(24):
        await asyncio.sleep(0)


async def test_frames_are_read_no_faster_than_the_core_takes_what_they_bring() -> None:
    waiting, read = [0], []
    looked = asyncio.Event()

    def backlog() -> int:
        looked.set()
        return waiting[0]

    async def reading() -> None:
        async for frame in paced(Peer(Frame(), Frame(reports_complete=True)).incoming(), backlog):
            read.append(frame)
            waiting[0] = link_module.BACKLOG_EVENTS_MAX + 1 if len(read) == 1 else 0

    task = asyncio.create_task(reading())
    await looked.wait()
    assert read == [Frame()]
    waiting[0] = 0
    await task
    assert read == [Frame(), Frame(reports_complete=True)]
