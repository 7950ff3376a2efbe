"""The durable clock: wall time that survives restarts, never goes back, and does not believe large jumps.

Retention ages on this clock. A wall clock that jumps a year ahead must not expire a year of idempotency keys, and one that jumps
back must not make old keys young. So the clock goes with the monotonic time that passed, and is pulled towards the wall clock:
a small step ahead is taken at once, the rest is caught up at a tenth of the speed of time; ahead of the wall clock it goes a tenth
slower until that has caught up. How often it is read makes no difference.

The reading at a start is believed no more than any other. While the process was down nothing measured the time, but a machine that
boots with a wrong clock is no rarer than one that was off for long; and to be late only means to keep more. So the clock goes on
from its last durable reading, and the time that the process was down is caught up.

A clock on which nothing ages yet has nothing to protect. Until there is something it is *loose*: it says what the wall clock says,
ahead and back, so that a machine which sets its clock a while after its first boot keeps nobody out.
"""

from __future__ import annotations

from troth.ready import Instant

JUMP_MS_MAX = 60_000
"""How much of a jump of the wall clock is believed at once, in milliseconds. Comes back at `SLEW` of the time that passes."""
SLEW = 0.1
"""How much faster or slower than time the clock goes to meet the wall clock."""


class DurableClock:
    """Call `start` with the last durable reading, then `read` as often as you like."""

    __slots__ = ("_believable_ms", "_gone_ms", "_monotonic", "_start_ms", "loose")

    def __init__(self) -> None:
        self._start_ms = 0
        self._gone_ms = 0.0  # since the start: adding small steps to the whole time would lose a part of each
        self._believable_ms = float(JUMP_MS_MAX)
        self._monotonic: float | None = None
        self.loose = False
        """Whether nothing ages on it yet. Whoever lets something age on it says so first (false)."""

    def start(self, durable_ms: int, now: Instant, *, loose: bool = False) -> None:
        """Go on from the last durable reading, or begin at the wall clock if there is none (0), or nothing ages (`loose`).

        A process that is started again and again must not believe a step each time: what is believed at once has to come back
        first.
        """
        self.loose = loose
        self._start_ms = durable_ms or now.wall_ms
        self._believable_ms = 0.0 if durable_ms else float(JUMP_MS_MAX)
        self._gone_ms = 0.0
        self._monotonic = now.monotonic

    def read(self, now: Instant) -> int:
        """Milliseconds since the Unix epoch; never less than before, unless it is loose."""
        assert self._monotonic is not None, "the clock was not started"
        if self.loose:
            self._start_ms, self._monotonic = now.wall_ms, now.monotonic
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
