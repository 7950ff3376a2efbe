"""Ids that nobody began: a typing mistake, or a participant's error, makes no transaction and no outcome of them."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.errors import RemoteProtocolError
from troth.v1 import admin_pb2, participant_pb2

OLD = "c1.0.0123abcd.1.9"
FOREIGN = "c2.1.0123abcd.1.1"
COMMIT, ABORT = admin_pb2.RESOLVE_ACTION_COMMIT, admin_pb2.RESOLVE_ACTION_ABORT


def order(driver: Driver, transaction_id: str, participant: str = "a", action: Any = COMMIT) -> str:
    """An operator orders a participant to end a branch; returns why not, or nothing."""
    request = admin_pb2.ResolveRequest(
        transaction_id=transaction_id, action=action, participant=participant, who="ann", why="a reason"
    )
    driver.step(events.Administer("ticket", request))
    (answer,) = driver.take(effects.Administered)
    return str(answer.response.refusal.reason)


@pytest.mark.parametrize("mistyped", ["c1.1.0123abcd.1.7", "c1.1.0123abcd.9.1", "c1.2.0123abcd.1.1", "c1.1.0123abce.1.1"])
def test_what_this_log_cannot_have_begun_is_refused(mistyped: str) -> None:
    driver = Driver()
    assert order(driver, mistyped) == "UNKNOWN_TRANSACTION"
    assert driver.sent() == [] and not driver.book.live


def test_what_is_no_id_is_refused() -> None:
    assert order(Driver(), "nonsense") == "INVALID_TRANSACTION_ID"


def test_a_participant_without_a_branch_is_not_ordered_to_end_it() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    driver.run(2, "ab")
    for name in "ab":
        driver.vote(name, 2)
    driver.sync()
    assert [order(driver, driver.id(number), "c") for number in (1, 2)] == ["UNKNOWN_TRANSACTION"] * 2
    assert [order(driver, driver.id(number), "a") for number in (1, 2)] == ["", ""]


@pytest.mark.parametrize("transaction_id", [OLD, FOREIGN])
def test_an_order_for_a_branch_that_was_never_seen_leaves_no_record(transaction_id: str) -> None:
    driver = Driver()
    assert order(driver, transaction_id) == ""
    hazard = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD
    said = participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=hazard, detail="the branch was never seen")
    for _ in range(2):  # as every message, it may come twice
        driver.say("a", said)
    driver.sync()
    assert not driver.book.live and "heuristic" not in driver.kinds()


def test_orders_without_an_answer_are_bounded_and_go_with_the_stream() -> None:
    driver = Driver(CoreSettings(late_heuristics_max=2))
    assert [order(driver, f"c1.0.0123abcd.1.{number}") for number in (1, 2, 3)] == ["", "", "OVERLOADED"]
    driver.lose("a")
    assert not driver.book.participants["a"].ordered


def report_committed(driver: Driver, transaction_id: str) -> None:
    """A participant says that it committed a transaction in one phase."""
    state = participant_pb2.BRANCH_STATE_COMMITTED
    report = participant_pb2.BranchReport(transaction_id=transaction_id, order=7, state=state)
    driver.step(events.ReportsReceived("a", driver.book.participants["a"].stream, [report], True))


def test_a_commit_of_what_was_refused_is_not_believed() -> None:
    driver = Driver()
    driver.run(1, "az")
    assert driver.outcomes() == ["1 ABORTED UNKNOWN_PARTICIPANT"]
    with pytest.raises(RemoteProtocolError):
        report_committed(driver, driver.id(1))
    driver.get(driver.id(1), "a", WALL_MS)
    assert driver.got() == ["0 ABORTED UNKNOWN_PARTICIPANT"]


def test_a_commit_of_an_earlier_life_is_believed() -> None:
    driver = Driver()
    report_committed(driver, OLD)
    driver.get(OLD)
    assert driver.got() == ["0 COMMITTED"]
