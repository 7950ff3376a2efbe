"""What `troth outbox` asks a PostgreSQL database: see `outbox`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from coordinator.cell.store import require_store
from troth.errors import ConfigError

if TYPE_CHECKING:
    from troth.log.postgres_store import Connection

_SHOWN = (
    "SELECT position, id::text, topic, key, attempts, extract(epoch FROM clock_timestamp() - made)::float8,"
    " extract(epoch FROM clock_timestamp() - aside)::float8, error, octet_length(body) FROM troth.outbox"
)
_LIST = f"{_SHOWN} WHERE (aside IS NOT NULL OR %s) AND position > %s ORDER BY position LIMIT %s"
COUNT = (
    "SELECT count(aside)::int, (count(*) - count(aside))::int, coalesce(extract(epoch FROM clock_timestamp()"
    " - min(made) FILTER (WHERE aside IS NULL)), 0)::float8 FROM troth.outbox"
)
"""How many are set aside, how many wait, and for how many seconds the oldest of these."""
_TOPICS = (
    "SELECT topic, (count(*) - count(aside))::int, count(aside)::int,"
    " extract(epoch FROM clock_timestamp() - min(made) FILTER (WHERE aside IS NULL))::float8,"
    " (count(*) FILTER (WHERE failed))::int,"
    " CASE WHEN bool_or(failed) THEN greatest(0, extract(epoch FROM max(due) FILTER (WHERE failed) - clock_timestamp()))::float8"
    " END,"
    " (array_agg(error ORDER BY due DESC) FILTER (WHERE failed))[1]"
    " FROM (SELECT *, aside IS NULL AND error IS NOT NULL AS failed FROM troth.outbox) AS o GROUP BY topic ORDER BY topic"
)
_SHOW = f"{_SHOWN} WHERE position = %s"
_BODY = "SELECT body FROM troth.outbox WHERE position = %s"
_CHOSEN = "WHERE aside IS NOT NULL AND (%s OR position = ANY(%s))"
_RETRY = f"UPDATE troth.outbox SET aside = NULL, attempts = 0, due = clock_timestamp() {_CHOSEN} RETURNING position"
_DROP = f"DELETE FROM troth.outbox {_CHOSEN} RETURNING position"


async def listed(dsn: str, waiting: bool, after: int, messages_max: int) -> tuple[list[Any], Any]:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        rows = await _rows(connection, _LIST, waiting, after, messages_max)
        return rows, (await _rows(connection, COUNT))[0]


async def topics(dsn: str) -> list[Any]:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        return await _rows(connection, _TOPICS)


async def shown(dsn: str, position: int) -> tuple[Any, bytes] | None:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        rows, bodies = await _rows(connection, _SHOW, position), await _rows(connection, _BODY, position)
        return (rows[0], bytes(bodies[0][0])) if rows and bodies else None


async def tried_again(dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
    """See `outbox.Place`."""
    return await _changed(dsn, _RETRY, everything, positions)


async def dropped(dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
    """See `outbox.Place`."""
    return await _changed(dsn, _DROP, everything, positions)


async def _changed(dsn: str, statement: str, everything: bool, positions: Sequence[int]) -> list[int]:
    async with _connected(dsn) as connection:
        return [row[0] for row in await _rows(connection, statement, everything, list(positions))]


async def _rows(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    return await (await connection.execute(statement, parameters)).fetchall()


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    store = require_store(dsn)
    import psycopg

    from troth.log.postgres_store import connect, from_error

    connection = await connect(store, "troth outbox")
    try:
        yield connection
    except psycopg.errors.UndefinedTable as error:
        raise ConfigError("there is no outbox", hint="Run `troth store init --participant NAME` on this database.") from error
    except psycopg.Error as error:
        raise from_error("the outbox", error, "used") from error
    finally:
        await connection.close()
