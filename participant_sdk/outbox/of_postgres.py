"""The outbox of a PostgreSQL database (`store`): the table `troth.outbox`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import Place, Waiting, tell_of_missing_index, try_to_record
from troth.log.postgres_branches import HAS_INDEX

_WAITS = "CASE WHEN aside IS NULL THEN true END"
"""In these words no index of what waits is read as a whole for it."""
_TOPICS = (
    "WITH RECURSIVE found (topic, number) AS ((SELECT topic, 1 FROM troth.outbox WHERE aside IS NULL AND topic > %(after)s"
    " ORDER BY topic LIMIT 1) UNION ALL SELECT (SELECT o.topic FROM troth.outbox AS o WHERE o.aside IS NULL"
    " AND o.topic > found.topic ORDER BY o.topic LIMIT 1), number + 1 FROM found WHERE found.topic IS NOT NULL"
    " AND number < %(most)s) SELECT topic FROM found WHERE topic IS NOT NULL"
)
"""From one to the next: `DISTINCT` would read all rows."""
_POSITION_MAX = 2**63 - 1  # of a bigint
_LAST_KEY = (
    "SELECT e.key FROM troth.outbox AS e WHERE e.topic = ANY(ARRAY[{}]) AND e.key IS NOT NULL AND e.aside IS NULL"
    " ORDER BY e.topic DESC, e.key DESC, e.position DESC LIMIT 1"
)
_LAST = (
    f"SELECT ({_LAST_KEY.format('%(topic)s::text')}), (SELECT e.position FROM troth.outbox AS e"
    " WHERE e.topic = ANY(ARRAY[%(topic)s::text]) AND e.key IS NULL AND e.aside IS NULL"
    " ORDER BY e.topic DESC, e.key DESC, e.position DESC LIMIT 1)"
)
_LINES = (
    "SELECT line.* FROM unnest(%(topics)s::text[], %(keys)s::text[], %(positions)s::bigint[], %(last_keys)s::text[],"
    " %(last_positions)s::bigint[]) AS place (topic, key, position, last_key, last_position),"
    " LATERAL ((SELECT o.topic, o.key, o.position FROM troth.outbox AS o WHERE o.topic = ANY(ARRAY[place.topic])"
    f" AND o.key > place.key AND o.key <= coalesce(place.last_key, ({_LAST_KEY.format('place.topic')})) AND o.aside IS NULL"
    " ORDER BY o.topic, o.key, o.position LIMIT %(most)s) UNION ALL (SELECT o.topic, o.key, o.position"
    " FROM troth.outbox AS o WHERE o.topic = ANY(ARRAY[place.topic]) AND o.key IS NULL AND o.position > place.position"
    f" AND o.position <= coalesce(place.last_position, {_POSITION_MAX}) AND o.aside IS NULL"
    " AND o.due <= clock_timestamp() ORDER BY o.topic, o.key, o.position LIMIT %(most)s)) AS line"
)
"""Both are in the order of the index of topics, and say so, also where the key is null. A topic that is `= place.topic` would be
left out of the order by the planner, which then may go along the index of keys, through those of all topics."""
_HEADS = (
    "SELECT head.* FROM unnest(%(keys)s::text[]) AS wanted (key), LATERAL (SELECT position, topic, key, due <= clock_timestamp(),"
    " octet_length(body) FROM troth.outbox AS o WHERE o.key = wanted.key AND aside IS NULL ORDER BY o.key, o.position"
    " LIMIT %(most)s) AS head UNION ALL SELECT position, topic, key, due <= clock_timestamp(), octet_length(body) FROM troth.outbox"
    f" WHERE position = ANY(%(positions)s) AND {_WAITS}"
)
_BEGIN = (
    "SELECT set_config('idle_in_transaction_session_timeout', %s, true), set_config('enable_sort', 'off', true),"
    " set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)"
)
"""Of this transaction: a pooling proxy gives the session to others. The table's statistics are old whenever a backlog grows, and by
old ones the planner takes all of a key, or all of the table, and sorts: each question here goes along an index, to a limit."""
_TAKE = (
    f"SELECT id, topic, key, body, attempts, position FROM troth.outbox WHERE position = ANY(%s) AND {_WAITS}"
    " AND (due <= clock_timestamp() OR %s) ORDER BY position FOR UPDATE SKIP LOCKED"
)
_DONE = "DELETE FROM troth.outbox WHERE position = ANY(%s)"
_FAILED = (
    "UPDATE troth.outbox SET attempts = attempts + 1, error = %(error)s, due = clock_timestamp() + make_interval(secs => %(wait)s),"
    " aside = CASE WHEN attempts + 1 >= %(most)s THEN clock_timestamp() END WHERE position = %(position)s"
)
_PUT_OFF = (
    "UPDATE troth.outbox SET error = %(error)s, due = clock_timestamp() + make_interval(secs => %(wait)s)"
    " WHERE position = %(position)s"
)
Connection = psycopg.AsyncConnection[Any]


def _words(connection: Connection, error: str) -> str:
    """As the database can keep them: an error that cannot be written would end the relay, and its message come again for ever."""
    if connection.info.parameter_status("server_encoding") == "UTF8" and connection.info.encoding == "utf-8":
        return error
    return error.encode("ascii", "backslashreplace").decode()


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
            if await (await connection.execute(HAS_INDEX)).fetchone() is None:
                tell_of_missing_index(connection.info.dbname)
            yield connection

    @asynccontextmanager
    async def transaction(self, connection: Connection) -> AsyncIterator[None]:
        """See `OutboxStore`."""
        async with connection.transaction():
            await connection.execute(_BEGIN, (self._idle,))
            yield

    async def topics(self, connection: Connection, after: str, topics_max: int) -> Sequence[str]:
        """See `OutboxStore`."""
        found = await connection.execute(_TOPICS, {"after": after, "most": topics_max})
        return [row[0] for row in await found.fetchall()]

    async def lines(
        self, connection: Connection, places: Sequence[Place], each_max: int
    ) -> Sequence[tuple[str, str | None, int]]:
        """See `OutboxStore`."""
        names = ("topics", "keys", "positions", "last_keys", "last_positions")
        told = {**dict(zip(names, map(list, zip(*places, strict=True)), strict=True)), "most": each_max}
        return await (await connection.execute(_LINES, told)).fetchall()

    async def last(self, connection: Connection, topic: str) -> tuple[str | None, int | None]:
        """See `OutboxStore`."""
        row = await (await connection.execute(_LAST, {"topic": topic})).fetchone()
        assert row is not None
        return row[0], row[1]

    async def heads(
        self, connection: Connection, keys: Sequence[str], positions: Sequence[int], each_max: int
    ) -> Sequence[Waiting]:
        """See `OutboxStore`."""
        told = {"keys": list(keys), "positions": list(positions), "most": each_max}
        return [Waiting(*row) for row in await (await connection.execute(_HEADS, told)).fetchall()]

    async def take(self, connection: Connection, positions: Sequence[int], *, put_off: bool = False) -> list[Message]:
        """See `OutboxStore`."""
        return [Message(*row) for row in await (await connection.execute(_TAKE, (list(positions), put_off))).fetchall()]

    async def done(self, connection: Connection, positions: Sequence[int]) -> None:
        """See `OutboxStore`."""
        await connection.execute(_DONE, (list(positions),))

    async def failed(self, connection: Connection, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """See `OutboxStore`."""
        told = {"error": _words(connection, error), "wait": wait_seconds, "most": attempts_max, "position": position}
        await connection.execute(_FAILED, told)

    async def put_off(self, connection: Connection, position: int, error: str, wait_seconds: float) -> None:
        """See `OutboxStore`."""
        await connection.execute(_PUT_OFF, {"error": _words(connection, error), "wait": wait_seconds, "position": position})
