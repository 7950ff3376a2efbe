"""The durable clock: wall time that survives restarts, never goes back, and does not believe large jumps.

Retention ages on this clock. A wall clock that jumps a year ahead must not expire a year of idempotency keys, and one that jumps
back must not make old keys young. So the clock goes with the monotonic time that passed, and is pulled towards the wall clock:
a small step ahead is taken at once, the rest is caught up at a tenth of the speed of time; ahead of the wall clock it goes a tenth
slower until that has caught up. How often it is read makes no difference.
"""

from __future__ import annotations

from troth.ready import Instant

JUMP_MS_MAX = 60_000
"""How much of a jump of the wall clock is believed at once, in milliseconds. Comes back at `SLEW` of the time that passes."""
SLEW = 0.1
"""How much faster or slower than time the clock goes to meet the wall clock."""


class DurableClock:
    """Call `start` with the last durable reading, then `read` as often as you like."""

    __slots__ = ("_believable_ms", "_gone_ms", "_monotonic", "_start_ms")

    def __init__(self) -> None:
        self._start_ms = 0
        self._gone_ms = 0.0  # since the start: adding small steps to the whole time would lose a part of each
        self._believable_ms = float(JUMP_MS_MAX)
        self._monotonic: float | None = None

    def start(self, durable_ms: int, now: Instant) -> None:
        """Begin at the later of the last durable reading and the wall clock.

        While the process was down nothing measured the time, so the wall clock is believed for that interval.
        """
        self._start_ms = max(durable_ms, now.wall_ms)
        self._gone_ms = 0.0
        self._monotonic = now.monotonic

    def read(self, now: Instant) -> int:
        """Milliseconds since the Unix epoch, never less than before."""
        assert self._monotonic is not None, "the clock was not started"
        passed_ms = max(0.0, (now.monotonic - self._monotonic) * 1000)
        self._monotonic = max(self._monotonic, now.monotonic)
        believable_ms = self._believable_ms + SLEW * passed_ms
        wall_gone_ms = now.wall_ms - self._start_ms
        behind_ms = wall_gone_ms - (self._gone_ms + passed_ms)
        if behind_ms > 0:
            step_ms = min(behind_ms, believable_ms)
            believable_ms -= step_ms
            self._gone_ms += passed_ms + step_ms
        else:
            self._gone_ms = max(wall_gone_ms, self._gone_ms + (1 - SLEW) * passed_ms)
        self._believable_ms = min(JUMP_MS_MAX, believable_ms)
        return self._start_ms + int(self._gone_ms)
