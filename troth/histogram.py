"""Counts how values are distributed: one bisection for each, since some are counted for every transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Borders for durations."""
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
"""Borders for numbers of things."""


class Histogram:
    """How many values were at most each border."""

    __slots__ = ("borders", "counts", "exemplars", "total")

    def __init__(self, borders: Sequence[float]) -> None:
        self.borders = borders
        self.counts = [0] * (len(borders) + 1)
        """Of each border, how many were above the one before and not above it; last, how many were above all."""
        self.total = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}
        """By the place of a border the last value that was counted with a trace: its trace id, itself, and its time."""

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.borders, value)] += 1
        self.total += value

    def add_traced(self, value: float, trace_id: str, at_seconds: float) -> None:
        """Count one that somebody can look at: a trace has it."""
        self.add(value)
        self.exemplars[bisect_left(self.borders, value)] = (trace_id, value, at_seconds)

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus's form: of each border, how many were at most it; the last border is `+Inf`."""
        rows, so_far = [], 0
        for border, count in zip((*map(str, map(float, self.borders)), "+Inf"), self.counts, strict=True):
            so_far += count
            rows.append((border, float(so_far)))
        return rows
