"""A heuristic outcome that an operator has forgotten: over for the protocol, and told as it ended for the retention."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_contradictions import BECAUSE, cleaned, forced_commit
from troth.v1 import admin_pb2, common_pb2, participant_pb2, record_pb2


def forget(driver: Driver, name: str) -> None:
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=name, **BECAUSE)))
    driver.sync()


def decided(settings: CoreSettings | None = None, **fields: Any) -> Driver:
    """COMMIT of transaction 1 of a and b was decided."""
    driver = Driver(settings)
    driver.run(1, "ab", **fields)
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    return driver


def mixed() -> Driver:
    """Transaction 1 of a and b with the key k: COMMIT was decided, an operator had rolled b back; another one has forgotten it."""
    driver = decided(CoreSettings(retention_seconds=60.0, skew_seconds=10.0), key="k")
    driver.acknowledge("a", 1)
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=kind, detail="by bob: told by phone"))
    driver.sync()
    forget(driver, driver.id(1))
    driver.out.clear()
    return driver


def lives(driver: Driver) -> list[Driver]:
    """The same coordinator, its next life, and the next life of a log that was cleaned, once and twice."""
    settings = driver.book.settings
    third = Driver(settings, cleaned(driver))
    return [driver, Driver(settings, driver.log), third, Driver(settings, cleaned(third))]


@pytest.mark.parametrize("life", range(4))
def test_a_mixed_outcome_is_told_as_such_after_it_is_forgotten(life: int) -> None:
    first = mixed()
    driver, name = lives(first)[life], first.id(1)
    assert name not in driver.book.live
    driver.get(name)
    assert driver.got() == ["0 MIXED"]
    driver.run(2, "ab", key="k")
    assert driver.outcomes() == ["2 MIXED"] and not driver.sent(), "it does not run again"
    driver.step(events.Watch("ticket", name))
    (watched,) = driver.take(effects.Watched)
    assert (watched.response.state, watched.last) == ("MIXED", True)
    driver.step(events.Administer("t", admin_pb2.ExplainRequest(transaction_id=name)))
    (explained,) = driver.take(effects.Administered)
    assert explained.response.explanation == (
        "Finished: MIXED. Participants: a and b. COMMIT was decided and durable, but b ended ABORTED: by bob: told by phone. "
        "Forgotten by ann: her reason."
    )
    driver.step(events.Administer("t", admin_pb2.ListTransactionsRequest(states=["MIXED"])))
    (listed,) = driver.take(effects.Administered)
    assert [(row.transaction_id, row.state) for row in listed.response.transactions] == [(name, "MIXED")]


@pytest.mark.parametrize("life", range(4))
def test_whoever_is_in_doubt_is_told_what_was_decided(life: int) -> None:
    first = mixed()
    driver = lives(first)[life]
    driver.out.clear()
    asked = participant_pb2.Inquiry(transaction_id=first.id(1), order=1, state=participant_pb2.BRANCH_STATE_PREPARED)
    driver.say("a", asked)
    assert driver.sent() == ["a.COMMIT"]


@pytest.mark.parametrize("life", range(3))
def test_it_goes_with_the_retention(life: int) -> None:
    first = mixed()
    driver = lives(first)[life]
    driver.wait(200.0)
    driver.sync()
    driver.wait(2.0)
    driver.sync()
    assert first.id(1) not in driver.book.finished and not driver.book.keys and driver.book.recorded == 0


@pytest.mark.parametrize("life", range(3))
def test_a_commit_that_was_never_decided_is_told_as_mixed_too_and_its_key_is_free(life: int) -> None:
    first, name = forced_commit()
    forget(first, name)
    driver = lives(first)[life]
    driver.get(name)
    assert driver.got() == ["0 MIXED"] and not driver.book.keys
    driver.take(effects.Send)
    driver.run(2, "a", key="k")
    driver.sync()
    assert driver.sent() == ["a.prepares"]


def test_what_was_over_before_and_unrecorded_is_recorded_now() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1, "NO")
    driver.acknowledge("b", 1, "FORCED_COMMIT")
    driver.sync()
    forget(driver, driver.id(1))
    for life in lives(driver):
        life.get(driver.id(1))
        assert life.got() == ["0 MIXED"]
        assert life.book.finished[driver.id(1)].at_ms == driver.book.finished[driver.id(1)].at_ms


def test_one_that_contradicts_while_it_is_being_forgotten_opens_it_again() -> None:
    driver = Driver()
    driver.run(1, "abc")
    for name in "abc":
        driver.vote(name, 1)
    driver.sync()
    for name, kind in (("a", "DONE"), ("b", "HAZARD"), ("c", "DONE")):
        driver.acknowledge(name, 1, kind)
    driver.sync()
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)))
    driver.acknowledge("c", 1, "FORCED_ABORT")
    driver.sync()
    for life in (driver, Driver(records=driver.log)):
        txn = life.book.live[driver.id(1)]
        assert [report.participant for report in txn.heuristic] == ["c"] and txn.outcome == common_pb2.OUTCOME_MIXED


def test_one_that_agrees_while_it_is_being_forgotten_changes_nothing() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    request = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABANDON, **BECAUSE)
    driver.step(events.Administer("t", request))
    driver.sync()
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)))
    driver.acknowledge("a", 1)
    driver.sync()
    for life in (driver, Driver(records=driver.log)):
        assert driver.id(1) not in life.book.live


def test_a_log_of_an_earlier_version_says_it_as_well() -> None:
    first = mixed()
    log: list[bytes] = []
    for body in first.log:
        record = record_pb2.CoordinatorRecord.FromString(body)
        if record.HasField("forgotten"):
            old = record.forgotten
            forgotten = record_pb2.Forgotten(transaction_id=old.transaction_id, who=old.who, why=old.why)
            record.forgotten.CopyFrom(forgotten)
        log.append(record.SerializeToString())
    for life in lives(Driver(records=log))[:3]:
        life.out.clear()
        life.run(2, "ab", key="k")
        assert life.outcomes() == ["2 MIXED"]


def test_an_order_given_twice_forgets_nothing_that_was_heard_between_its_records() -> None:
    driver = decided()
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1, "FORCED_ABORT")
    driver.sync()
    for _ in range(2):
        driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=driver.id(1), **BECAUSE)))
    *first, second = driver.waiting
    driver.waiting = first
    driver.sync_batch()
    assert driver.id(1) not in driver.book.live
    driver.acknowledge("a", 1, "FORCED_ABORT")
    driver.waiting.insert(0, second)
    driver.sync()
    assert driver.txn(1).state.name == "HEURISTIC", "people look at that first"
    assert Driver(records=driver.log, nonce="0123abce").book.live[driver.id(1)].state.name == "HEURISTIC"
