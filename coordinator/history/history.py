"""The history of one process: a bounded queue before a slow place.

A commit never waits for it. What is over is queued and written behind; a full queue, or a place that fails, costs rows of the
history, which are counted and told, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable

from coordinator.config import Config
from coordinator.core.effects import Over
from coordinator.history.entry import page_of, query_of, size_of
from coordinator.history.store import PRUNED_MAX, Bounds, HistoryError, HistoryStore
from troth.errors import Reason, RequestError
from troth.logs import get_logger
from troth.quiet import Quiet
from troth.tasks import is_cancelling
from troth.v1 import admin_pb2

log = get_logger("troth.history")

QUEUE_MAX = 20_000
"""Transactions that wait to be written."""
QUEUE_BYTES_MAX = 33_554_432
"""Bytes that they take."""
BATCH_MAX = 1_000
LINGER_SECONDS = 0.25
"""How long the first of a batch waits for others."""
PRUNE_SECONDS = 60.0
READ_SECONDS = 10.0
"""How long a listing may take."""
CATCH_UP_SECONDS = 1.0
"""How long who reads waits for what is queued."""


def bounds_of(config: Config) -> Bounds:
    """How much the settings let it keep."""
    return Bounds(config.shell.history_seconds, config.shell.history_rows_max, config.shell.history_bytes_max)


class History:
    """Takes what is over, and answers listings. `add` is all that the coordinator's loop does for it."""

    def __init__(self, store: HistoryStore, bounds: Bounds, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._store = store
        self.bounds = bounds
        """How much it keeps; another one is in use with the next look."""
        self._clock = clock
        self._quiet = Quiet()
        self._queue: deque[Over] = deque()
        self._queued_bytes = 0
        self._added = self._done = 0
        self._wake, self._hurry, self._progress = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.written = 0
        """Transactions that were written since the start."""
        self.dropped = 0
        """Transactions that were not, because the queue was full or the place failed."""

    async def start(self) -> None:
        """Begin to write behind. A place that cannot be opened is told, and tried again by the first write."""
        try:
            await self._store.open()
        except HistoryError as error:
            log.warning("the history cannot be opened; transactions go on without it", why=str(error))
        self._tasks = (
            asyncio.create_task(self._write_behind(), name="troth-history"),
            asyncio.create_task(self._prune_for_ever(), name="troth-history-prune"),
        )

    async def stop(self) -> None:
        """Write what is queued, for a moment, and let go of the place."""
        if self._tasks:
            await self.catch_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def add(self, over: Over) -> None:
        """Remember a transaction that is over. Never waits."""
        size = size_of(over)
        if len(self._queue) >= QUEUE_MAX or self._queued_bytes + size > QUEUE_BYTES_MAX:
            self._drop(1, "the queue is full")
            return
        self._queue.append(over)
        self._queued_bytes += size
        self._added += 1
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Transactions that wait to be written."""
        return len(self._queue)

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._quiet.tell(log.warning, "transactions are missing in the history", why=why, missing=self.dropped)

    # ---- writing

    async def _write_behind(self) -> None:
        while not is_cancelling():
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), LINGER_SECONDS)
            self._wake.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
                self._queued_bytes -= sum(map(size_of, batch))
                try:
                    await self._store.write(batch)
                    self.written += len(batch)
                except HistoryError as error:
                    self._drop(len(batch), str(error))
                finally:
                    self._done += len(batch)
                    self._progress.set()

    async def _prune_for_ever(self) -> None:
        while not is_cancelling():
            try:
                while await self._store.prune(self.bounds, self._clock()) >= PRUNED_MAX:
                    pass
            except HistoryError as error:
                self._quiet.tell(log.warning, "the history cannot be pruned", why=str(error))
            await asyncio.sleep(PRUNE_SECONDS)

    async def catch_up(self) -> None:
        """Wait, for a moment, until what was over by now is written."""
        target = self._added
        self._hurry.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while self._done < target:
                    self._progress.clear()
                    await self._progress.wait()
        self._hurry.clear()

    # ---- reading

    async def page(self, request: admin_pb2.ListTransactionsRequest) -> admin_pb2.ListTransactionsResponse:
        """One page of a listing. Raises `RequestError` where the place cannot be read: a listing with a hole would mislead."""
        query = query_of(request)
        await self.catch_up()
        try:
            async with asyncio.timeout(READ_SECONDS):
                bodies, total = await self._store.page(query)
        except (HistoryError, TimeoutError) as error:
            why = str(error) or f"it took longer than {READ_SECONDS:.0f} s"
            raise RequestError(Reason.OVERLOADED, f"the history cannot be read: {why}") from error
        return page_of(request, bodies, total, self._clock())

    async def find(self, transaction_id: str) -> admin_pb2.TransactionSummary | None:
        """What is remembered of one transaction; nothing where the place cannot be read."""
        await self.catch_up()
        try:
            async with asyncio.timeout(READ_SECONDS):
                body = await self._store.find(transaction_id)
        except (HistoryError, TimeoutError) as error:
            self._quiet.tell(log.warning, "the history cannot be read", why=str(error))
            return None
        if body is None:
            return None
        summary = admin_pb2.TransactionSummary.FromString(body)
        summary.age_seconds = max(0.0, (self._clock() - summary.first_attempt_ms) / 1000)
        return summary
