"""Idempotency keys that are sealed in the log, and whose payload key is not there: any key may be one of them.

So nothing is begun under a key, and nobody who asks under one is told "aborted"; everything else goes on."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import client_pb2, common_pb2, participant_pb2

IN_DOUBT = (common_pb2.OUTCOME_IN_DOUBT, "PAYLOAD_KEY_MISSING")


@pytest.fixture
def driver() -> Driver:
    """Restarted without the payload key, with a commit under the key k that nobody has acknowledged."""
    before = Driver()
    before.run(1, "ab", key="k")
    for name in "ab":
        before.vote(name, 1)
    before.sync()
    return Driver(records=before.log, nonce="0123abce", unreadable=True)


def told(answer: Any) -> tuple[int, str]:
    return answer.outcome, answer.cause.reason


def test_what_is_decided_is_settled_and_work_without_a_key_goes_on(driver: Driver) -> None:
    (old,) = driver.book.live.values()
    driver.wait(20.0)
    assert {"a.COMMIT", "b.COMMIT"} <= set(driver.sent())
    done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
    for name in "ab":
        driver.say(name, participant_pb2.Acknowledgement(transaction_id=old.id, kind=done))
    driver.sync()
    assert old.id in driver.book.finished
    driver.complete(1, "ab")
    assert driver.outcomes() == ["1 COMMITTED"]


def test_nothing_runs_under_a_key_and_its_number_may_be_asked_again(driver: Driver) -> None:
    for _ in range(2):
        driver.run(1, "ab", key="new")
        assert [told(effect.answer) for effect in driver.take(effects.Answered)] == [IN_DOUBT]
        assert driver.sent() == []
    assert driver.book.keys.keys() == {"k"}


def test_nothing_is_begun_under_a_key(driver: Driver) -> None:
    driver.begin(1, key="new")
    (begun,) = driver.take(effects.Begun)
    assert (told(begun.response.holder), begun.response.HasField("refusal")) == (IN_DOUBT, False)


def test_a_question_under_a_key_without_a_holder_is_answered_in_doubt_and_settles_nothing(driver: Driver) -> None:
    request = client_pb2.GetRequest(transaction_id="c1.0.0123abcd.1.9", participants="c", first_attempt_ms=WALL_MS, key="new")
    driver.step(events.Get("ticket", request))
    assert [told(effect.answer) for effect in driver.take(effects.Got)] == [IN_DOUBT]
    assert driver.sent() == []
