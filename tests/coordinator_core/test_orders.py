"""Orders that wait for a second person: in the log, until they are taken or expire."""

from __future__ import annotations

from typing import Any

from coordinator.core import effects, events
from coordinator.core.waiting import WAITING_MAX
from tests.coordinator_core.driver import WALL_MS, Driver
from troth.v1 import record_pb2


def order(name: str, seconds: int = 60) -> record_pb2.Review:
    """One that waits so long from the beginning of the test."""
    return record_pb2.Review(review=name, kind="ResolveRequest", request=b"x", asker="ada", until_ms=WALL_MS + seconds * 1000)


def put(driver: Driver, review: record_pb2.Review) -> record_pb2.Review:
    """The answer, once it is durable."""
    driver.step(events.Administer("ticket", review))
    if driver.waiting:
        assert driver.take(effects.Administered) == [], "nothing is told before it is durable"
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    kept: record_pb2.Review = answer.response
    return kept


def take(driver: Driver, name: str) -> record_pb2.Review:
    """Decide one."""
    return put(driver, record_pb2.Review(review=name, over=True))


def waiting(driver: Driver) -> list[str]:
    """Their names."""
    return [one.review for one in driver.core.reviews()]


def test_an_order_is_taken_once() -> None:
    driver = Driver()
    assert put(driver, order("one")) == order("one")
    assert waiting(driver) == ["one"]
    assert take(driver, "two") == record_pb2.Review()
    assert take(driver, "one") == order("one")
    assert take(driver, "one") == record_pb2.Review()
    assert waiting(driver) == []


def test_an_order_expires_and_is_told_of_once() -> None:
    driver = Driver()
    put(driver, order("short", 10))
    put(driver, order("long", 600))
    driver.wait(30.0)
    assert waiting(driver) == ["long"]
    assert [one.review.review for one in driver.take(effects.Expired)] == ["short"]
    driver.wait(30.0)
    assert driver.take(effects.Expired) == []
    assert take(driver, "short") == record_pb2.Review()


def test_so_many_wait() -> None:
    driver = Driver()
    for number in range(WAITING_MAX):
        put(driver, order(str(number)))
    assert put(driver, order("more")) == record_pb2.Review()
    assert len(waiting(driver)) == WAITING_MAX
    assert driver.core.live_owners() >= WAITING_MAX


def test_orders_outlive_a_restart_and_the_cleaner() -> None:
    driver = Driver()
    put(driver, order("kept"))
    put(driver, order("taken"))
    take(driver, "taken")
    after = Driver(records=driver.log)
    assert waiting(after) == ["kept"]
    assert cleaned(after, "taken") == []
    assert waiting(Driver(records=[*driver.log[:1], *cleaned(after, "kept")])) == ["kept"]
    after.wait(600.0)
    assert waiting(after) == []
    assert cleaned(after, "kept") == []


def cleaned(driver: Driver, name: str) -> list[bytes]:
    """What the cleaner would write anew."""
    records: list[Any] = list(driver.core.live_records(f"review/{name}"))
    return [one.SerializeToString() for one in records]
