"""The eldest one-shot that was undecided when another one began."""

from __future__ import annotations

from coordinator.core import events
from coordinator.core.undecided import ROOM_MIN
from tests.coordinator_core.driver import WALL_MS, Driver


def eldest(driver: Driver) -> list[int]:
    """What each Prepare since the last call says, as milliseconds before the clock of the test began."""
    sent = [effect.message for effect in driver.out if getattr(effect, "field", "") == "prepares"]
    driver.out.clear()
    return [WALL_MS - message.eldest_attempt_ms if message.eldest_attempt_ms else -1 for message in sent]


def test_each_prepare_names_the_eldest_that_may_be_before_it() -> None:
    driver = Driver()
    driver.run(1, "ab", first_attempt_ms=WALL_MS - 50)
    driver.run(2, "a", first_attempt_ms=WALL_MS - 90)
    driver.run(3, "bc", first_attempt_ms=WALL_MS - 70)
    assert eldest(driver) == [50, 50, 90, 90, 90]
    driver.vote("a", 2, "COMMITTED")
    driver.run(4, "ab", first_attempt_ms=WALL_MS - 10)
    assert eldest(driver) == [70, 70]
    driver.vote("b", 3, "NO")
    driver.run(5, "ab", first_attempt_ms=WALL_MS - 10)
    assert eldest(driver) == [50, 50]
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.run(6, "ab", first_attempt_ms=WALL_MS - 5)
    assert eldest(driver) == [10, 10], "1 is being written down as decided: it waits nowhere any more"


def test_a_repeat_says_what_was_said_first() -> None:
    driver = Driver()
    driver.run(1, "ab", first_attempt_ms=WALL_MS - 50)
    driver.run(2, "ab", first_attempt_ms=WALL_MS - 10)
    driver.vote("a", 1, "NO")
    driver.out.clear()
    driver.lose("a")
    driver.connect("a", 7)
    assert eldest(driver) == [50], "1 is over, but it was undecided when 2 began"


def test_interactive_work_answers_for_itself_alone() -> None:
    driver = Driver()
    driver.run(1, "ab", first_attempt_ms=WALL_MS - 50)
    driver.begin(2)
    driver.enlist("a", 2)
    driver.enlist("b", 2)
    driver.out.clear()
    driver.commit(2)
    assert eldest(driver) == [-1, -1]


def test_who_waits_for_long_does_not_keep_those_who_are_over() -> None:
    driver = Driver()
    driver.run(1, "ab", first_attempt_ms=WALL_MS - 50)
    for number in range(2, 5 * ROOM_MIN):
        driver.run(number, "ab")
        driver.vote("a", number, "NO")
        driver.step(events.AnswersSeen(driver.session, number + 1))
        assert len(driver.book.undecided) <= ROOM_MIN + 2
    driver.out.clear()
    driver.run(5 * ROOM_MIN, "ab")
    assert eldest(driver) == [50, 50]


def test_who_is_being_settled_does_not_count() -> None:
    driver = Driver()
    driver.run(1, "a", first_attempt_ms=WALL_MS - 50, timeout_ms=1000)
    driver.wait(1.2)
    driver.out.clear()
    driver.run(2, "ab", first_attempt_ms=WALL_MS - 10)
    assert eldest(driver) == [10, 10]
