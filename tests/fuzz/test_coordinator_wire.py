"""The coordinator's core under participants and clients that say anything at all.

`h` and `i` are hostile participants, session 2 and the unary session have hostile callers; `a` and `b` are honest, and so is
session 1. Whatever the others say, nothing but `ProtocolError` leaves the core, what was told about honest transactions
stays true, across a restart too, and new ones commit.

What is left out: without authentication whoever can reach the port may enlist in an interactive transaction whose id it
knows, and may end one by a unary call (docs/explanation/security.md).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import effects, events, listing
from tests.coordinator_core.driver import Driver
from tests.fuzz.budget import budget
from tests.fuzz.hostile import TEXTS, ids_of, messages
from troth.errors import ProtocolError, RequestError
from troth.v1 import admin_pb2, client_pb2, participant_pb2

HONEST, HOSTILE = "c1.1.0123abcd.1", "c1.1.0123abcd.2"
LIVE = f"{HONEST}.2"
OWN = [f"{HOSTILE}.{number}" for number in (1, 2, 3)]
IDS = ids_of([f"{HONEST}.1", LIVE, f"{HONEST}.3", *OWN], HONEST)
NAMES = ("a", "b", "h", "i", "", "nobody", "\x00")
SAID = (participant_pb2.Vote, participant_pb2.Acknowledgement, participant_pb2.Settlement, participant_pb2.Inquiry)
CHECKS: dict[type, Any] = {
    admin_pb2.ListTransactionsRequest: listing.check_transactions,
    admin_pb2.ListParticipantsRequest: listing.check_participants,
}
ASKED = (admin_pb2.ExplainRequest, admin_pb2.ListTransactionsRequest, admin_pb2.ListParticipantsRequest)


def _listed(request: Any) -> Any:
    """The request, or an empty one of its kind where the service refuses it before the core sees it."""
    try:
        CHECKS.get(type(request), lambda _: None)(request)
    except RequestError:
        return type(request)()
    return request



@st.composite
def said_by_participants(draw: st.DrawFn) -> Any:
    """What a hostile participant's stream brings."""
    name = draw(st.sampled_from(("h", "i")))
    stream = draw(st.sampled_from((8, 9, 8, 9, 0, 1, 10**9)))
    if draw(st.integers(0, 4)) == 0:
        reports = draw(st.lists(messages(participant_pb2.BranchReport, IDS), max_size=4))
        return events.ReportsReceived(name, stream, reports, draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        hello = draw(messages(participant_pb2.Hello, IDS, NAMES))
        return events.HelloReceived(draw(st.sampled_from((name, "z", *TEXTS))), draw(st.sampled_from((8, 9, 10))), hello)
    if draw(st.integers(0, 9)) == 0:
        return events.ParticipantLost(name, stream)
    kind = draw(st.sampled_from(SAID))
    if draw(st.integers(0, 9)) == 0:
        return events.FromParticipant(name, stream, participant_pb2.Enlist(transaction_id=draw(st.sampled_from(OWN))))
    return events.FromParticipant(name, stream, draw(messages(kind, IDS)))


@st.composite
def said_by_clients(draw: st.DrawFn) -> Any:
    """What a hostile client's stream brings, or an unary call that its service lets through."""
    number = draw(st.sampled_from((1, 2, 3, 4, 10**19 - 1, 2**64 - 1)))
    session = draw(st.sampled_from((HOSTILE, HOSTILE, "c1.1.0123abcd.0", "c1.1.0123abcd.99", "")))
    others = [one for one in IDS if one != LIVE] if session.endswith(".0") else ["", f"{session}.{number}"]
    match draw(st.integers(0, 8)):
        case 0 | 1:
            return events.Run(session, draw(messages(client_pb2.RunRequest, IDS, NAMES, number=number)))
        case 2:
            return events.Begin(session, draw(messages(client_pb2.BeginRequest, IDS, NAMES, number=number)))
        case 3:
            return events.Commit(session, draw(messages(client_pb2.CommitRequest, others, NAMES, number=number)))
        case 4:
            return events.Abort(session, draw(messages(client_pb2.AbortRequest, others, NAMES, number=number)))
        case 5 | 6:
            return events.Get("ticket", draw(messages(client_pb2.GetRequest, IDS, NAMES)))
        case 7:
            return events.AnswersSeen(session, draw(st.sampled_from((0, 1, 5, 2**64 - 1))))
        case _:
            return events.Administer("ticket", _listed(draw(st.sampled_from(ASKED).flatmap(lambda kind: messages(kind, IDS)))))


STEPS = st.one_of(
    said_by_participants(), said_by_participants(), said_by_clients(), st.sampled_from((0.0, 0.5, 3.0, 61.0)), st.just("sync")
)


class Scene:
    """A coordinator with an honest transaction that is over, and one that is being prepared."""

    def __init__(self) -> None:
        self.driver = driver = Driver()
        driver.run(1, "ab", timeout_ms=3_600_000)
        self.finish(1)
        for name, stream in (("h", 8), ("i", 9)):
            driver.connect(name, stream)
        driver.step(events.SessionOpened(HOSTILE))
        for number, names in ((1, "hi"), (2, "h"), (3, "ih")):
            driver.step(events.Run(HOSTILE, driver.request(number, names, key=f"key{number}")))
        driver.sync()
        driver.run(2, "ab", timeout_ms=3_600_000)
        driver.out.clear()

    def take(self, step: Any) -> None:
        """One step; nothing but a protocol error may come out of it."""
        if isinstance(step, float):
            self.driver.wait(step)
        elif step == "sync":
            self.driver.sync()
        else:
            with suppress(ProtocolError):
                self.driver.step(step)

    def finish(self, number: int) -> None:
        """The honest participants vote and acknowledge."""
        driver = self.driver
        for name in "ab":
            driver.vote(name, number)
        driver.sync()
        for name in "ab":
            driver.acknowledge(name, number)
        driver.sync()

    def outcome(self, number: int) -> str:
        """What a question is answered."""
        self.driver.out.clear()
        self.driver.get(self.driver.id(number))
        (told,) = self.driver.got()
        return told


@budget(200)
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_hostile_peers_change_nothing_for_others(steps: list[Any]) -> None:
    scene = Scene()
    driver = scene.driver
    for step in steps:
        scene.take(step)
    driver.sync()
    driver.out.clear()
    scene.finish(2)
    assert "2 COMMITTED" in driver.outcomes()
    driver.run(3, "ab")
    scene.finish(3)
    assert "3 COMMITTED" in driver.outcomes()
    for number in (1, 2, 3):
        assert scene.outcome(number).startswith("0 COMMITTED")
    for owner in [*driver.book.live, *driver.book.finished, "epoch", "horizon", "participant/h"]:
        driver.core.live_records(owner)
    check_restart_of(driver, (1, 2, 3))


def check_restart_of(driver: Driver, numbers: tuple[int, ...]) -> None:
    """The log that was written under attack is read back, and says the same."""
    after = Driver(records=driver.log, at=driver.now)
    for number in numbers:
        after.out.clear()
        after.get(driver.id(number))
        assert after.got()[0].startswith("0 COMMITTED")


@budget(100)
@given(st.lists(said_by_participants(), min_size=1, max_size=25))
def test_participants_are_never_sent_what_cannot_be_sent(steps: list[Any]) -> None:
    scene = Scene()
    for step in steps:
        scene.take(step)
        scene.driver.sync()
    for effect in scene.driver.take(effects.Send):
        assert effect.message.ByteSize() < 100_000
        assert effect.field in participant_pb2.SessionResponse.DESCRIPTOR.fields_by_name
