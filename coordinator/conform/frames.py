"""Cases of frames: what one may hold, how large it may be, and what is no frame at all."""

from __future__ import annotations

from coordinator.conform.case import Broken, case, expect
from coordinator.conform.peer import ABORT, COMMIT, LIMITS, NO, YES, Peer, told
from troth.v1 import common_pb2, participant_pb2

MANY = 200
SMALL_FRAME_BYTES = 8192
SMALL_FRAME_MESSAGES = 50
UNKNOWN_FIELD = b"\xfa\x7e\x03abc"
"""Field 2031, of the kind that has a length."""


@case("frame.batch")
async def batch(peer: Peer) -> None:
    """A frame is a batch: every message of it is handled."""
    branches = [peer.branch() for _ in range(MANY)]
    peer.say(prepares=[branch.prepare_message() for branch in branches])
    kinds = [(await branch.vote()).kind for branch in branches]
    expect(set(kinds) <= {YES, NO}, "a vote is neither YES nor NO")
    expect(YES in kinds, "not one of them was voted YES")
    peer.say(decisions=[branch.decision_message(ABORT) for branch in branches])
    for branch in branches:
        await branch.acknowledgement()


@case("frame.order")
async def order(peer: Peer) -> None:
    """Within a frame what ends work comes before what begins some: decisions, settles, enlisted, prepares."""
    for _ in range(3):
        old, new = peer.branch(), peer.branch()
        new.number = old.number
        await old.prepared()
        peer.say(
            prepares=[new.prepare_message()], decisions=[old.decision_message(COMMIT)], settles=[old.settle_message()]
        )  # fmt: skip
        expect(told(await old.acknowledgement()) == "DONE", "COMMIT was not acknowledged DONE")
        settlement = await peer.heard("settlements", old.transaction_id)
        expect(told(settlement) == "COMMITTED", f"RollbackIfUnseen beside a COMMIT in one frame was answered {told(settlement)}")
        vote = await new.vote()
        expect(vote.kind == YES, f"work that came in one frame with the COMMIT of what is in its way was voted {told(vote)}")
        await new.acknowledged(ABORT, "DONE")


@case("frame.unknown-fields")
async def unknown_fields(peer: Peer) -> None:
    """Unknown fields are ignored, at every depth."""
    branch = peer.branch()
    prepare = branch.prepare_message().SerializeToString() + UNKNOWN_FIELD
    frame = participant_pb2.SessionResponse(prepares=[participant_pb2.Prepare.FromString(prepare)])
    peer.stream.say(frame.SerializeToString() + UNKNOWN_FIELD)
    expect((await branch.vote()).kind == YES, "a Prepare with an unknown field was not voted YES")
    await branch.acknowledged(COMMIT, "DONE")


@case("frame.capabilities")
async def capabilities(peer: Peer) -> None:
    """Unknown capabilities of the coordinator are ignored."""
    await peer.reconnect(capabilities=("a capability of tomorrow",))
    await peer.committed()


@case("frame.limit")
async def limit(peer: Peer) -> None:
    """No frame has more bytes, or more messages, than the limits of Welcome allow."""
    branches = [peer.branch() for _ in range(MANY)]
    for branch in branches:
        await branch.prepared()
    small = common_pb2.Limits()
    small.CopyFrom(LIMITS)
    small.frame_bytes_max, small.frame_messages_max = SMALL_FRAME_BYTES, SMALL_FRAME_MESSAGES
    await peer.reconnect(limits=small)
    peer.say(decisions=[branch.decision_message(COMMIT) for branch in branches])
    for branch in branches:
        await branch.acknowledgement()
    sizes = peer.stream.frame_sizes
    await peer.reconnect()
    largest, most = max(size for size, _ in sizes), max(messages for _, messages in sizes)
    expect(largest <= SMALL_FRAME_BYTES, f"a frame has {largest} bytes, and frame_bytes_max is {SMALL_FRAME_BYTES}")
    expect(most <= SMALL_FRAME_MESSAGES, f"a frame has {most} messages, and frame_messages_max is {SMALL_FRAME_MESSAGES}")


@case("frame.garbage")
async def garbage(peer: Peer) -> None:
    """Bytes that are no frame change nothing: the stream ends, and the next one lists what was PREPARED."""
    branch = peer.branch()
    await branch.prepared()
    peer.stream.say(b"\xff\xff\xff\xff")
    await peer.hears_the_end("bytes came that are no frame")
    await peer.connect()
    if branch.transaction_id not in peer.reports:
        raise Broken("the PREPARED branch is not listed afterwards")
    await branch.acknowledged(COMMIT, "DONE")
