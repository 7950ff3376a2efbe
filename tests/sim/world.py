"""Time and chance: one event queue, one random generator, one trace."""

from __future__ import annotations

import heapq
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from troth.ready import Instant

EPOCH_MS = 1_800_000_000_000

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of an object that has no text of its own; it differs from run to run."""


class World:
    """A run's clock and queue. The same seed gives the same run, event by event."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.reached: Counter[str] = Counter()
        """Races and faults that the run came to, by name."""
        self.trace: list[str] = []
        self._tracing = tracing
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0

    def instant(self, skew_ms: int = 0) -> Instant:
        """Both clocks, as a process with this skew reads them."""
        return Instant(self.now, EPOCH_MS + int(self.now * 1000) + skew_ms)

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let something happen later."""
        self._sequence = sequence = self._sequence + 1
        heapq.heappush(self._queue, (self.now + delay, sequence, action, arguments))

    def leap(self, seconds: float) -> None:
        """Let a long time pass at once, as for a machine that slept: what was due meanwhile happens late."""
        self.now += seconds

    def say(self, who: str, what: object) -> None:
        """Add a line to the trace."""
        if self._tracing:
            text = _ADDRESS.sub("", " ".join(str(what).split()))
            self.trace.append(f"{self.now:9.4f} {who:<4} {text[:400]}")

    @property
    def tracing(self) -> bool:
        """Whether a trace is kept: building its texts costs more than the run."""
        return self._tracing

    def reach(self, name: str) -> None:
        """Count that the run came to something."""
        self.reached[name] += 1

    def run_until(self, end: float, *, steps_max: int = 400_000) -> None:
        """Let time pass."""
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= end:
            at, _, action, arguments = pop(queue)
            if at > self.now:
                self.now = at
            self.steps += 1
            if self.steps > steps_max:
                raise AssertionError("livelock: the run does not come to rest")
            action(*arguments)
        self.now = max(self.now, end)
