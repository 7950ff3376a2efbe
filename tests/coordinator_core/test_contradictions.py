"""What contradicts a decision stays with its key and its participants: over restarts, the cleaner, and an operator's forgetting.

All found by `test_any_log`, or beside it.
"""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.model import BranchStep
from tests.coordinator_core.driver import Driver
from troth.v1 import admin_pb2, common_pb2, participant_pb2

BECAUSE = {"who": "ann", "why": "her reason"}


def cleaned(driver: Driver) -> list[bytes]:
    """A log of nothing but what the cleaner writes again."""
    owners = dict.fromkeys(driver.owners)
    return [record.SerializeToString() for owner in owners for record in driver.core.live_records(owner)]


def acknowledge(driver: Driver, name: str, transaction_id: str, kind: participant_pb2.AcknowledgementKind.ValueType) -> None:
    driver.say(name, participant_pb2.Acknowledgement(transaction_id=transaction_id, kind=kind))


def forced_commit() -> tuple[Driver, str]:
    """Transaction 1 of a, with the key k, was handed over and is being settled; an operator had committed its branch."""
    driver = Driver()
    driver.run(1, "a", key="k")
    driver.sync()
    driver.lose("a")
    driver.connect("a", 9)
    driver.settle("a", driver.id(1), "PREPARED")
    driver.acknowledge("a", 1, "FORCED_COMMIT")
    driver.sync()
    assert driver.outcomes() == ["1 MIXED"]
    driver.take(effects.Send)
    return driver, driver.id(1)


@pytest.mark.parametrize("life", ["this", "next", "next of a cleaned log"])
def test_a_key_stays_with_a_heuristic_outcome(life: str) -> None:
    driver, transaction_id = forced_commit()
    if life != "this":
        driver = Driver(records=cleaned(driver) if "cleaned" in life else driver.log)
    driver.run(2, "a", key="k")
    (answer,) = driver.answers()
    assert (answer.transaction_id, answer.outcome) == (transaction_id, common_pb2.OUTCOME_MIXED), "it must not run again"
    assert driver.sent() == []


@pytest.mark.parametrize("life", ["this", "next", "next of a cleaned log"])
def test_forgetting_what_was_never_decided_frees_its_key(life: str) -> None:
    driver, transaction_id = forced_commit()
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=transaction_id, **BECAUSE)))
    driver.sync()
    if life != "this":
        driver = Driver(records=cleaned(driver) if "cleaned" in life else driver.log)
    assert transaction_id not in driver.book.live and not driver.book.keys
    driver.take(effects.Send)
    driver.run(2, "a", key="k")
    driver.sync()
    assert driver.sent() == ["a.prepares"]


def aborted_by_an_operator() -> Driver:
    """Transaction 1 of a and b, with a key."""
    driver = Driver()
    driver.run(1, "ab", key="k")
    request = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABORT, **BECAUSE)
    driver.step(events.Administer("t", request))
    driver.sync()
    return driver


@pytest.mark.parametrize("name", "ab")
def test_each_participant_may_contradict_an_operators_abort_even_after_cleaning(name: str) -> None:
    first = aborted_by_an_operator()
    driver = Driver(records=cleaned(first))
    acknowledge(driver, name, first.id(1), participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT)
    driver.sync()
    for life in (driver, Driver(records=driver.log), Driver(records=cleaned(driver))):
        life.get(first.id(1))
        assert life.got() == ["0 MIXED"]
        assert life.book.live[first.id(1)].branches[name].step is BranchStep.HEURISTIC


def test_forgetting_what_was_decided_keeps_its_key_with_the_decision() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1, "HAZARD")
    driver.sync()
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)))
    driver.sync()
    for life in (driver, Driver(records=driver.log), Driver(records=cleaned(driver))):
        life.out.clear()
        life.run(2, "ab", key="k")
        assert life.outcomes() == ["2 HAZARD"], "it does not run again, and is told as it ended"


def test_the_cleaner_may_come_while_a_contradiction_is_written_down() -> None:
    driver = aborted_by_an_operator()
    before = driver.core.live_records(driver.id(1))
    driver.acknowledge("b", 1, "FORCED_COMMIT")
    assert driver.core.live_records(driver.id(1)) == before, "the log knows of nothing else yet"


def test_whoever_comes_late_to_a_heuristic_outcome_is_answered_although_all_were_to_be_waited_for() -> None:
    driver = Driver()
    driver.run(1, "ab", key="k", wait=common_pb2.WAIT_COMPLETE)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1, "HAZARD")
    driver.sync()
    driver.run(2, "ab", key="k", wait=common_pb2.WAIT_COMPLETE)
    assert driver.outcomes() == ["1 HAZARD", "2 HAZARD"]


def test_what_ended_is_evicted_in_the_order_in_which_it_ended_even_after_cleaning() -> None:
    first = Driver()
    for number in (1, 2):
        first.run(number, "a")
        first.vote("a", number, "COMMITTED")
        first.wait(1.0)
    first.sync()
    old_ones_last = [*first.log, *(record.SerializeToString() for record in first.core.live_records(first.id(1)))]
    old_ones_last.remove(next(body for body in first.log if first.id(1).encode() in body))
    assert list(Driver(records=old_ones_last).book.finished) == [first.id(1), first.id(2)]
