"""The outbox: what frames are made of."""

from __future__ import annotations

from troth.link import Outbox, Packed, messages_of, to_wire, varint
from troth.v1 import participant_pb2

Frame = participant_pb2.SessionRequest


def _vote(name: str) -> participant_pb2.Vote:
    return participant_pb2.Vote(transaction_id=name, kind=participant_pb2.VOTE_KIND_YES)


def _enlist(name: str) -> participant_pb2.Enlist:
    return participant_pb2.Enlist(transaction_id=name)


def _frames(outbox: Outbox[Frame]) -> list[Frame]:
    frames = []
    while (packed := outbox.drain()) is not None:
        frames.append(Frame.FromString(packed.data))
    return frames


async def test_a_frame_is_what_protobuf_would_have_made_of_it() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000)
    expected = Frame(reports_complete=True)
    outbox.set("reports_complete", True)
    for number in (1, 100, 5000, 70_000):
        outbox.put("votes", _vote("v" * number))
        outbox.put("enlists", _enlist("e" * number))
        expected.votes.append(_vote("v" * number))
        expected.enlists.append(_enlist("e" * number))
    assert _frames(outbox) == [expected]
    assert len(outbox) == 0


async def test_a_frame_is_not_larger_than_its_limit_and_keeps_the_order() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 200)
    names = [f"t{number:020}" for number in range(40)]
    for name in names:
        outbox.put("votes", _vote(name))
    outbox.put("enlists", _enlist("last"))
    frames = _frames(outbox)
    assert all(frame.ByteSize() <= 200 for frame in frames)
    assert [vote.transaction_id for frame in frames for vote in frame.votes] == names
    assert [enlist.transaction_id for enlist in frames[-1].enlists] == ["last"]
    assert not any(frame.enlists for frame in frames[:-1])


async def test_frames_tell_how_far_the_log_is_when_that_is_news() -> None:
    at = [0]
    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000, position=lambda: at[0])
    told = []
    for at[0] in (0, 5, 5, 1 << 62):
        outbox.put("votes", _vote("v"))
        told += [frame.position for frame in _frames(outbox)]
    at[0] += 1
    assert told == [0, 5, 0, 1 << 62] and _frames(outbox) == [], "no frame is made for it alone"


async def test_a_position_makes_no_frame_too_large_and_takes_no_message_its_place() -> None:
    size = len(Frame(votes=[_vote("v" * 30)]).SerializeToString())
    outbox: Outbox[Frame] = Outbox(Frame, 2 * size, position=lambda: 1 << 40)
    for _ in range(3):
        outbox.put("votes", _vote("v" * 30))
    outbox.put("votes", _vote("v" * 300))
    frames = _frames(outbox)
    assert [len(frame.votes) for frame in frames] == [1, 2, 1]
    alone: Outbox[Frame] = Outbox(Frame, 10, position=lambda: 7)
    alone.put("votes", _vote("v" * 30))
    assert [(len(frame.votes), frame.position) for frame in _frames(alone)] == [(1, 7)]


async def test_a_frame_has_no_more_messages_than_its_limit() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 1_000_000, 7)
    names = [f"t{number}" for number in range(20)]
    for name in names:
        outbox.put("votes", _vote(name))
    for _ in range(2):
        outbox.put("enlists", _enlist("last"))
    frames = _frames(outbox)
    assert [messages_of(frame) for frame in frames] == [7, 7, 7, 1]
    assert [vote.transaction_id for frame in frames for vote in frame.votes] == names
    assert [len(frame.enlists) for frame in frames] == [0, 0, 1, 1]
    assert outbox.held_bytes == 0


async def test_what_ends_work_overtakes_what_begins_some() -> None:
    down = participant_pb2.SessionResponse
    outbox: Outbox[participant_pb2.SessionResponse] = Outbox(down, 100)
    for name in ("first", "second"):
        outbox.put("prepares", participant_pb2.Prepare(transaction_id=name * 10))
    outbox.put("decisions", participant_pb2.Decision(transaction_id="d" * 40))
    outbox.put("settles", participant_pb2.RollbackIfUnseen(transaction_id="s" * 40))
    fields = []
    while (packed := outbox.drain()) is not None:
        fields += [descriptor.name for descriptor, _ in down.FromString(packed.data).ListFields()]
    assert fields == ["decisions", "settles", "prepares", "prepares"]


async def test_a_message_that_is_too_large_goes_alone() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 100)
    for name in ("small", "l" * 300, "small"):
        outbox.put("votes", _vote(name))
    assert [len(frame.votes) for frame in _frames(outbox)] == [1, 1, 1]


async def test_it_counts_what_a_frame_has() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 1000)
    outbox.put("votes", _vote("a"))
    outbox.put("votes", _vote("b"))
    outbox.set("reports_complete", True)
    packed = outbox.drain()
    assert packed is not None
    assert (packed.counts, packed.singular) == ({"votes": 2}, ("reports_complete",))
    assert outbox.drain() is None


async def test_what_is_dropped_is_not_sent() -> None:
    outbox: Outbox[Frame] = Outbox(Frame, 1000)
    outbox.put("votes", _vote("a"))
    outbox.set("reports_complete", True)
    outbox.clear()
    assert outbox.drain() is None
    outbox.put("votes", _vote("b"))
    assert [vote.transaction_id for frame in _frames(outbox) for vote in frame.votes] == ["b"]


def test_numbers_have_the_length_that_the_wire_format_gives_them() -> None:
    assert [varint(number) for number in (0, 1, 127, 128, 300)] == [b"\0", b"\1", b"\x7f", b"\x80\x01", b"\xac\x02"]


def test_grpc_is_given_bytes_for_both() -> None:
    message = Frame(reports_complete=True)
    assert to_wire(message) == to_wire(Packed(message.SerializeToString(), {}))


async def test_a_field_that_has_no_room_is_left_for_the_next_frame() -> None:
    first, second = _vote("a" * 40), _enlist("b" * 40)
    outbox: Outbox[Frame] = Outbox(Frame, Frame(votes=[first]).ByteSize())
    outbox.put("votes", first)
    outbox.put("enlists", second)
    packed = outbox.drain()
    assert packed is not None and packed.counts == {"votes": 1}
    assert _frames(outbox) == [Frame(enlists=[second])]
