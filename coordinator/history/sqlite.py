"""The history in a file beside the log: `history.db`.

It is an index for people, and a crash may cost its newest rows: it is synced when SQLite moves its WAL, and never with a commit.
One thread writes, another reads, and the log's thread knows nothing of either.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from coordinator.core.effects import Over
from coordinator.history.entry import Query, Row, row_of
from coordinator.history.store import PRUNED_MAX, Bounds, HistoryError
from troth.logs import get_logger

log = get_logger("troth.history")

FILE = "history.db"
VERSION = 1
"""Of the table, as `user_version` has it."""

_CREATE = (
    "CREATE TABLE history (number INTEGER PRIMARY KEY, transaction_id TEXT NOT NULL UNIQUE, first_attempt_ms INTEGER NOT NULL,"
    " ended_ms INTEGER NOT NULL, outcome INTEGER NOT NULL, participants TEXT NOT NULL, key_hash TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX history_place ON history (first_attempt_ms, transaction_id)",
    f"PRAGMA user_version = {VERSION}",
)
_INSERT = (
    "INSERT INTO history (transaction_id, first_attempt_ms, ended_ms, outcome, participants, key_hash, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (transaction_id) DO"
)
_KEEP = f"{_INSERT} NOTHING"
_REPLACE = f"{_INSERT} UPDATE SET ended_ms = excluded.ended_ms, outcome = excluded.outcome, body = excluded.body"
_OLDEST = "SELECT number, ended_ms FROM history ORDER BY number LIMIT ?"

Value = TypeVar("Value")


class SqliteHistory:
    """A `HistoryStore` on a file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._writer = ThreadPoolExecutor(1, "troth-history-write")
        self._reader = ThreadPoolExecutor(1, "troth-history-read")
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Find the file, or make it; one that is no history is put aside, and told."""
        await _in(self._writer, self._open)

    async def write(self, batch: Sequence[Over]) -> None:
        """Keep some transactions."""
        await _in(self._writer, lambda: self._write(batch))

    async def page(self, query: Query) -> tuple[Sequence[bytes], int]:
        """One page, and how many there are."""
        return await _in(self._reader, lambda: self._page(query))

    async def find(self, transaction_id: str) -> bytes | None:
        """The body of one transaction."""
        return await _in(self._reader, lambda: self._find(transaction_id))

    async def prune(self, bounds: Bounds, now_ms: int) -> int:
        """Drop what is too old or too much."""
        return await _in(self._writer, lambda: self._prune(bounds, now_ms))

    async def close(self) -> None:
        """Close the file, each connection in its own thread."""
        for executor, close in ((self._reader, self._close_reader), (self._writer, self._close_writer)):
            with contextlib.suppress(HistoryError):
                await _in(executor, close)
            executor.shutdown()

    # ---- in the writer's thread

    def _open(self) -> sqlite3.Connection:
        if self._writing is None:
            try:
                self._writing = _opened(self._path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # the disk is full, or somebody else has the file
                aside = self._put_aside()
                log.warning("the history's file is damaged; a new one is begun", why=str(error), kept_as=aside)
                self._writing = _opened(self._path)
        return self._writing

    def _put_aside(self) -> str:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for end in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + end)
            if part.exists():
                part.rename(part.with_name(f"{self._path.name}.damaged-{stamp}{end}"))
        return f"{self._path.name}.damaged-{stamp}"

    def _write(self, batch: Sequence[Over]) -> None:
        rows = [row_of(over) for over in batch]
        with self._open() as connection:
            connection.executemany(_KEEP, [_values(row) for row in rows if not row.is_news])
            connection.executemany(_REPLACE, [_values(row) for row in rows if row.is_news])

    def _prune(self, bounds: Bounds, now_ms: int) -> int:
        connection = self._open()
        (count,) = connection.execute("SELECT count(*) FROM history").fetchone()
        surplus = max(count - bounds.rows_max, self._rows_over(connection, count, bounds.bytes_max))
        oldest = connection.execute(_OLDEST, (PRUNED_MAX,)).fetchall()
        doomed = [(number,) for place, (number, ended) in enumerate(oldest) if place < surplus or ended < bounds.oldest_ms(now_ms)]
        with connection:
            connection.executemany("DELETE FROM history WHERE number = ?", doomed)
        return len(doomed)

    def _rows_over(self, connection: sqlite3.Connection, count: int, bytes_max: int) -> int:
        """How many rows, of the average size, the file is too large by."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        used = (pages - free) * size
        return -(-count * (used - bytes_max) // used) if used > bytes_max else 0

    def _close_writer(self) -> None:
        if self._writing is not None:
            self._writing.close()

    # ---- in the reader's thread

    def _read(self) -> sqlite3.Connection:
        if self._reading is None:
            self._reading = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
        return self._reading

    def _page(self, query: Query) -> tuple[Sequence[bytes], int]:
        connection = self._read()
        rows = connection.execute(query.page().format(table="history"), query.values).fetchall()
        (count,) = connection.execute(query.count().format(table="history"), query.values).fetchone()
        return [body for (body,) in rows], count

    def _find(self, transaction_id: str) -> bytes | None:
        row = self._read().execute("SELECT body FROM history WHERE transaction_id = ?", (transaction_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def _close_reader(self) -> None:
        if self._reading is not None:
            self._reading.close()


def _values(row: Row) -> tuple[object, ...]:
    """What is inserted. For `bytes` sqlite3 looks for an adapter each time; a `bytearray` it takes as it is."""
    return (*row[:6], bytearray(row.body))


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise HistoryError(f"{path} is of a newer version ({version}); this one reads {VERSION}")
        if version == 0:
            with connection:
                for statement in _CREATE:
                    connection.execute(statement)
        connection.execute("SELECT count(*) FROM (SELECT 1 FROM history LIMIT 1)").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


async def _in(executor: ThreadPoolExecutor, work: Callable[[], Value]) -> Value:
    """Do something in a thread; what SQLite says about it becomes ours."""
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
    except (sqlite3.Error, OSError, RuntimeError) as error:
        raise HistoryError(f"{type(error).__name__}: {error}") from error
