"""What is held for peers is bounded in bytes: who would pass a bound is refused, and nothing is lost by it."""

from __future__ import annotations

import pytest

from coordinator.core import arrivals, effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from troth.v1 import common_pb2, participant_pb2

HELD = b"x" * 400


def report(transaction_id: str, results: bytes = b"", detail: str = "") -> participant_pb2.BranchReport:
    prepared = participant_pb2.BRANCH_STATE_PREPARED
    return participant_pb2.BranchReport(transaction_id=transaction_id, state=prepared, results=results, detail=detail)


def causes(driver: Driver) -> list[str]:
    return [effect.cause.reason for effect in driver.take(effects.Rejected)]


def test_a_list_for_which_there_is_no_room_ends_its_stream() -> None:
    driver = Driver(CoreSettings(reports_bytes_max=arrivals.REPORT_BYTES), connect=False)
    driver.connect("a", 1, reports=[report("c1.1.0123abcd.1.1")], complete=False)
    assert causes(driver) == ["OVERLOADED"]
    assert driver.book.participants["a"].report_bytes == 0


def test_branches_are_listed_without_their_results_once_half_of_the_room_is_taken() -> None:
    driver = Driver(CoreSettings(reports_bytes_max=4 * arrivals.REPORT_BYTES, open_bytes_max=10**6))
    driver.run(1, "ab")
    driver.vote("b", 1)
    driver.lose("a")
    driver.connect("a", 9, reports=[report(driver.id(1), HELD, "why")])
    driver.sync()
    (answer,) = driver.answers()
    assert answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert not answer.results_available, "it committed, and says that results are missing"


def test_a_branch_of_nothing_that_is_live_is_listed_without_its_results_as_well() -> None:
    driver = Driver(CoreSettings(reports_bytes_max=4 * arrivals.REPORT_BYTES), connect=False)
    driver.connect("a", 1, reports=[report("c1.1.0123abcd.1.1", HELD)])
    assert driver.sent() == ["a.ABORT"]


def test_a_vote_whose_results_find_no_room_aborts_and_gives_everything_back() -> None:
    driver = Driver(CoreSettings(open_bytes_max=5_000))
    driver.run(1, "ab")
    driver.vote("a", 1, results=HELD * 20)
    (answer,) = driver.answers()
    assert (answer.cause.reason, answer.cause.participant) == ("OVERLOADED", "a")
    assert driver.book.open_bytes == 0


def test_work_for_which_there_is_no_room_is_refused_before_it_begins() -> None:
    driver = Driver(CoreSettings(open_bytes_max=1))
    driver.run(1, "ab")
    (answer,) = driver.answers()
    assert "open_bytes_max" in answer.cause.message
    assert driver.book.open_bytes == 0


def test_names_of_operations_for_which_there_is_no_room_are_not_kept() -> None:
    driver = Driver(CoreSettings(operation_names_bytes_max=1), connect=False)
    hello = participant_pb2.Hello(participant="a", log_id="log-a", incarnation=1, operations=["debit"])
    driver.step(events.HelloReceived("a", 1, hello))
    driver.sync()
    assert driver.book.participants["a"].operations == frozenset()


def test_branches_that_nobody_can_tell_of_are_listed_up_to_a_bound() -> None:
    driver = Driver(CoreSettings(reports_max=1))
    for number in (1, 2):
        driver.say("a", participant_pb2.Inquiry(transaction_id=f"c1.1.deadbeef.1.{number}"))
    assert list(driver.book.participants["a"].stranded) == ["c1.1.deadbeef.1.1"]
    assert driver.sent() == []


def test_an_answer_that_was_given_up_is_dropped_once() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    session = driver.book.sessions[driver.session]
    for _ in range(2):
        driver.book.drop_answer(session, 1)
    assert driver.book.unseen_bytes == 0


@pytest.mark.parametrize("kind", ["READ_ONLY", "YES"])
def test_who_commits_unasked_rolls_back_whoever_may_hold_something(kind: str) -> None:
    driver = Driver()
    driver.run(1, "abc")
    driver.vote("a", 1, kind)
    driver.out.clear()
    driver.vote("b", 1, "COMMITTED")
    told = driver.sent()
    assert any(one.startswith("a") for one in told) is (kind == "YES"), told
