"""Who asks about a transaction that is being settled is answered after `settle_answer_seconds`, however rare the repeats are."""

from __future__ import annotations

import pytest

from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import participant_pb2

RARE = CoreSettings(resend_first_seconds=20.0, settle_answer_seconds=2.0)
OLD = "c1.0.0123abcd.1.9"


def asked() -> Driver:
    """OLD is being settled at a, which says nothing; the question is asked a second time long after the first."""
    driver = Driver(RARE)
    driver.get(OLD, "a", WALL_MS)
    return driver


def test_the_first_question_is_answered_in_time() -> None:
    driver = asked()
    driver.wait(1.9)
    assert driver.got() == []
    driver.wait(0.2)
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"]


def test_a_later_question_does_not_wait_for_the_next_repeat() -> None:
    driver = asked()
    driver.wait(3.0)
    driver.got()
    driver.get(OLD)
    driver.wait(2.1)
    assert driver.got() == ["0 IN_DOUBT IN_DOUBT"]


def test_a_client_whose_one_phase_commit_is_settled_is_answered_at_its_deadline() -> None:
    driver = Driver(RARE)
    driver.run(1, "a", timeout_ms=3000)
    driver.lose("a")
    driver.connect("a", 9)
    driver.wait(2.9)
    assert driver.outcomes() == []
    driver.wait(0.2)
    assert driver.outcomes() == ["1 IN_DOUBT IN_DOUBT"]


def test_a_question_while_a_contradiction_is_written_down_waits_for_the_record() -> None:
    driver = Driver()
    hazard = participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD
    driver.say("a", participant_pb2.Acknowledgement(transaction_id=OLD, kind=hazard))
    driver.get(OLD)
    driver.wait(5.0)
    assert driver.got() == []
    driver.sync()
    assert driver.got() == ["0 HAZARD"]


@pytest.mark.parametrize("results", [b"", b"\n\0"])
def test_a_replayed_answer_has_the_results_of_the_first_one(results: bytes) -> None:
    driver = Driver()
    driver.run(1, "ab", key="k")
    driver.vote("a", 1, results=results)
    driver.vote("b", 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    driver.run(2, "ab", key="k")
    first, again = driver.answers()
    assert list(again.results) == list(first.results) and again.results_available
