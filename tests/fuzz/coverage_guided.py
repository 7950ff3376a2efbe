"""Bytes of frames into the two cores, for a fuzzer that is guided by coverage (atheris, that is libFuzzer).

`scripts/fuzz` runs it, by `tests.fuzz.guided_main`; `test_coverage_guided` feeds it its corpus and noise in every test run.

An input is a row of frames, each with one byte that says from whom and two for its length. Whatever they hold, nothing but
`ProtocolError` may leave a core, and afterwards an honest transaction commits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from coordinator.core import events
from participant_sdk.core import events as into
from participant_sdk.core.branches import State
from participant_sdk.core.work import Keys, ResourceKind
from tests.fuzz import test_coordinator_wire as coordinator
from tests.fuzz import test_participant_wire as participant
from tests.fuzz.hostile import ids_of
from troth.errors import ProtocolError
from troth.v1 import client_pb2, participant_pb2

FRAMES_MAX = 40
SENDERS = 5
"""Two hostile participants, a hostile client, the coordinator of a participant, and the clock."""


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The frames of an input, each with its sender."""
    for _ in range(FRAMES_MAX):
        if len(data) < 3:
            return
        length = int.from_bytes(data[1:3], "big")
        yield data[0] % SENDERS, data[3 : 3 + length]
        data = data[3 + length :]


def packed(*parts: tuple[int, bytes]) -> bytes:
    """The input that `frames` takes apart."""
    return b"".join(bytes([sender]) + len(body).to_bytes(2, "big") + body for sender, body in parts)


def from_participant(number: int, frame: participant_pb2.SessionRequest) -> Iterator[Any]:
    """A frame as events of the coordinator's core, as `coordinator.services.participants` makes them."""
    name, stream = ("h", 8) if number == 0 else ("i", 9)
    if frame.reports or frame.reports_complete:
        yield events.ReportsReceived(name, stream, frame.reports, frame.reports_complete)
    for field in (
        frame.enlists, frame.votes, frame.acknowledgements, frame.inquiries, frame.settlements, frame.undeclared, frame.invariants,
    ):  # fmt: skip
        yield from (events.FromParticipant(name, stream, message) for message in field)


def from_client(frame: client_pb2.ConnectRequest) -> Iterator[Any]:
    """A frame as events of the coordinator's core, as `coordinator.services.sessions` makes them."""
    session = coordinator.HOSTILE
    yield from (events.Run(session, request) for request in frame.runs if request.number)
    yield from (events.Begin(session, request) for request in frame.begins if request.number)
    for kind, requests in ((events.Commit, frame.commits), (events.Abort, frame.aborts)):
        yield from (kind(session, one) for one in requests if one.number and not one.transaction_id)  # type: ignore[operator]  # kinds of requests
    yield from (events.Get("ticket", request) for request in frame.gets)
    if frame.answered_below:
        yield events.AnswersSeen(session, frame.answered_below)


def from_coordinator(frame: participant_pb2.SessionResponse) -> Iterator[Any]:
    """A frame as events of the participant's core, as `participant_sdk.runtime` makes them."""
    honest = (participant.PREPARED, participant.COMMITTED)
    for message in frame.prepares:
        if message.transaction_id not in honest:
            operations = tuple(message.operations)
            yield into.PrepareReceived(1, message, operations, Keys(tuple(operation.name for operation in operations)))
    for field in (frame.enlisted, frame.decisions, frame.settles, frame.forces):
        yield from (into.FromCoordinator(1, message) for message in field if message.transaction_id not in honest)
    if frame.watermark.epoch < 5:
        yield into.FromCoordinator(1, frame.watermark)


def one_input(data: bytes) -> None:
    """Feed one input to both cores; raises when something that must hold does not."""
    ours, theirs = coordinator.Scene(), participant.Scene(ResourceKind.ATOMIC)
    for sender, body in frames(data):
        with contextlib.suppress(DecodeError):
            _take(ours, theirs, sender, body)
    ours.driver.sync()
    ours.driver.out.clear()
    ours.finish(2)
    assert "2 COMMITTED" in ours.driver.outcomes()
    coordinator.check_restart_of(ours.driver, (1, 2))
    theirs.settle()
    assert theirs.state(participant.PREPARED) is State.PREPARED
    assert theirs.state(participant.COMMITTED) is State.COMMITTED


def _take(ours: coordinator.Scene, theirs: participant.Scene, sender: int, body: bytes) -> None:
    if sender < 2:
        for event in from_participant(sender, participant_pb2.SessionRequest.FromString(body)):
            if not _is_enlist_of_others(event):
                ours.take(event)
    elif sender == 2:
        for event in from_client(client_pb2.ConnectRequest.FromString(body)):
            ours.take(event)
    elif sender == 3:
        for event in from_coordinator(participant_pb2.SessionResponse.FromString(body)):
            with contextlib.suppress(ProtocolError):
                theirs.machine.step(event)
            theirs.machine.take()
    else:
        seconds = float(len(body))
        ours.take(seconds)
        ours.take("sync")
        theirs.take(seconds)
        theirs.settle()


def _is_enlist_of_others(event: Any) -> bool:
    message = getattr(event, "message", None)
    return isinstance(message, participant_pb2.Enlist) and message.transaction_id not in coordinator.OWN


def corpus() -> Iterator[bytes]:
    """Inputs to begin with: one frame of each kind, with each id that means something."""
    for name in ids_of([*coordinator.OWN, coordinator.LIVE, *participant.NOISE], coordinator.HONEST)[:20]:
        said = participant_pb2.SessionRequest()
        said.reports.add(transaction_id=name, state=participant_pb2.BRANCH_STATE_COMMITTED, order=1)
        said.votes.add(transaction_id=name, kind=participant_pb2.VOTE_KIND_YES)
        said.acknowledgements.add(transaction_id=name, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD)
        said.inquiries.add(transaction_id=name)
        said.settlements.add(transaction_id=name, kind=participant_pb2.SETTLEMENT_KIND_ROLLED_BACK)
        said.undeclared.add(name=name)
        said.invariants.add(name="sums", state=participant_pb2.INVARIANT_STATE_VIOLATED, detail=name)
        asked = client_pb2.ConnectRequest(answered_below=2)
        asked.gets.add(transaction_id=name, participants=["h"], first_attempt_ms=1_800_000_000_000)
        run = asked.runs.add(number=7, timeout_ms=50, key="k", first_attempt_ms=1_800_000_000_000)
        run.branches.add(participant="h").operations.add(name="work")
        told = participant_pb2.SessionResponse()
        told.prepares.add(transaction_id=name, order=9, incarnation=1, timeout_ms=50).operations.add(name="debit")
        told.decisions.add(transaction_id=name, kind=participant_pb2.DECISION_KIND_COMMIT)
        told.settles.add(transaction_id=name)
        told.forces.add(transaction_id=name, kind=participant_pb2.FORCE_KIND_ABORT)
        bodies = [(sender, message.SerializeToString()) for sender, message in ((0, said), (2, asked), (3, told), (1, said))]
        yield packed(*bodies[:3], (4, b"x" * 3), bodies[3])
