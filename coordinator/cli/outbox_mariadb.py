"""What `troth outbox` asks a MariaDB database: see `outbox`.

Rows are changed one at a time, by their positions: a search among all would wait for what branches in doubt have left.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from coordinator.cli.addresses import require_address
from troth.errors import ConfigError
from troth.log.mariadb_store import connect, from_error
from troth.mariadb import errors
from troth.mariadb.connection import Connection

_SHOWN = (
    "SELECT position, id, topic, `key`, attempts, TIMESTAMPDIFF(MICROSECOND, made, UTC_TIMESTAMP(6)) / 1e6,"
    " TIMESTAMPDIFF(MICROSECOND, aside, UTC_TIMESTAMP(6)) / 1e6, error, LENGTH(body) FROM troth_outbox"
)
_LIST = f"{_SHOWN} WHERE (aside IS NOT NULL OR %s) AND position > %s ORDER BY position LIMIT %s"
COUNT = (
    "SELECT COUNT(aside), COUNT(*) - COUNT(aside), COALESCE(TIMESTAMPDIFF(MICROSECOND, MIN(IF(aside IS NULL, made, NULL)),"
    " UTC_TIMESTAMP(6)) / 1e6, 0e0) FROM troth_outbox"
)
"""How many are set aside, how many wait, and for how many seconds the oldest of these."""
_FAILED = "aside IS NULL AND error IS NOT NULL"
_TOPICS = (
    "SELECT topic, COUNT(*) - COUNT(aside), COUNT(aside),"
    " TIMESTAMPDIFF(MICROSECOND, MIN(IF(aside IS NULL, made, NULL)), UTC_TIMESTAMP(6)) / 1e6, COUNT(IF("
    f"{_FAILED}, 1, NULL)), IF(COUNT(IF({_FAILED}, 1, NULL)), GREATEST(0, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6),"
    f" MAX(IF({_FAILED}, due, NULL))) / 1e6), NULL), SUBSTRING(MAX(IF({_FAILED}, CONCAT(due, error), NULL)), 27)"
    " FROM troth_outbox GROUP BY topic ORDER BY topic"
)
"""A time of microseconds has 26 characters; behind the latest stands its error."""
_SHOW = f"{_SHOWN} WHERE position = %s"
_BODY = "SELECT body FROM troth_outbox WHERE position = %s"
_ASIDE = "SELECT position FROM troth_outbox WHERE aside IS NOT NULL ORDER BY position"
_CHOSEN = "WHERE position = %s AND aside IS NOT NULL"
_RETRY = f"UPDATE troth_outbox SET aside = NULL, attempts = 0, due = UTC_TIMESTAMP(6) {_CHOSEN}"
_DROP = f"DELETE FROM troth_outbox {_CHOSEN}"


async def listed(dsn: str, waiting: bool, after: int, messages_max: int) -> tuple[list[Any], Any]:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        rows = (await connection.ask(_LIST, (waiting, after, messages_max))).rows
        return [_row(*row) for row in rows], await connection.one(COUNT)


async def topics(dsn: str) -> list[Any]:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        return list((await connection.ask(_TOPICS)).rows)


async def shown(dsn: str, position: int) -> tuple[Any, bytes] | None:
    """See `outbox.Place`."""
    async with _connected(dsn) as connection:
        row, body = await connection.one(_SHOW, (position,)), await connection.one(_BODY, (position,))
        return (_row(*row), bytes(body[0])) if row and body else None


async def tried_again(dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
    """See `outbox.Place`."""
    return await _changed(dsn, _RETRY, everything, positions)


async def dropped(dsn: str, everything: bool, positions: Sequence[int]) -> list[int]:
    """See `outbox.Place`."""
    return await _changed(dsn, _DROP, everything, positions)


async def _changed(dsn: str, statement: str, everything: bool, positions: Sequence[int]) -> list[int]:
    async with _connected(dsn) as connection, connection.transaction():
        chosen = [row[0] for row in (await connection.ask(_ASIDE)).rows] if everything else positions
        return [position for position in chosen if (await connection.ask(statement, (position,))).changed]


def _row(position: int, made: bytes, *rest: Any) -> tuple[Any, ...]:
    return (position, str(uuid.UUID(bytes=bytes(made))), *rest)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(require_address(dsn))
    try:
        yield connection
    except errors.kinds() as error:
        if errors.number(error) == errors.NO_TABLE:
            raise ConfigError("there is no outbox", hint="Run `troth store init --participant NAME` on this database.") from error
        raise from_error("the outbox", error, "used") from error
    finally:
        await connection.close()
