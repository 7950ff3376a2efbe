"""What is told of how a transaction's time passed."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core.model import BranchStep, State
from coordinator.core.timeline import REPEATS_MAX, Moments, timeline_of
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_operators import administer
from troth.v1 import admin_pb2


def explained(driver: Driver) -> Any:
    return administer(driver, admin_pb2.ExplainRequest(transaction_id=driver.id(1))).summary.timeline


def test_each_step_vote_and_repeat_is_told_from_when_it_began() -> None:
    driver = Driver()
    driver.run(1, "ab", timeout_ms=60_000)
    driver.wait(0.5)
    driver.vote("a", 1)
    timeline = explained(driver)
    assert [(step.state, step.at_ms) for step in timeline.steps] == [("ACTIVE", 0), ("PREPARING", 0)]
    assert [(one.participant, one.voted_ms, one.over_ms, one.state) for one in timeline.branches] == [
        ("a", 500, -1, "PREPARED"), ("b", -1, -1, "VOTE_OWED"),
    ]  # fmt: skip
    driver.wait(20.0)
    timeline = explained(driver)
    assert timeline.repeated_ms and timeline.took_ms == 20_500


def test_a_bounded_number_of_repeats_is_remembered() -> None:
    driver = Driver()
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    driver.wait(3_000.0)
    assert len(explained(driver).repeated_ms) == REPEATS_MAX


def test_of_what_no_life_has_seen_begin_only_its_end_is_told() -> None:
    timeline = timeline_of(Moments((), (("a", 0.0, 0.0, BranchStep.OVER),), (), 7.0), 1_000)
    assert (timeline.began_ms, list(timeline.steps), timeline.branches[0].voted_ms) == (1_000, [], -1)
    assert timeline_of(Moments(((State.COMMITTED, 6.0),), (), (), 7.0), 1_000).began_ms == 0


@pytest.mark.parametrize(("fields", "numbers"), [
    ({"newest_first": True, "limit": 2}, [3, 2]),
    ({"since_ms": 1_500}, [2, 3]),
    ({"slow_ms": 1_000}, [1]),
])  # fmt: skip
def test_a_listing_is_narrowed_by_time_and_turned_round(fields: dict[str, Any], numbers: list[int]) -> None:
    driver = Driver()
    began = driver.book.clock_ms
    driver.run(1, "a")
    driver.wait(1.0)
    driver.vote("a", 1, "COMMITTED")
    driver.wait(1.0)
    driver.run(2, "a")
    driver.vote("a", 2, "COMMITTED")
    driver.run(3, "a")
    if "since_ms" in fields:
        fields = {"since_ms": began + fields["since_ms"]}
    page = administer(driver, admin_pb2.ListTransactionsRequest(finished=True, **fields))
    assert [row.transaction_id for row in page.transactions] == [driver.id(number) for number in numbers]
    if page.next_page_token:
        page = administer(driver, admin_pb2.ListTransactionsRequest(finished=True, page_token=page.next_page_token, **fields))
        assert [row.transaction_id for row in page.transactions] == [driver.id(1)]
