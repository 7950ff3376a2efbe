"""Points in time as people read them."""

from __future__ import annotations

import pytest

from troth.moments import utc


@pytest.mark.parametrize(
    ("at_ms", "told"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (1_795_987_867_853, "2026-11-29 21:31:07 UTC"),
        (1 << 62, f"{1 << 62} ms since the epoch"),
        (-(1 << 50), f"{-(1 << 50)} ms since the epoch"),
    ],
)
def test_a_moment_is_a_date_and_a_time(at_ms: int, told: str) -> None:
    assert utc(at_ms) == told
