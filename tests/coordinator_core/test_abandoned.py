"""A branch that an operator gave up turns out to be in doubt: it is told the decision, and the outcome stays what was recorded."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import Driver
from troth.v1 import admin_pb2, participant_pb2


def abandoned() -> Driver:
    """Transaction 1 of a and b: COMMIT is decided, b is away, and an operator waits for it no more."""
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.lose("b")
    driver.sync()
    driver.acknowledge("a", 1)
    request = admin_pb2.ResolveRequest(
        transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABANDON, who="ann", why="b was scrapped"
    )
    driver.step(events.Administer("ticket", request))
    driver.sync()
    assert driver.txn(1).state.name == "HEURISTIC"
    driver.take(effects.Send)
    return driver


def prepared(driver: Driver) -> participant_pb2.BranchReport:
    return participant_pb2.BranchReport(transaction_id=driver.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED)


@pytest.mark.parametrize("restart", [False, True])
def test_it_is_told_commit_when_it_comes_back(restart: bool) -> None:
    driver = abandoned()
    report = prepared(driver)
    if restart:
        driver = Driver(records=driver.log, connect=False)
    driver.connect("b", 9, reports=[report])
    assert driver.sent() == ["b.COMMIT"]


def test_it_is_told_commit_when_it_asks() -> None:
    driver = abandoned()
    driver.connect("b", 9)
    driver.say("b", participant_pb2.Inquiry(transaction_id=driver.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED))
    assert driver.sent() == ["b.COMMIT"]
    driver.acknowledge("b", 1)
    assert driver.txn(1).state.name == "HEURISTIC", "people look first"


def forget(driver: Driver) -> str:
    """Ask to forget transaction 1; returns the reason of the refusal, if any."""
    request = admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), who="ann", why="repaired")
    driver.step(events.Administer("ticket", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return str(answer.response.refusal.reason)


def test_it_cannot_be_forgotten_while_it_may_still_be_in_doubt() -> None:
    driver = abandoned()
    driver.take(effects.Administered)
    assert forget(driver) == "PARTICIPANT_AWAY"
    driver.connect("b", 9, reports=[prepared(driver)])
    driver.acknowledge("b", 1)
    assert forget(driver) == "" and not driver.book.live


def test_it_can_be_forgotten_when_another_log_has_the_name() -> None:
    driver = abandoned()
    driver.step(events.Administer("t", admin_pb2.ReplaceParticipantRequest(participant="b", who="ann", why="scrapped")))
    driver.sync()
    driver.take(effects.Administered)
    assert forget(driver) == ""
