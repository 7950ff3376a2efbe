"""Logs that cannot be this coordinator's are refused with a reason; records that come twice are taken once."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core.model import State
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.errors import LogDamaged, LogForeign, Reason, TrothError
from troth.v1 import common_pb2, record_pb2

OF_TOMORROW: Any = 99
NEWER = record_pb2.CoordinatorRecord(ended=record_pb2.Ended(outcome=OF_TOMORROW))
FOREIGN = record_pb2.CoordinatorRecord(epoch_started=record_pb2.EpochStarted(coordinator="c2", epoch=1, nonce="0123abcd"))


@pytest.mark.parametrize(
    "body, error, reason",
    [
        (b"\xff\xff", LogDamaged, Reason.LOG_DAMAGED),
        (record_pb2.CoordinatorRecord(at_ms=1).SerializeToString(), LogForeign, Reason.LOG_TOO_NEW),
        (NEWER.SerializeToString(), LogForeign, Reason.LOG_TOO_NEW),
        (FOREIGN.SerializeToString(), LogForeign, Reason.LOG_FOREIGN),
    ],
)
def test_a_log_that_cannot_be_read_is_refused(body: bytes, error: type[TrothError], reason: Reason) -> None:
    with pytest.raises(error) as caught:
        Driver(records=[*Driver().log, body])
    assert caught.value.reason is reason


def test_the_clock_goes_on_from_the_log() -> None:
    record = record_pb2.CoordinatorRecord(at_ms=WALL_MS + 90_000, horizon=record_pb2.Horizon(dropped_through_ms=5))
    driver = Driver(records=[record.SerializeToString()])
    assert driver.core.now_ms >= WALL_MS + 90_000 and driver.book.dropped_through_ms == 5


def heuristic(driver: Driver, *kinds: str) -> list[bytes]:
    """A log with transaction 1 of a and b, whose acknowledgements were of these kinds."""
    driver.run(1, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    for name, kind in zip("ab", kinds, strict=True):
        driver.acknowledge(name, 1, kind)
    driver.sync()
    return driver.log


def test_a_report_that_was_written_twice_is_one_report() -> None:
    first = Driver()
    log = heuristic(first, "HAZARD", "FORCED_ABORT")
    driver = Driver(records=[*log, *log[-2:]])
    txn = driver.book.live[first.id(1)]
    assert len(txn.heuristic) == 2 and txn.state is State.HEURISTIC and txn.missing == 0


def test_a_report_that_agrees_with_the_outcome_is_no_heuristic_outcome_in_the_next_life_either() -> None:
    first = Driver()
    log = heuristic(first, "FORCED_COMMIT", "FORCED_COMMIT")
    assert first.outcomes() == ["1 COMMITTED"]
    driver = Driver(records=log)
    assert not driver.book.live and driver.book.finished[first.id(1)].outcome == common_pb2.OUTCOME_COMMITTED


def test_forgetting_is_read_back() -> None:
    first = Driver()
    log = heuristic(first, "DONE", "HAZARD")
    forgotten = record_pb2.CoordinatorRecord(at_ms=WALL_MS, forgotten=record_pb2.Forgotten(transaction_id=first.id(1)))
    driver = Driver(records=[*log, forgotten.SerializeToString()])
    assert first.id(1) not in driver.book.live and driver.book.finished[first.id(1)].outcome == common_pb2.OUTCOME_COMMITTED
