"""Commits behind the retention that a log may lack which took a name over: no list can have them, and that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.core import events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import LOG_ID, WALL_MS, Driver
from tests.coordinator_core.test_proving import ask, row
from tests.coordinator_core.test_recalling import LATER, asked, dropped, let_in, says
from troth.v1 import admin_pb2, participant_pb2, record_pb2


def unlisted(driver: Driver, name: str = "b") -> tuple[int, int, bool]:
    """How far commits are not listed that it may lack, and whether a time is told."""
    found = row(driver, name)
    return found.unlisted_epoch, found.unlisted_order, found.unlisted_ended_ms > 0


NONE = (0, 0, False)


def accepts(driver: Driver, name: str = "b", why: str = "compared by hand") -> str:
    """An operator has compared; returns the reason of a refusal."""
    response = ask(driver, admin_pb2.AcceptLossRequest(participant=name, who="ann", why=why))
    return response.refusal.reason if response.HasField("refusal") else ",".join(response.participants)


def test_commits_behind_the_retention_cannot_be_listed_and_that_is_said() -> None:
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    for number in (1, 2):
        driver.complete(number, "ab")
    ended_ms = driver.book.clock_ms
    dropped(driver)
    driver.complete(3, "ac")
    assert unlisted(driver) == NONE, "of a log that has its name nothing is said"
    let_in(driver)
    assert asked(driver) == {} and not row(driver, "b").recalling, "there is nothing to ask"
    assert unlisted(driver) == (1, 3, True) and row(driver, "b").unlisted_ended_ms == ended_ms and unlisted(driver, "a") == NONE
    again = Driver(records=driver.log, nonce=LATER, connect=False)
    again.connect("b", 21)
    assert unlisted(again) == (1, 3, True), "durably"
    assert accepts(again, why=" ") == "INVALID_ARGUMENT" and accepts(again, "nobody") == "UNKNOWN_PARTICIPANT"
    assert accepts(again, "a") == "NOT_ACTIVE" and unlisted(again) == (1, 3, True)
    assert accepts(again) == "b" and unlisted(again) == NONE and accepts(again) == "NOT_ACTIVE"
    third = Driver(records=again.log, nonce="0123abd0", connect=False)
    assert unlisted(third) == NONE


def test_whoever_had_forgotten_what_was_later_has_all_that_was_dropped() -> None:
    driver = Driver(CoreSettings(retained_transactions_max=1, resend_first_seconds=0.5))
    for number in (1, 2, 3):
        driver.complete(number, "ab")
    driver.wait(1.1)
    driver.sync()
    for answer, told in (("EXPIRED", NONE), ("COMMITTED", (1, 3, True))):
        driver.out.clear()
        let_in(driver)
        assert asked(driver) == {driver.id(3): 3} and unlisted(driver) == (1, 3, True), "until it has answered, it may"
        assert accepts(driver) == "PARTICIPANT_AWAY"
        says(driver, driver.id(3), answer)
        assert unlisted(driver) == told, "its watermark is above what it has forgotten; a commit alone says nothing of another one"
    driver.wait(1.1)
    driver.sync()
    driver.complete(4, "ab")
    driver.complete(5, "ab")
    driver.wait(1.1)
    driver.sync()
    assert unlisted(driver) == (1, 3, True), "what the new log does itself is not meant"


@pytest.mark.parametrize("restarted", [False, True])
def test_of_what_only_read_or_is_of_nobody_nothing_is_said(restarted: bool) -> None:
    driver = Driver(CoreSettings(retained_transactions_max=0, resend_first_seconds=0.5))
    driver.run(1, "ab")
    driver.vote("b", 1, "READ_ONLY")
    driver.vote("a", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.wait(1.1)
    driver.sync()
    if restarted:
        driver = Driver(records=driver.log, nonce=LATER, connect=False)
        driver.connect("b", 9)
    let_in(driver)
    assert unlisted(driver) == NONE


def test_what_the_cleaner_has_taken_is_counted_all_the_same() -> None:
    driver = Driver(replace(CoreSettings(), retention_seconds=10.0))
    driver.complete(1, "ab")
    dropped(driver)
    cleaned = [record.SerializeToString() for owner in dict.fromkeys(driver.owners) for record in driver.core.live_records(owner)]
    again = Driver(records=cleaned, nonce=LATER, connect=False)
    again.connect("b", 9)
    let_in(again)
    assert unlisted(again) == (1, 2, True)
    again.lose("b")
    assert not ask(again, admin_pb2.ForgetParticipantRequest(participant="b", who="ann", why="gone")).HasField("refusal")
    cleaned = [record.SerializeToString() for owner in dict.fromkeys(again.owners) for record in again.core.live_records(owner)]
    for log in (again.log, cleaned):
        third = Driver(records=log, nonce="0123abd0", connect=False)
        third.connect("b", 9)
        let_in(third)
        assert unlisted(third) == NONE, "that name was forgotten, with all that was its"


def test_of_a_horizon_that_names_nobody_anything_may_have_been_dropped() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    old = record_pb2.CoordinatorRecord(horizon=record_pb2.Horizon(dropped_through_ms=WALL_MS), at_ms=WALL_MS + 7)
    again = Driver(records=[*driver.log, old.SerializeToString()], nonce=LATER, connect=False)
    again.connect("b", 9)
    let_in(again)
    assert unlisted(again) == (2, 0, True) and row(again, "b").unlisted_ended_ms == WALL_MS + 7


def test_what_the_coordinators_log_has_lost_is_in_no_list_either() -> None:
    first = Driver()
    driver = Driver(records=Driver(records=first.log, nonce=LATER).log, nonce="0123abd0")
    heard = participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, epoch=2, nonce="0000feed")
    driver.step(events.HelloReceived("a", 9, participant_pb2.Hello(participant="a", log_id="log-a", incarnation=1, heard=[heard])))
    assert not ask(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored")).HasField("refusal")
    again = Driver(records=driver.log, nonce="0123abd1")
    for one in (driver, again):
        let_in(one)
        assert unlisted(one) == (3, 0, True), "what b had committed in the epochs before is known to nobody here"
