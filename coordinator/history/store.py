"""What a place for the history must do; errors of it end nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from coordinator.core.effects import Over
from coordinator.history.entry import Query


class HistoryError(Exception):
    """The history cannot be written or read now; says why."""


class Bounds(NamedTuple):
    """How much is kept."""

    seconds: float
    rows_max: int
    bytes_max: int

    def oldest_ms(self, now_ms: int) -> int:
        """What ended before this is too old."""
        return now_ms - int(self.seconds * 1000)


PRUNED_MAX = 10_000
"""Rows dropped at one go."""


class HistoryStore(Protocol):
    """One place. All but `close` raise `HistoryError`."""

    async def open(self) -> None:
        """Find it, or make it."""

    async def write(self, batch: Sequence[Over]) -> None:
        """Keep some transactions."""

    async def page(self, query: Query) -> tuple[Sequence[bytes], int]:
        """The bodies of one page and one more, and how many there are."""

    async def find(self, transaction_id: str) -> bytes | None:
        """The body of one transaction."""

    async def prune(self, bounds: Bounds, now_ms: int) -> int:
        """Drop what is too old or too much, `PRUNED_MAX` at most; returns how many."""

    async def close(self) -> None:
        """Let go of it."""
