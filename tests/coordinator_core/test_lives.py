"""Abort is presumed only of what this very log began; and a log that has lost what it had said finds out, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import LOG_ID, NONCE, WALL_MS, Driver
from troth.errors import Reason
from troth.v1 import admin_pb2, participant_pb2, record_pb2

OTHER = "0000feed"


def prepared(transaction_id: str) -> participant_pb2.BranchReport:
    return participant_pb2.BranchReport(transaction_id=transaction_id, order=1, state=participant_pb2.BRANCH_STATE_PREPARED)


def hello(driver: Driver, name: str, stream: int, *, log_id: str = LOG_ID, epoch: int = 1, nonce: str = NONCE) -> list[str]:
    """Why a Hello is refused that has heard this life of a coordinator c1."""
    heard = participant_pb2.Heard(coordinator="c1", log_id=log_id, epoch=epoch, nonce=nonce)
    said = participant_pb2.Hello(participant=name, log_id=f"log-{name}", incarnation=1, heard=[heard])
    driver.step(events.HelloReceived(name, stream, said))
    return [effect.cause.reason for effect in driver.take(effects.Rejected) if effect.stream == stream]


def ask(driver: Driver, request: Any) -> Any:
    driver.step(events.Administer("t", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return answer.response


def accept(driver: Driver) -> Any:
    return ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored from last night"))


def row(driver: Driver, name: str) -> admin_pb2.ParticipantSummary:
    listed = ask(driver, admin_pb2.ListParticipantsRequest()).participants
    (found,) = (one for one in listed if one.participant == name)
    summary: admin_pb2.ParticipantSummary = found
    return summary


# ---- what is presumed


@pytest.mark.parametrize("transaction_id", ["c1.1.ffffffff.1.1", "c1.7.0123abcd.1.1", "c2.1.0123abcd.1.1"])
def test_of_what_another_log_began_nothing_is_said_and_it_is_listed(transaction_id: str) -> None:
    first = Driver(nonce="0123abce")
    driver = Driver(records=first.log, nonce="0123abcf")
    driver.connect("a", 9, reports=[prepared(transaction_id), prepared(first.id(1))])
    assert driver.sent() == ["a.ABORT"], "of its own earlier life it knows that nothing was decided"
    assert row(driver, "a").stranded == [transaction_id] and row(driver, "a").stranded_total == 1
    explained = ask(driver, admin_pb2.ExplainRequest(transaction_id=transaction_id))
    assert "can say nothing" in explained.explanation and "--participant a" in explained.if_forced[0]
    force = admin_pb2.ResolveRequest(
        transaction_id=transaction_id, action=admin_pb2.RESOLVE_ACTION_COMMIT, participant="a", who="ann", why="bank says so"
    )
    assert not ask(driver, force).HasField("refusal")
    driver.say("a", participant_pb2.Acknowledgement(
        transaction_id=transaction_id, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
    ))  # fmt: skip
    driver.sync()
    assert row(driver, "a").stranded_total == 0
    driver.run(1, "ab")
    assert driver.sent()[-2:] == ["a.prepares", "b.prepares"], "new work goes on"


def test_every_life_is_kept_when_the_log_is_cleaned() -> None:
    first = Driver(nonce="0123abce")
    second = Driver(records=first.log, nonce="0123abcf")
    kept = [record.SerializeToString() for record in second.core.live_records("epoch")]
    assert len(kept) == 3
    third = Driver(records=kept, nonce="0123abd0")
    third.connect("a", 9, reports=[prepared(first.id(1)), prepared(second.id(1)), prepared("c1.2.ffffffff.1.1")])
    assert third.sent() == ["a.ABORT", "a.ABORT"]


def test_of_lives_that_earlier_software_did_not_keep_abort_is_presumed_as_before() -> None:
    started = record_pb2.EpochStarted(coordinator="c1", epoch=7, nonce="0123abce")
    old = [record_pb2.CoordinatorRecord(epoch_started=started).SerializeToString()]
    driver = Driver(records=old, nonce="0123abcf")
    again = [record.SerializeToString() for record in driver.core.live_records("epoch")]
    for one in (driver, Driver(records=again, nonce="0123abcf")):
        one.connect("a", 9, reports=[prepared("c1.5.ffffffff.1.1"), prepared("c1.7.0123abce.1.1"), prepared("c1.7.ffffffff.1.1")])
        assert one.sent() == ["a.ABORT", "a.ABORT"] and row(one, "a").stranded_total == 1


def test_unprepared_work_of_another_coordinator_is_not_asked_about() -> None:
    driver = Driver()
    report = participant_pb2.BranchReport(transaction_id="c2.1.0123abcd.1.1", state=participant_pb2.BRANCH_STATE_ACTIVE)
    driver.connect("a", 9, reports=[report])
    assert driver.sent() == []


# ---- who has followed another log


def test_who_has_followed_another_log_of_this_name_is_refused() -> None:
    driver = Driver()
    assert hello(driver, "a", 9, log_id="another") == [Reason.FOREIGN_COORDINATOR.name]
    assert not driver.core.has_lost and not driver.waiting, "a refusal changes nothing"
    assert hello(driver, "a", 10, log_id="") == [], "software that names no log knows nothing"


# ---- a participant's log that was put back


def start(driver: Driver, stream: int, *starts: str) -> list[str]:
    """What is told to d, which begins the last of these starts and knows the others."""
    incarnation, _, nonce = starts[-1].partition("/")
    said = participant_pb2.Hello(participant="d", log_id="log-d", incarnation=int(incarnation), nonce=nonce, starts=starts)
    driver.step(events.HelloReceived("d", stream, said))
    driver.sync()
    found = [effect.cause.reason for effect in driver.take(effects.Rejected) if effect.stream == stream]
    return found or ["welcome"] * len(driver.take(effects.Welcomed))


def test_a_participants_log_that_was_put_back_never_gets_in_however_often_it_is_started() -> None:
    driver = Driver()
    assert start(driver, 9, "1/aa") == start(driver, 10, "1/aa", "3/cc") == ["welcome"]
    driver.lose("d")
    told = [start(driver, 11 + n, "1/aa", *(f"{m}/bb" for m in range(2, 3 + n))) for n in range(4)]
    assert told == [["STALE_INCARNATION"]] * 2 + [["LOG_WENT_BACK"]] * 2
    again = Driver(records=driver.log, nonce="0123abce")
    assert start(again, 9, "1/aa", "9/bb") == ["LOG_WENT_BACK"]
    assert "put back" in row(again, "d").loss
    assert start(again, 10, "1/aa", "3/cc", "10/dd") == ["welcome"], "the right one comes back"
    assert row(again, "d").loss == ""
    again.lose("d")
    start(again, 11, "1/aa", "11/bb")
    ask(again, admin_pb2.ReplaceParticipantRequest(participant="d", log_id="log-d", who="ann", why="restored"))
    assert start(again, 12, "1/aa", "12/bb") == ["welcome"], "an operator has decided"


def test_software_that_keeps_no_starts_is_taken_at_its_incarnation() -> None:
    driver = Driver()
    assert start(driver, 9, "1/aa") == ["welcome"]
    said = participant_pb2.Hello(participant="d", log_id="log-d", incarnation=2)
    driver.step(events.HelloReceived("d", 10, said))
    driver.sync()
    assert len(driver.take(effects.Welcomed)) == 1


# ---- a log that has lost what it had said


def test_a_log_that_never_began_what_was_heard_stops_answering_until_that_is_accepted() -> None:
    first = Driver(nonce="0123abce")
    driver = Driver(records=first.log, nonce="0123abcf")
    assert hello(driver, "a", 9, epoch=2, nonce=OTHER) == [Reason.LOG_WENT_BACK.name]
    assert driver.core.has_lost and driver.take(effects.LossChanged)
    assert hello(driver, "a", 10, epoch=2, nonce=OTHER) == [Reason.LOG_WENT_BACK.name]
    driver.sync()
    assert driver.kinds().count("loss") == 1, "what is known already is written once"
    for one in (driver, Driver(records=driver.log, nonce="0123abd0")):  # a restart has not forgotten it
        one.connect("b", 11, reports=[prepared(first.id(1))])
        one.sync()
        assert one.sent() == [] and row(one, "b").stranded == [first.id(1)], "others may have been told COMMIT"
        one.run(1, "bc")
        assert one.outcomes()[-1] == "1 ABORTED LOG_WENT_BACK"
        assert "never began" in row(one, "a").loss


def test_what_is_accepted_is_listed_and_new_work_goes_on() -> None:
    first = Driver(nonce="0123abce")
    between = Driver(records=first.log, nonce="0123abcd")
    driver = Driver(records=between.log, nonce="0123abcf")
    assert accept(driver).refusal.reason == "NOT_ACTIVE"
    hello(driver, "a", 9, epoch=2, nonce=OTHER)
    assert ask(driver, admin_pb2.AcceptLossRequest(why="x")).refusal.reason == "INVALID_ARGUMENT"
    assert accept(driver).participants == ["a"] and not driver.core.has_lost
    live = driver.core.live_records("loss/a")
    assert [record.loss.who for record in live] == ["ann"]
    assert hello(driver, "a", 10, epoch=2, nonce=OTHER) == []
    driver.sync()
    lost = f"c1.2.{OTHER}.1.4"
    driver.step(events.ReportsReceived("a", 10, [prepared(first.id(1)), prepared(lost)], True))
    assert driver.sent() == [] and row(driver, "a").stranded == [first.id(1), lost]
    driver.run(1, "ab")
    assert driver.sent() == ["a.prepares", "b.prepares"]
    driver.run(2, "ab", key="k", first_attempt_ms=WALL_MS)
    assert driver.outcomes()[-1] == "2 ABORTED EXPIRED", "whether it is committed nobody knows here"
    later = Driver(records=driver.log, nonce="0123abd0")
    later.connect("a", 9, reports=[prepared(driver.id(7)), prepared(first.id(1))])
    assert later.sent() == ["a.ABORT"], "of what began since then abort is presumed again"
    assert hello(later, "a", 10, epoch=4, nonce=OTHER) == [Reason.LOG_WENT_BACK.name], "a second loss is another one"
