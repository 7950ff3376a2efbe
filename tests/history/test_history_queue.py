"""The queue before a history: it never delays anybody, and says what it lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.core.effects import Over
from coordinator.history import history
from coordinator.history.entry import Query
from coordinator.history.history import History
from coordinator.history.store import Bounds, HistoryError
from troth import logs
from troth.errors import RequestError
from troth.v1 import admin_pb2

BOUNDS = Bounds(60.0, 100, 1 << 20)


class Place:
    """A place that waits until it is let, and fails when it is told to."""

    def __init__(self) -> None:
        self.may_write = asyncio.Event()
        self.fails = False
        self.written: list[str] = []

    async def open(self) -> None:
        if self.fails:
            raise HistoryError("no disk")

    async def write(self, batch: Sequence[Over]) -> None:
        await self.may_write.wait()
        await self.open()
        self.written += [over.transaction_id for over in batch]

    async def page(self, query: Query) -> tuple[Sequence[bytes], int]:
        await self.open()
        return [], 0

    async def find(self, transaction_id: str) -> bytes | None:
        await self.open()
        return None

    async def prune(self, bounds: Bounds, now_ms: int) -> int:
        return 0

    async def close(self) -> None:
        """Nothing is held."""


async def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch, over: Any) -> None:
    monkeypatch.setattr(history, "QUEUE_MAX", 3)
    place = Place()
    one = History(place, BOUNDS)
    with logs.quiet():
        for number in range(5):
            one.add(over(number))
    assert (one.waiting, one.dropped) == (3, 2)
    place.may_write.set()
    await one.start()
    await one.stop()
    assert (one.written, len(place.written), one.waiting) == (3, 3, 0)


async def test_the_queue_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch, over: Any) -> None:
    monkeypatch.setattr(history, "QUEUE_BYTES_MAX", 10_000)
    one = History(Place(), BOUNDS)
    with logs.quiet():
        one.add(over(1, key="k" * 9_000))
        one.add(over(2))
    assert (one.dropped, one.waiting) == (1, 1)


async def test_a_place_that_fails_costs_rows_and_nothing_else(over: Any) -> None:
    place = Place()
    place.may_write.set()
    place.fails = True
    one = History(place, BOUNDS)
    with logs.quiet():
        await one.start()
        one.add(over(1))
        await one.catch_up()
        assert (one.dropped, one.written) == (1, 0)
        assert await one.find("c1.1.0badcafe.1.1") is None
        with pytest.raises(RequestError, match="the history cannot be read: no disk"):
            await one.page(admin_pb2.ListTransactionsRequest(finished=True))
        place.fails = False
        one.add(over(2))
        await one.stop()
    assert place.written == ["c1.1.0badcafe.1.2"]
