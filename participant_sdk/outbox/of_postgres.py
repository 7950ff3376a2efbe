"""The outbox of a PostgreSQL database (`store`): the table `troth.outbox`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import psycopg

from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import try_to_record

_FIRST = (
    "SELECT position, octet_length(body) FROM troth.outbox AS o WHERE aside IS NULL AND due <= clock_timestamp()"
    " AND (key IS NULL OR NOT EXISTS (SELECT FROM troth.outbox AS before WHERE before.key = o.key AND before.position < o.position"
    " AND before.aside IS NULL)) ORDER BY position LIMIT %s"
)
_LIMIT_IDLE = "SELECT set_config('idle_in_transaction_session_timeout', %s, true)"
_TAKE = (
    "SELECT id, topic, key, body, attempts, position FROM troth.outbox WHERE position = ANY(%s) AND aside IS NULL ORDER BY position"
    " FOR UPDATE SKIP LOCKED"
)
_DONE = "DELETE FROM troth.outbox WHERE position = ANY(%s)"
_FAILED = (
    "UPDATE troth.outbox SET attempts = attempts + 1, error = %(error)s, due = clock_timestamp() + make_interval(secs => %(wait)s),"
    " aside = CASE WHEN attempts + 1 >= %(most)s THEN clock_timestamp() END WHERE position = %(position)s"
)
Connection = psycopg.AsyncConnection[Any]


class PostgresOutbox:
    """See `OutboxStore`."""

    kinds: tuple[type[Exception], ...] = (psycopg.Error, OSError)

    def __init__(self, dsn: str, idle_seconds: float) -> None:
        self._dsn = dsn
        self._idle = f"{math.ceil(idle_seconds)}s"

    @asynccontextmanager
    async def connected(self) -> Any:
        """See `OutboxStore`."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            await try_to_record(self, connection)
            yield connection

    def transaction(self, connection: Connection) -> AbstractAsyncContextManager[Any]:
        """See `OutboxStore`."""
        return connection.transaction()

    async def first(self, connection: Connection, messages_max: int) -> Sequence[tuple[int, int]]:
        """See `OutboxStore`."""
        return await (await connection.execute(_FIRST, (messages_max,))).fetchall()

    async def take(self, connection: Connection, positions: Sequence[int]) -> list[Message]:
        """See `OutboxStore`."""
        await connection.execute(_LIMIT_IDLE, (self._idle,))  # of this transaction: a pooling proxy gives the session to others
        return [Message(*row) for row in await (await connection.execute(_TAKE, (list(positions),))).fetchall()]

    async def done(self, connection: Connection, positions: Sequence[int]) -> None:
        """See `OutboxStore`."""
        await connection.execute(_DONE, (list(positions),))

    async def failed(self, connection: Connection, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """See `OutboxStore`."""
        told = {"error": error, "wait": wait_seconds, "most": attempts_max, "position": position}
        await connection.execute(_FAILED, told)
