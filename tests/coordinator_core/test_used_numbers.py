"""Asked about a transaction that its open session numbered, and that was refused before it began: its number is used, so there
is an answer (the engine's simulator, seeds 2, 3 and 40: the question was answered IN_DOUBT for as long as the session lived)."""

from __future__ import annotations

from coordinator.core import events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver


def refused() -> Driver:
    """Transaction 1 was refused: b is not connected."""
    driver = Driver()
    driver.lose("b")
    driver.run(1, "ab")
    assert driver.outcomes() == ["1 ABORTED PARTICIPANT_AWAY"]
    return driver


def test_a_refusal_that_is_not_acknowledged_is_told() -> None:
    driver = refused()
    driver.get(driver.id(1), "ab", WALL_MS)
    assert driver.got() == ["0 ABORTED PARTICIPANT_AWAY"]


def test_an_acknowledged_refusal_is_settled_by_the_participants() -> None:
    driver = refused()
    driver.step(events.AnswersSeen(driver.session, 2))
    driver.connect("b", 9)
    driver.get(driver.id(1), "ab", WALL_MS)
    assert driver.sent() == ["a.settles", "b.settles"]


def test_a_number_that_is_not_used_may_still_begin() -> None:
    driver = refused()
    driver.get(driver.id(2), "ab", WALL_MS)
    assert driver.got() == ["0 IN_DOUBT UNKNOWN_TRANSACTION"]


def test_what_was_refused_for_want_of_room_does_not_run_when_it_is_repeated() -> None:
    # Found by the simulator (seed 1097): a repeat that was on its way ran, and committed, when its client had been told OVERLOADED.
    driver = Driver(CoreSettings(unseen_answers_max=1))
    driver.run(1, "ab")
    driver.vote("a", 1, "NO")
    driver.run(2, "ab")
    assert driver.outcomes() == ["1 ABORTED REFUSED", "2 ABORTED OVERLOADED"]
    driver.step(events.AnswersSeen(driver.session, 2))
    driver.run(2, "ab")
    assert driver.outcomes() == ["2 ABORTED OVERLOADED"]
    driver.step(events.AnswersSeen(driver.session, 3))
    driver.run(3, "ab")
    assert driver.core.open_transactions() == 1
