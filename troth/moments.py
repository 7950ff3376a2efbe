"""Points in time as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(at_ms: int) -> str:
    """Milliseconds since the Unix epoch as a date and a time; what is beyond the calendar stays a number."""
    try:
        return f"{_EPOCH + timedelta(milliseconds=at_ms):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError):
        return f"{at_ms} ms since the epoch"
