"""Capped exponential back-off with deterministic jitter.

Cores draw no random numbers, so the jitter comes from a hash of what is retried: two participants do not retry in step, and
a simulated run repeats itself exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `first_seconds` to `cap_seconds`, each shortened by up to half at random ("equal jitter")."""

    first_seconds: float
    cap_seconds: float

    def __post_init__(self) -> None:
        assert 0 < self.first_seconds <= self.cap_seconds

    def delay_seconds(self, attempt: int, what: str) -> float:
        """The delay before retry number `attempt` (0 for the first) of `what`."""
        assert attempt >= 0
        # The exponent is capped too: a float overflows after a thousand doublings.
        full = self.first_seconds * 2.0**attempt if attempt < 60 else self.cap_seconds
        if full > self.cap_seconds:
            full = self.cap_seconds
        fraction = crc32(what.encode(), attempt) / 0xFFFFFFFF
        return full * (0.5 + 0.5 * fraction)
