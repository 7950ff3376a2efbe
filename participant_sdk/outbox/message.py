"""Leaving a message in a branch.

Whoever has a key holds a lock on it until his outcome, prepared or not: so positions of one key come in the order of commits, and
no message with a lower one can appear later.
"""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import dataclass
from typing import Any

from troth.errors import Reason, RequestError

BODY_BYTES_MAX = 1_048_576
"""Of one message."""
NAME_CHARACTERS_MAX = 200
"""Of a topic, and of a key."""
_LOCK_CLASS = 0x74726F
"""Our advisory locks, apart from the service's own."""

_PUT = "INSERT INTO troth.outbox (topic, key, body) VALUES (%s, %s, %s) RETURNING id"
_PUT_IN_ORDER = (
    f"WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock({_LOCK_CLASS}, hashtext(%s)))"
    " INSERT INTO troth.outbox (topic, key, body) SELECT %s, %s, %s FROM held RETURNING id"
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is delivered."""

    id: uuid.UUID
    """The same at each delivery: who receives it twice knows by it."""
    topic: str
    key: str | None
    body: bytes
    attempts: int
    """How often it was tried before, and failed by its own fault."""
    position: int
    """Where it stands in the outbox."""


def put(db: Any, topic: str, body: bytes | str, *, key: str | None = None) -> Any:
    """Leave a message in the branch; returns its id, or something to await that returns it, as `db` is.

    `db`     what an operation or a block gets: psycopg's or asyncpg's connection, SQLAlchemy's session, or Django's connection
    `topic`  where it goes: the stream at the broker
    `key`    messages of one key come in the order of commits; the branch holds the key until its outcome, and others wait for it

    Raises `RequestError` (INVALID_ARGUMENT, PAYLOAD_TOO_LARGE), and what the database raises.
    """
    data = body.encode() if isinstance(body, str) else bytes(body)
    for name, value in (("topic", topic), ("key", key)):
        if value is not None and not 0 < len(value) <= NAME_CHARACTERS_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"the {name} has {len(value)} characters: 1 to {NAME_CHARACTERS_MAX}")
    if len(data) > BODY_BYTES_MAX:
        raise RequestError(Reason.PAYLOAD_TOO_LARGE, f"the message has {len(data)} bytes, more than {BODY_BYTES_MAX}")
    if key is None:
        return _executed(db, _PUT, (topic, None, data))
    return _executed(db, _PUT_IN_ORDER, (key, topic, key, data))


def _executed(db: Any, statement: str, parameters: tuple[Any, ...]) -> Any:
    """The first value of its row, in the way of whatever `db` is."""
    if hasattr(db, "copy_records_to_table"):  # asyncpg
        return db.fetchval(_numbered(statement), *parameters)
    if hasattr(db, "pgconn"):  # psycopg
        cursor = db.execute(statement, parameters)
        return _awaited(cursor) if hasattr(cursor, "__await__") else cursor.fetchone()[0]
    if not hasattr(db, "connection") or not callable(db.connection):  # Django: there it is psycopg's connection
        with db.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchone()[0]
    connection = db.connection()
    if hasattr(connection, "__await__"):
        return _of_session(connection, statement, parameters)
    return connection.exec_driver_sql(statement, parameters).scalar_one()


def _numbered(statement: str) -> str:
    """With parameters as asyncpg has them."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)


async def _awaited(executing: Any) -> Any:
    return (await (await executing).fetchone())[0]


async def _of_session(connecting: Any, statement: str, parameters: tuple[Any, ...]) -> Any:
    connection = await connecting
    text = _numbered(statement) if connection.dialect.driver == "asyncpg" else statement
    return (await connection.exec_driver_sql(text, parameters)).scalar_one()
