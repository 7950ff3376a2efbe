"""Slots: clients name the service, one-shot work goes to the slot with the least to do, all are asked, and two do not meet."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import client_pb2, participant_pb2

OLD = "c1.0.0123abcd.1.9"


@pytest.fixture
def driver() -> Driver:
    """The service `pay` runs in two slots."""
    driver = Driver()
    for number in (0, 1):
        driver.connect(f"pay/{number}", 10 + number)
    driver.sync()
    driver.out.clear()
    return driver


def run(driver: Driver, number: int, *names: str, **fields: Any) -> list[str]:
    driver.run(number, names, **fields)  # type: ignore[arg-type]  # any sequence of names
    return driver.sent()


def test_one_shot_work_goes_to_the_slot_with_the_least_to_do(driver: Driver) -> None:
    assert run(driver, 1, "pay", "a") == ["pay/0.prepares", "a.prepares"]
    assert run(driver, 2, "pay", "a") == ["pay/1.prepares", "a.prepares"]
    for name in ("pay/1", "a"):
        driver.vote(name, 2, "READ_ONLY")
    driver.sync()
    driver.sent()
    assert run(driver, 3, "pay", "a") == ["pay/1.prepares", "a.prepares"]


def test_a_slot_that_is_away_gets_nothing_while_another_is_there(driver: Driver) -> None:
    driver.lose("pay/0")
    assert run(driver, 1, "pay", "a") == ["pay/1.prepares", "a.prepares"]
    driver.lose("pay/1")
    assert run(driver, 2, "pay", "a") == []
    assert driver.outcomes() == ["2 ABORTED PARTICIPANT_AWAY"]


def test_results_come_back_under_the_name_that_was_asked_for(driver: Driver) -> None:
    run(driver, 1, "pay", "a", key="k")
    driver.vote("pay/0", 1, results=b"\x0a\x00")
    driver.vote("a", 1)
    driver.sync()
    (answer,) = driver.answers()
    assert [one.participant for one in answer.results] == ["pay"]
    driver.acknowledge("pay/0", 1)
    driver.acknowledge("a", 1)
    driver.sync()
    run(driver, 2, "pay", "a", key="k")
    (again,) = driver.answers()
    assert again.replayed and [one.participant for one in again.results] == ["pay"]


def test_a_client_names_the_service_and_no_slot(driver: Driver) -> None:
    assert run(driver, 1, "pay/0", "a") == []
    assert driver.outcomes() == ["1 ABORTED UNKNOWN_PARTICIPANT"]


def test_all_slots_are_asked_what_became_of_a_transaction(driver: Driver) -> None:
    driver.connect("pay", 12)  # it was one process before
    driver.sync()
    driver.out.clear()
    names: Any = ["pay"]
    driver.get(OLD, names, WALL_MS)
    assert sorted(driver.sent()) == ["pay.settles", "pay/0.settles", "pay/1.settles"]
    driver.settle("pay/0", OLD, "ROLLED_BACK")
    driver.settle("pay", OLD, "ROLLED_BACK")
    assert driver.got() == []
    driver.settle("pay/1", OLD, "COMMITTED")
    assert driver.got() == ["0 COMMITTED"]


def test_a_slot_that_is_named_is_asked_alone(driver: Driver) -> None:
    names: Any = ["pay/1"]
    driver.get(OLD, names, WALL_MS)
    assert driver.sent() == ["pay/1.settles"]


def test_a_second_slot_of_one_transaction_is_refused(driver: Driver) -> None:
    driver.begin(1)
    driver.enlist("pay/0", 1)
    driver.enlist("pay/0", 1)
    assert driver.sent() == ["pay/0.enlisted"] * 2
    driver.enlist("pay/1", 1)
    (refused,) = driver.take(effects.Send)
    assert refused.message.refusal.reason == "SECOND_SLOT"
    assert "pay/0" in refused.message.refusal.message and "troth-transaction" in refused.message.refusal.message
    driver.enlist("a", 1)
    assert driver.sent() == ["a.enlisted"]


@pytest.mark.parametrize("loosely", [False, True])
def test_a_commit_that_names_two_slots_is_an_abort_unless_the_service_is_made_for_it(loosely: bool) -> None:
    driver = Driver()
    for number in (0, 1):
        hello = participant_pb2.Hello(
            participant=f"pay/{number}", log_id=f"log-{number}", incarnation=1, loosely_coupled=loosely
        )
        driver.step(events.HelloReceived(hello.participant, 10 + number, hello))
        driver.sync()
        driver.step(events.ReportsReceived(hello.participant, 10 + number, [], True))
    driver.begin(1)
    driver.out.clear()
    request = client_pb2.CommitRequest(number=1)
    for number in (0, 1):
        request.acknowledged.add(participant=f"pay/{number}", count=1, incarnation=1)
    driver.step(events.Commit(driver.session, request))
    if loosely:
        assert driver.sent() == ["pay/0.prepares", "pay/1.prepares"]
    else:
        assert driver.sent() == ["pay/0.ABORT"]
        assert driver.outcomes() == ["1 ABORTED SECOND_SLOT"]


@pytest.mark.parametrize("name", ["pay/", "pay/01", "pay/x", "pay/1/2", "/1", "pay/1234567"])
def test_what_is_no_slot_is_welcomed_by_nobody(name: str) -> None:
    driver = Driver()
    driver.step(events.HelloReceived(name, 9, participant_pb2.Hello(participant=name, log_id="x", incarnation=1)))
    (rejected,) = driver.take(effects.Rejected)
    assert rejected.cause.reason == "INVALID_NAME"
