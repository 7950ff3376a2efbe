"""Transactions that begin late: what a commit, an abort or an announcement may begin, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import client_pb2, participant_pb2


def named(*names: str, count: int = 1, incarnation: int = 1) -> list[client_pb2.AcknowledgedOperations]:
    return [client_pb2.AcknowledgedOperations(participant=name, count=count, incarnation=incarnation) for name in names]


def commit(driver: Driver, number: int, *names: str, **begin: Any) -> None:
    """A commit that begins its transaction."""
    terms = client_pb2.BeginRequest(**{"timeout_ms": 5000, **begin})
    driver.step(events.Commit(driver.session, client_pb2.CommitRequest(number=number, acknowledged=named(*names), begin=terms)))


def abort(driver: Driver, number: int, *names: str) -> None:
    driver.step(events.Abort(driver.session, client_pb2.AbortRequest(number=number, acknowledged=named(*names))))


def refusals(driver: Driver) -> list[str]:
    return [effect.message.refusal.reason for effect in driver.take(effects.Send) if effect.field == "enlisted"]


def test_a_commit_tells_what_a_begin_would_have_told() -> None:
    driver = Driver()
    commit(driver, 1, "a", "b", first_attempt_ms=WALL_MS - 7, timeout_ms=300, hold_read_locks=True)
    prepare = driver.take(effects.Send)[0].message
    assert (prepare.first_attempt_ms, prepare.timeout_ms, prepare.hold_read_locks) == (WALL_MS - 7, 300, True)
    driver.wait(0.4)
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"]


@pytest.mark.parametrize(
    "begin, reason",
    [({"timeout_ms": 0}, "INVALID_TIMEOUT"), ({"key": "k", "first_attempt_ms": WALL_MS}, "INVALID_ARGUMENT"),
     ({"first_attempt_ms": WALL_MS - 10**10}, "EXPIRED")],
)  # fmt: skip
@pytest.mark.parametrize("announced", [False, True])
def test_what_may_not_begin_is_refused_with_its_commit_and_its_branches_are_told(
    begin: dict[str, Any], reason: str, announced: bool
) -> None:
    driver = Driver()
    if announced:
        driver.enlist("a", 1)
        assert driver.sent() == [], "answered when its client is heard"
    commit(driver, 1, "a", **begin)
    assert driver.outcomes() == [f"1 ABORTED {reason}"]
    if not announced:
        driver.enlist("a", 1)
        assert refusals(driver) == [reason]
    else:
        assert driver.sent() == ["a.ABORT"]
    commit(driver, 1, "a")
    assert driver.outcomes() == [f"1 ABORTED {reason}"], "the number is used"


def test_a_begin_that_may_not_be_ends_what_was_announced() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    driver.begin(1, key="k")
    assert driver.sent() == ["a.ABORT"]
    (begun,) = driver.take(effects.Begun)
    assert begun.response.refusal.reason == "INVALID_ARGUMENT"


def test_a_begin_of_an_announced_transaction_that_is_over_is_answered() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    driver.wait(11.0)
    driver.begin(1)
    assert driver.outcomes() == ["1 ABORTED TIMEOUT"]
    assert driver.id(1) not in driver.book.live and len(driver.take(effects.Begun)) == 1


def test_an_announced_transaction_that_is_being_prepared_learns_nothing_from_a_begin_behind_its_commit() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    driver.step(events.Commit(driver.session, client_pb2.CommitRequest(number=1, acknowledged=named("a", "b"))))
    driver.begin(1, timeout_ms=1)
    driver.step(events.AnswersSeen(driver.session, 5))
    assert driver.txn(1).state.value == "PREPARING"


def test_an_announced_transaction_that_is_being_prepared_is_none_that_its_client_gave_up() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    driver.step(events.Commit(driver.session, client_pb2.CommitRequest(number=1, acknowledged=named("a", "b"))))
    driver.step(events.AnswersSeen(driver.session, 5))
    assert driver.txn(1).state.value == "PREPARING"


def test_a_commit_names_no_more_participants_than_a_transaction_may_have() -> None:
    driver = Driver(CoreSettings(participants_max=2))
    commit(driver, 1, "a", "b", "c")
    assert driver.outcomes() == ["1 ABORTED TOO_MANY_PARTICIPANTS"]
    assert driver.sent() == ["a.ABORT", "b.ABORT"]


def test_an_abort_reaches_whoever_it_names_also_where_another_one_was_announced() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    abort(driver, 1, "b")
    assert driver.sent() == ["a.ABORT", "b.ABORT"]


def test_an_abort_needs_no_room() -> None:
    driver = Driver(CoreSettings(open_transactions_max=1))
    driver.begin(1)
    abort(driver, 2, "a")
    assert driver.outcomes() == ["2 ABORTED CLIENT_ABORT"]
    assert driver.sent() == [], "a finds out when it announces itself"
    driver.enlist("a", 2)
    assert refusals(driver) == ["CLIENT_ABORT"]


def test_an_abort_needs_no_room_for_its_answer_either() -> None:
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.begin(1)
    abort(driver, 2, "a")
    assert driver.outcomes() == ["2 ABORTED CLIENT_ABORT"], "nothing is in doubt of what never began"
    commit(driver, 2, "a")
    assert driver.outcomes() == ["2 IN_DOUBT OVERLOADED"], "and it never will"
    assert driver.id(2) not in driver.book.live


def test_a_repeat_of_a_late_commit_or_abort_changes_nothing() -> None:
    driver = Driver()
    commit(driver, 1, "a", "b")
    commit(driver, 1, "a", "b")
    assert driver.sent() == ["a.prepares", "b.prepares"]
    abort(driver, 2, "a")
    abort(driver, 2, "a")
    assert driver.outcomes() == ["2 ABORTED CLIENT_ABORT"] * 2
    assert driver.sent() == ["a.ABORT"]


def test_unary_calls_begin_in_time() -> None:
    driver = Driver()
    unary = driver.core.unary_session
    driver.step(events.Commit(unary, client_pb2.CommitRequest(number=1, begin=client_pb2.BeginRequest(timeout_ms=1000))))
    assert driver.outcomes() == ["1 IN_DOUBT UNKNOWN_TRANSACTION"]
    driver.say("a", participant_pb2.Enlist(transaction_id=f"{unary}.5"))
    assert refusals(driver) == ["UNKNOWN_TRANSACTION"]


def test_a_number_whose_refusal_was_not_kept_was_not_rolled_back_before_it_began() -> None:
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.run(1, "ab", key="k")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    driver.run(2, "ab", key="k")
    driver.step(events.AnswersSeen(driver.session, 2))
    driver.abort(2)
    assert "2 ABORTED CLIENT_ABORT" not in driver.outcomes(), "it was told of the commit, for which there was no room"
