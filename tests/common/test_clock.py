"""The durable clock: jumps of the wall clock are believed a little at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.clock import JUMP_MS_MAX, SLEW, DurableClock
from troth.ready import Instant

NOW = 1_700_000_000_000
DAY_SECONDS = 86_400
YEAR_MS = 365 * DAY_SECONDS * 1000


def started(durable_ms: int = 0) -> DurableClock:
    clock = DurableClock()
    clock.start(durable_ms, Instant(100.0, NOW))
    return clock


def run(clock: DurableClock, seconds: float, *, ahead_ms: int, steps: int = 1) -> int:
    """Let time pass with the wall clock so far ahead of (or behind) the monotonic one; returns the last reading."""
    reading = 0
    for step in range(1, steps + 1):
        passed = seconds * step / steps
        reading = clock.read(Instant(100.0 + passed, NOW + ahead_ms + int(passed * 1000)))
    return reading


def test_it_must_be_started() -> None:
    with pytest.raises(AssertionError):
        DurableClock().read(Instant(0.0, 0))


@pytest.mark.parametrize(
    ("durable_ms", "first"), [(0, NOW), (NOW - 5, NOW - 5), (NOW - YEAR_MS, NOW - YEAR_MS), (NOW + 5000, NOW + 5000)]
)
def test_it_goes_on_from_its_last_durable_reading(durable_ms: int, first: int) -> None:
    assert started(durable_ms).read(Instant(100.0, NOW)) == first


def test_what_the_wall_clock_says_at_a_start_is_caught_up_slowly() -> None:
    hour_ms = 3_600_000
    assert abs(run(started(NOW - 2 * hour_ms), 3600, ahead_ms=0, steps=100) - (NOW - 2 * hour_ms + hour_ms * (1 + SLEW))) <= 1
    assert abs(run(started(NOW - hour_ms), 11 * 3600, ahead_ms=0, steps=500) - (NOW + 11 * hour_ms)) <= 1


def test_many_starts_do_not_move_it_by_many_steps() -> None:
    durable_ms = NOW
    for start in range(100):
        clock = DurableClock()
        clock.start(durable_ms, Instant(float(start), NOW + YEAR_MS))
        durable_ms = clock.read(Instant(start + 1.0, NOW + YEAR_MS + 1000))
    assert durable_ms == NOW + 100 * 1100


def test_it_follows_the_wall_clock() -> None:
    clock = started()
    for second in range(1, 100):
        reading = clock.read(Instant(100.0 + second, NOW + second * 1000))
        assert abs(reading - (NOW + second * 1000)) <= 1


def test_a_small_step_is_taken_at_once() -> None:
    assert started().read(Instant(100.0, NOW + JUMP_MS_MAX)) == NOW + JUMP_MS_MAX


def test_of_a_large_jump_ahead_only_a_little_is_believed_at_once() -> None:
    assert started().read(Instant(100.0, NOW + YEAR_MS)) == NOW + JUMP_MS_MAX


def test_a_jump_of_a_year_does_not_expire_a_day() -> None:
    reading = run(started(), DAY_SECONDS, ahead_ms=YEAR_MS, steps=1000)
    assert reading <= NOW + DAY_SECONDS * 1000 * (1 + SLEW) + JUMP_MS_MAX + 1


def test_a_large_jump_is_caught_up_in_the_end() -> None:
    hour_ms = 3_600_000
    reading = run(started(), 11 * 3600, ahead_ms=hour_ms, steps=500)
    assert abs(reading - (NOW + hour_ms + 11 * hour_ms)) <= 1


@pytest.mark.parametrize("ahead_ms", [YEAR_MS, 10 * JUMP_MS_MAX, 0, -YEAR_MS])
def test_how_often_it_is_read_makes_no_difference(ahead_ms: int) -> None:
    rarely, often = run(started(), 60, ahead_ms=ahead_ms), run(started(), 60, ahead_ms=ahead_ms, steps=60_000)
    assert abs(rarely - often) <= 2


def test_behind_its_back_it_goes_on_slower_and_never_back() -> None:
    clock = started()
    reading = run(clock, 1000, ahead_ms=-YEAR_MS, steps=10)
    assert reading == NOW + 1_000_000 * (1 - SLEW)


def test_it_meets_a_wall_clock_that_was_set_back() -> None:
    reading = run(started(), 20 * 60, ahead_ms=-60_000, steps=300)
    assert abs(reading - (NOW - 60_000 + 20 * 60_000)) <= 1


@given(st.lists(st.tuples(st.floats(-1, 100), st.integers(-YEAR_MS, YEAR_MS)), max_size=40))
def test_it_never_goes_back(readings: list[tuple[float, int]]) -> None:
    clock, last, monotonic = started(), NOW, 100.0
    for passed, wall in readings:
        monotonic += passed  # even if the monotonic clock should go back
        reading = clock.read(Instant(monotonic, NOW + wall))
        assert reading >= last
        last = reading


@pytest.mark.parametrize("durable_ms", [0, NOW - YEAR_MS])
def test_while_nothing_ages_it_says_what_the_wall_clock_says_ahead_and_back(durable_ms: int) -> None:
    clock = DurableClock()
    clock.start(durable_ms, Instant(100.0, NOW), loose=True)
    for second, ahead_ms in enumerate([0, YEAR_MS, -YEAR_MS, 5], 101):
        assert clock.read(Instant(second, NOW + ahead_ms)) == NOW + ahead_ms
    clock.loose = False
    assert clock.read(Instant(105.0, NOW - YEAR_MS)) == NOW + 5 + 900, "from here on it never goes back"
