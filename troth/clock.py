"""The durable clock: wall time that survives restarts, never goes back, and does not believe large jumps.

Retention ages on this clock. A wall clock that jumps a year ahead must not expire a year of idempotency keys, and one
that jumps back must not make old keys young. So each step forward is at most the monotonic time that passed, plus a small
allowance; the rest is caught up slowly.
"""

from __future__ import annotations

from troth.ready import Instant

JUMP_MS_MAX = 60_000
"""How far one reading may be ahead of what the monotonic clock explains, in milliseconds."""


class DurableClock:
    """Call `start` with the last durable reading, then `read` as often as you like."""

    __slots__ = ("_at_ms", "_last")

    def __init__(self) -> None:
        self._at_ms = 0
        self._last: Instant | None = None

    def start(self, durable_ms: int, now: Instant) -> None:
        """Begin at the later of the last durable reading and the wall clock.

        While the process was down nothing measured the time, so the wall clock is believed for that interval.
        """
        self._at_ms = max(durable_ms, now.wall_ms)
        self._last = now

    def read(self, now: Instant) -> int:
        """Milliseconds since the Unix epoch, never less than before."""
        assert self._last is not None, "the clock was not started"
        passed_ms = max(0, int((now.monotonic - self._last.monotonic) * 1000))
        if passed_ms or now.wall_ms > self._at_ms:
            allowed = self._at_ms + passed_ms + (JUMP_MS_MAX if passed_ms >= 1000 else 0)
            self._at_ms = max(self._at_ms, min(now.wall_ms, allowed))
            self._last = now
        return self._at_ms
