"""Back-off: doubling, capped, jittered, and the same each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.backoff import Backoff

BACKOFF = Backoff(0.1, 10.0)


@pytest.mark.parametrize(("attempt", "full"), [(0, 0.1), (1, 0.2), (2, 0.4), (6, 6.4), (7, 10.0), (60, 10.0)])
def test_it_doubles_to_the_cap_and_is_shortened_by_up_to_half(attempt: int, full: float) -> None:
    delays = [BACKOFF.delay_seconds(attempt, f"t{number}") for number in range(200)]
    assert all(full / 2 <= delay <= full for delay in delays)
    assert max(delays) - min(delays) > full * 0.4


@given(st.integers(0, 10**9), st.text())
def test_any_attempt_has_a_delay_and_always_the_same(attempt: int, what: str) -> None:
    delay = BACKOFF.delay_seconds(attempt, what)
    assert 0 < delay <= 10.0
    assert delay == BACKOFF.delay_seconds(attempt, what)


@pytest.mark.parametrize(("first", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_nonsense_is_refused(first: float, cap: float) -> None:
    with pytest.raises(AssertionError):
        Backoff(first, cap)


def test_a_negative_attempt_is_refused() -> None:
    with pytest.raises(AssertionError):
        BACKOFF.delay_seconds(-1, "x")
