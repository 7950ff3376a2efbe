"""How full the limits are, counted in the same way as they refuse."""

from __future__ import annotations

from dataclasses import replace

from coordinator.core import events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from troth.v1 import client_pb2


def used(driver: Driver) -> dict[str, int]:
    return {name: count for name, count in driver.core.fill().items() if count}


def test_an_empty_coordinator_uses_nothing_but_what_its_peers_are() -> None:
    assert used(Driver(connect=False)) == {}
    assert used(Driver()) == {"known_participants_max": 3, "sessions_max": 1}


def test_what_refuses_at_a_limit_tells_before_that_it_is_full() -> None:
    settings = CoreSettings(open_transactions_max=2, keys_max=2)
    driver = Driver(replace(settings, resend_first_seconds=0.5))
    now_ms = driver.instant().wall_ms
    for number in (1, 2):
        request = client_pb2.BeginRequest(number=number, timeout_ms=60_000, key=f"k{number}", first_attempt_ms=now_ms)
        driver.step(events.Begin(driver.session, request))
    told = used(driver)
    assert (told["open_transactions_max"], told["keys_max"], told["unseen_answers_max"]) == (2, 2, 2)


def test_a_limit_that_is_lowered_while_it_runs_lets_nobody_in_and_sends_nobody_away() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.run(2, "ab")
    driver.core.use(replace(driver.book.settings, open_transactions_max=1))
    driver.run(3, "ab")
    assert driver.outcomes() == ["3 ABORTED OVERLOADED"]
    driver.complete(2, "ab")
    driver.complete(1, "ab")
    driver.run(4, "ab")
    assert driver.txn(4).state.name == "PREPARING"
