"""The timing wheel: never early, at most one slot late, cancelled at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.timers import Timers


@pytest.fixture
def timers() -> Timers[str]:
    return Timers(slot_seconds=0.5)


def test_without_timers_nothing_is_due(timers: Timers[str]) -> None:
    assert (timers.deadline(), timers.pop_due(1e9), len(timers), timers.due("a")) == (None, [], 0, None)


def test_a_timer_fires_at_the_end_of_its_slot(timers: Timers[str]) -> None:
    timers.set("a", 10.2)
    assert (timers.deadline(), timers.due("a"), len(timers)) == (10.5, 10.5, 1)
    assert timers.pop_due(10.4) == []
    assert timers.pop_due(10.5) == ["a"]
    assert (timers.deadline(), len(timers)) == (None, 0)


def test_timers_fire_in_order_and_together_in_one_slot(timers: Timers[str]) -> None:
    for key, at in (("late", 3.0), ("a", 1.1), ("b", 1.2), ("early", 0.1)):
        timers.set(key, at)
    assert timers.pop_due(1.5) == ["early", "a", "b"]
    assert timers.pop_due(9.0) == ["late"]


def test_setting_again_replaces(timers: Timers[str]) -> None:
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert (len(timers), timers.deadline()) == (1, 5.5)
    assert timers.pop_due(2.0) == []
    assert timers.pop_due(5.5) == ["a"]


def test_cancelling_forgets_and_may_be_repeated(timers: Timers[str]) -> None:
    timers.set("a", 1.0)
    timers.set("b", 2.0)
    timers.cancel("a")
    timers.cancel("a")
    assert (timers.deadline(), len(timers)) == (2.5, 1)
    timers.cancel("b")
    assert timers.deadline() is None


def test_an_emptied_slot_can_be_used_again(timers: Timers[str]) -> None:
    timers.set("a", 1.0)
    timers.cancel("a")
    timers.set("b", 1.1)
    assert timers.pop_due(1.5) == ["b"]
    timers.set("c", 1.2)
    assert timers.pop_due(1.5) == ["c"]


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.floats(0, 100))), max_size=30), st.floats(0, 110))
def test_like_a_table_of_due_times(steps: list[tuple[int, float | None]], now: float) -> None:
    timers, table = Timers[int](0.05), dict[int, float]()
    for key, at in steps:
        if at is None:
            timers.cancel(key)
            table.pop(key, None)
        else:
            timers.set(key, at)
            table[key] = at
    assert len(timers) == len(table)
    fired = timers.pop_due(now)
    assert all(table[key] <= now for key in fired)
    assert all(at > now - 0.051 for key, at in table.items() if key not in fired)
    deadline = timers.deadline()
    assert (deadline is None) == (len(fired) == len(table))
    assert deadline is None or deadline > now
