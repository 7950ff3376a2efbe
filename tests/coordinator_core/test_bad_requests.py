"""Requests that are refused leave nothing behind."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from troth.v1 import client_pb2, common_pb2


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"timeout_ms": 0}, "INVALID_TIMEOUT"),
        ({"timeout_ms": 4_000_000_000}, "INVALID_TIMEOUT"),
        ({"key": "k" * 257}, "INVALID_KEY"),
        ({"key": "k", "first_attempt_ms": 0}, "INVALID_ARGUMENT"),
        ({"key": "k", "first_attempt_ms": -1}, "INVALID_ARGUMENT"),
        ({"names": ""}, "INVALID_ARGUMENT"),
        ({"names": "aa"}, "INVALID_ARGUMENT"),
        ({"names": "az"}, "UNKNOWN_PARTICIPANT"),
        ({"names": "abc" * 30}, "TOO_MANY_PARTICIPANTS"),
    ],
)
def test_a_bad_request_is_refused_and_leaves_nothing(fields: dict[str, object], reason: str) -> None:
    driver = Driver()
    names = str(fields.pop("names", "ab"))
    driver.run(1, names, **fields)
    assert driver.outcomes() == [f"1 ABORTED {reason}"]
    assert not driver.book.live and not driver.book.keys and driver.sent() == []


@pytest.mark.parametrize("first_attempt_ms", [0, -1])
def test_a_begin_with_a_key_says_when_its_first_attempt_was(first_attempt_ms: int) -> None:
    driver = Driver()
    driver.begin(1, key="k", first_attempt_ms=first_attempt_ms)
    (begun,) = driver.take(effects.Begun)
    assert begun.response.refusal.reason == "INVALID_ARGUMENT"
    assert not driver.book.live and not driver.book.keys


def test_arguments_over_the_limit_are_refused() -> None:
    driver = Driver(CoreSettings(payload_bytes_max=10))
    request = client_pb2.RunRequest(number=1, timeout_ms=1000)
    request.branches.add(participant="a", operations=[common_pb2.Operation(name="work", arguments=b"x" * 11)])
    driver.step(events.Run(driver.session, request))
    assert driver.outcomes() == ["1 ABORTED PAYLOAD_TOO_LARGE"]
