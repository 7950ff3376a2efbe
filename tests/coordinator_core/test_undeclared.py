"""Operations that declare no lock keys, and for which others have waited, are listed while their participant is there."""

from __future__ import annotations

from coordinator.core.arrivals import UNDECLARED_MAX
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_operators import administer
from troth.v1 import admin_pb2, common_pb2


def undeclared(driver: Driver) -> list[str]:
    """What operators read of participant a."""
    listed = administer(driver, admin_pb2.ListParticipantsRequest()).participants
    return next(list(one.undeclared) for one in listed if one.participant == "a")


def test_they_are_listed_once_until_the_participant_leaves() -> None:
    driver = Driver()
    assert undeclared(driver) == []
    for _ in range(2):
        driver.say("a", common_pb2.Operation(name="sweep"))
    assert undeclared(driver) == ["sweep"]
    driver.lose("a")
    assert undeclared(driver) == []


def test_they_are_bounded_and_what_is_not_offered_is_passed_over() -> None:
    driver = Driver()
    for number in range(UNDECLARED_MAX + 5):
        driver.say("a", common_pb2.Operation(name=f"{'x' * 5000}" if not number else f"o{number}"))
    names = undeclared(driver)
    assert len(names) == UNDECLARED_MAX and len(names[0]) < 5000
    driver.book.participants["a"].operations = frozenset({"o1"})
    driver.book.participants["a"].undeclared.clear()
    for name in ("o1", "o2"):
        driver.say("a", common_pb2.Operation(name=name))
    assert undeclared(driver) == ["o1"]
