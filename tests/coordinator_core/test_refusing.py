"""What is refused before it is a transaction is told of once, with whether a limit of its caller's own was the reason."""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from troth.errors import Reason, RequestError
from troth.v1 import admin_pb2, client_pb2


def told(driver: Driver) -> list[tuple[str, bool]]:
    """What was told since the last time; as much is counted."""
    found = [(one.reason.name, one.by_caller) for one in driver.refused]
    driver.refused.clear()
    return found


def test_runs_and_begins_that_are_refused_are_told_of_once() -> None:
    driver = Driver()
    driver.lose("b")
    driver.run(1, "ab")
    driver.run(2, "az")
    driver.begin(3, timeout_ms=0)
    assert told(driver) == [("PARTICIPANT_AWAY", False), ("UNKNOWN_PARTICIPANT", False), ("INVALID_TIMEOUT", False)]
    driver.run(1, "ab")
    assert told(driver) == [] and driver.core.counters.refused == 3, "the answer comes again, and nothing is asked for"
    assert not driver.over


def test_what_no_transaction_was_made_of_while_draining_is_told_of() -> None:
    driver = Driver()
    driver.step(events.Administer("ticket", admin_pb2.DrainRequest()))
    driver.run(1, "ab")
    driver.step(events.Commit(driver.session, client_pb2.CommitRequest(number=2, begin=client_pb2.BeginRequest(timeout_ms=9))))
    driver.enlist("a", 3)
    driver.begin(4)
    assert told(driver) == [("DRAINING", False)] * 4


def test_a_full_limit_of_all_is_ours_and_one_of_the_caller_s_own_is_the_caller_s() -> None:
    driver = Driver(CoreSettings(open_transactions_max=1))
    driver.run(1, "ab")
    driver.run(2, "ab")
    assert told(driver) == [("OVERLOADED", False)]
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.run(1, "ab")
    driver.run(2, "ab")
    driver.run(2, "ab")
    assert told(driver) == [("OVERLOADED", True)] * 2, "by the answers that wait, and by its number"
    driver = Driver(CoreSettings(owner_transactions_max=1))
    for number in (1, 2):
        driver.step(events.Run(driver.core.unary_session, driver.request(number, "ab"), caller="ada"))
    assert told(driver) == [("OVERLOADED", True)]


def test_what_is_refused_outside_is_told_of_as_it_was() -> None:
    driver = Driver()
    haste = RequestError(Reason.OVERLOADED, "too many a second", by_caller=True)
    driver.step(events.Run(driver.session, driver.request(1, "ab"), refusal=haste))
    assert told(driver) == [("OVERLOADED", True)]


def test_what_was_announced_is_a_transaction_which_aborts() -> None:
    driver = Driver()
    driver.enlist("a", 1)
    driver.begin(1, timeout_ms=0)
    (begun,) = driver.take(effects.Begun)
    assert begun.response.refusal.reason == "INVALID_TIMEOUT"
    assert told(driver) == [] and len(driver.over) == 1
