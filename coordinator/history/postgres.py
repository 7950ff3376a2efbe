"""The history of a cell in its store: the table `troth.history`, which every node writes and every node can read.

A connection of its own, that no log waits for; `synchronous_commit` is off on it, since a row of the history promises nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg

from coordinator.core.effects import Over
from coordinator.history.entry import Query, row_of
from coordinator.history.store import PRUNED_MAX, Bounds, HistoryError
from troth.errors import LogError
from troth.log.postgres_store import Connection, connect

CREATE = (
    "CREATE TABLE IF NOT EXISTS troth.history (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cell text NOT NULL,"
    ' transaction_id text COLLATE "C" NOT NULL, first_attempt_ms bigint NOT NULL, ended_ms bigint NOT NULL,'
    " outcome integer NOT NULL, participants text NOT NULL, key_hash text NOT NULL, body bytea NOT NULL,"
    " UNIQUE (cell, transaction_id))",
    "CREATE INDEX IF NOT EXISTS history_place ON troth.history (cell, first_attempt_ms, transaction_id)",
)
_INSERT = (
    "INSERT INTO troth.history (cell, transaction_id, first_attempt_ms, ended_ms, outcome, participants, key_hash, body)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (cell, transaction_id) DO"
)
_KEEP = f"{_INSERT} NOTHING"
_REPLACE = f"{_INSERT} UPDATE SET ended_ms = excluded.ended_ms, outcome = excluded.outcome, body = excluded.body"
_USED = "SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint FROM troth.history WHERE cell = %s"
_PRUNE = (
    "DELETE FROM troth.history WHERE number IN (SELECT number FROM (SELECT number, ended_ms, row_number() OVER (ORDER BY number)"
    " AS place FROM troth.history WHERE cell = %(cell)s ORDER BY number LIMIT %(most)s) AS oldest"
    " WHERE place <= %(surplus)s OR ended_ms < %(oldest_ms)s)"
)


async def make(dsn: str) -> None:
    """Make the table where there is none. Raises `LogError` or `psycopg.Error`."""
    connection = await connect(dsn, "troth store init")
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('troth.store'))")
            for statement in CREATE:
                await connection.execute(statement)
    finally:
        await connection.close()


class PostgresHistory:
    """A `HistoryStore` in a cell's store."""

    def __init__(self, dsn: str, cell: str) -> None:
        self._dsn = dsn
        self._cell = cell
        self._connection: Connection | None = None
        self._one = asyncio.Lock()

    async def open(self) -> None:
        """See that the table is there; a store of before gets it, where this node's role may make it."""
        async with self._connected() as connection:
            cursor = await connection.execute("SELECT to_regclass('troth.history') IS NOT NULL")
            row = await cursor.fetchone()
        if row is not None and not row[0]:
            try:
                await make(self._dsn)
            except (psycopg.Error, LogError) as error:
                raise HistoryError(f"the store has no table for it; run `troth store init` once more ({_text(error)})") from error

    async def write(self, batch: Sequence[Over]) -> None:
        """Keep some transactions."""
        rows = [row_of(over) for over in batch]
        async with self._connected() as connection, connection.transaction(), connection.cursor() as cursor:
            for statement, news in ((_KEEP, False), (_REPLACE, True)):
                # In one order everywhere: two nodes that tell of the same transactions must not wait for each other in a circle.
                values = sorted((self._cell, *row[:7]) for row in rows if row.is_news is news)
                if values:
                    await cursor.executemany(statement, values)

    async def page(self, query: Query) -> tuple[Sequence[bytes], int]:
        """One page, and how many there are."""
        values = {**query.values, "cell": self._cell}
        whole = replace(query, conditions=("cell = :cell", *query.conditions))
        async with self._connected() as connection:
            rows = await (await connection.execute(_dialect(whole.page()), values)).fetchall()
            counted = await (await connection.execute(_dialect(whole.count()), values)).fetchone()
        assert counted is not None
        return [bytes(body) for (body,) in rows], counted[0]

    async def find(self, transaction_id: str) -> bytes | None:
        """The body of one transaction."""
        found = "SELECT body FROM troth.history WHERE cell = %s AND transaction_id = %s"
        async with self._connected() as connection:
            row = await (await connection.execute(found, (self._cell, transaction_id))).fetchone()
        return None if row is None else bytes(row[0])

    async def prune(self, bounds: Bounds, now_ms: int) -> int:
        """Drop what is too old or too much."""
        async with self._connected() as connection:
            row = await (await connection.execute(_USED, (self._cell,))).fetchone()
            assert row is not None
            count, used = row
            over = -(-count * (used - bounds.bytes_max) // used) if used > bounds.bytes_max else 0
            values = {
                "cell": self._cell, "most": PRUNED_MAX, "surplus": max(count - bounds.rows_max, over, 0),
                "oldest_ms": bounds.oldest_ms(now_ms),
            }  # fmt: skip
            return (await connection.execute(_PRUNE, values)).rowcount

    async def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """The connection, for one at a time; one that broke is opened anew by whoever comes next."""
        async with self._one:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await connect(self._dsn, f"troth history {self._cell}")
                    await self._connection.execute("SET synchronous_commit = off")
                yield self._connection
            except (psycopg.Error, LogError) as error:
                raise HistoryError(_text(error)) from error


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _dialect(statement: str) -> str:
    """A statement of `Query` as PostgreSQL and psycopg have it."""
    found = re.sub(r"instr\((\w+), (:\w+)\)", r"position(\2 IN \1)", statement)  # of texts and of bytes
    return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", found).format(table="troth.history")
