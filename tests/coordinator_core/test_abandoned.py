"""A branch that an operator gave up turns out to be in doubt: it is told the decision, and the outcome stays what was recorded."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_contradictions import cleaned
from troth.v1 import admin_pb2, common_pb2, participant_pb2


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


def forget(driver: Driver, name: str = "") -> str:
    """Ask to forget transaction 1, or one of an earlier life; returns the reason of the refusal, if any."""
    request = admin_pb2.ForgetTransactionRequest(transaction_id=name or driver.id(1), who="ann", why="repaired")
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


def lives(driver: Driver) -> list[Driver]:
    """The same coordinator, its next life, and the next life of a log that was cleaned."""
    return [driver, Driver(records=driver.log, connect=False), Driver(records=cleaned(driver), connect=False)]


def explained(driver: Driver, name: str) -> admin_pb2.ExplainResponse:
    driver.take(effects.Administered)
    driver.step(events.Administer("ticket", admin_pb2.ExplainRequest(transaction_id=name)))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    response: admin_pb2.ExplainResponse = answer.response
    return response


def test_what_it_says_when_it_comes_back_is_known_from_then_on() -> None:
    driver = abandoned()
    name = driver.id(1)
    assert explained(driver, name).summary.outcome == common_pb2.OUTCOME_HAZARD
    driver.connect("b", 9, reports=[prepared(driver)])
    driver.acknowledge("b", 1)
    driver.acknowledge("b", 1)  # twice, before the record is durable
    driver.sync()
    driver.acknowledge("b", 1)
    for life in lives(driver):
        told = explained(life, name)
        if life is not driver:  # who had acknowledged is asked again
            life.connect("a", 1)
            life.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE))
            told = explained(life, name)
        assert (told.summary.state, told.summary.outcome) == ("HEURISTIC", common_pb2.OUTCOME_COMMITTED)
        assert told.explanation.startswith("It ended as decided after all: COMMIT was decided and durable, and b was given up by")
        assert "b was scrapped; since then it said that it ended COMMITTED" in told.branches[1].explanation
    assert driver.book.counters.heuristic == 1
    driver.lose("b")
    assert forget(driver) == "", "nothing is owed any more, be it connected or not"
    for life in lives(driver):
        life.get(name)
        assert life.got() == ["0 COMMITTED"]


def test_that_it_ended_otherwise_after_all_is_mixed() -> None:
    driver = abandoned()
    driver.connect("b", 9)
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=kind, detail="by bob: his reason"))
    driver.acknowledge("b", 1, "HAZARD")  # says nothing more
    driver.sync()
    for life in lives(driver):
        told = explained(life, life.book.live and next(iter(life.book.live)))
        assert told.summary.outcome == common_pb2.OUTCOME_MIXED
        assert "b was scrapped; by bob: his reason; since then it said that it ended ABORTED" in told.explanation


def test_an_acknowledgement_that_comes_while_another_is_owed_counts_once() -> None:
    driver = Driver()
    driver.run(1, "abc")
    for name in "abc":
        driver.vote(name, 1)
    driver.sync()
    request = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABANDON, who="ann", why="x")
    driver.step(events.Administer("ticket", request))
    driver.sync_batch()
    driver.acknowledge("a", 1)
    driver.sync()
    assert driver.txn(1).state.name == "HEURISTIC" and driver.txn(1).outcome == common_pb2.OUTCOME_HAZARD
    for name in "bc":
        driver.acknowledge(name, 1)
    driver.sync()
    assert driver.txn(1).outcome == common_pb2.OUTCOME_COMMITTED


def test_it_can_be_forgotten_when_the_participant_is_back_and_not_in_doubt() -> None:
    driver = abandoned()
    driver.take(effects.Administered)
    driver.connect("b", 9, reports=[prepared(driver)])
    driver.connect("b", 10)
    assert forget(driver) == ""


@pytest.mark.parametrize("restart", [False, True])
def test_who_was_back_for_a_moment_is_not_waited_for_again(restart: bool) -> None:
    """A slot that was given back is visited for moments only: nobody is quick enough to forget something just then."""
    driver = abandoned()
    driver.take(effects.Administered)
    name = driver.id(1)
    if restart:
        driver = Driver(records=driver.log, connect=False)
        driver.connect("a", 1)
        driver.say("a", participant_pb2.Acknowledgement(transaction_id=name, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE))
        driver.sync()
        assert forget(driver, name) == "PARTICIPANT_AWAY", "another life does not know that it was there"
    driver.connect("b", 9)
    driver.lose("b")
    assert forget(driver, name) == "" and not driver.book.live


def test_who_was_back_in_doubt_and_left_before_it_had_acknowledged_is_waited_for() -> None:
    driver = abandoned()
    driver.take(effects.Administered)
    driver.connect("b", 9, reports=[prepared(driver)])
    driver.lose("b")
    assert forget(driver) == "PARTICIPANT_AWAY"
    driver.connect("b", 10, reports=[prepared(driver)])
    assert forget(driver) == "NOT_ACTIVE", "it was told COMMIT, and has not acknowledged that"
    driver.acknowledge("b", 1)
    driver.lose("b")
    assert forget(driver) == ""


def test_who_was_back_in_doubt_while_another_one_is_owed_is_waited_for() -> None:
    driver = Driver()
    driver.run(1, "abc")
    for name in "abc":
        driver.vote(name, 1)
    driver.sync()
    driver.lose("b")
    request = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABANDON, who="ann", why="x")
    driver.step(events.Administer("ticket", request))
    driver.connect("b", 9, reports=[prepared(driver)])  # the records of who was given up are on their way
    driver.sync()
    driver.lose("b")
    driver.take(effects.Administered)
    assert driver.txn(1).state.name == "HEURISTIC" and forget(driver) == "PARTICIPANT_AWAY"
