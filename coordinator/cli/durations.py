"""Times and durations as people write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

# Generic only in click's newest versions, and only for the type checker's sake.
if TYPE_CHECKING:
    _Whole = click.ParamType[int]
else:
    _Whole = click.ParamType

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)", re.ASCII)


def duration_ms(text: str) -> int | None:
    """`250ms`, `1.5s`, `30m`, `12h`, `7d` in milliseconds; `None` for anything else."""
    match = _DURATION.fullmatch(text.strip())
    return int(float(match[1]) * _UNITS_MS[match[2]]) if match else None


class Duration(_Whole):
    """An option that takes a duration, in milliseconds."""

    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The milliseconds."""
        found = value if isinstance(value, int) else duration_ms(str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 250ms, 1.5s, 30m, 12h or 7d", param, ctx)
        return found


class Since(_Whole):
    """An option that takes a point in time, or how long ago it was, in milliseconds since the Unix epoch."""

    name = "WHEN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The milliseconds; a time without a zone is one of this machine's."""
        if isinstance(value, int):
            return value
        ago = duration_ms(str(value))
        if ago is not None:
            return max(1, time.time_ns() // 1_000_000 - ago)
        try:
            return max(1, int(datetime.fromisoformat(str(value)).astimezone(UTC).timestamp() * 1000))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither a duration such as 30m or 7d nor a time such as 2026-01-31T08:00", param, ctx)
