"""How a message is left: the statements of each database, sent in the way of whatever `db` is.

    PostgreSQL   one statement: it takes an advisory lock of the key, which a prepared transaction keeps, and then a position
    MariaDB      two: a change of the key's row, whose lock a prepared branch keeps, and then the insert, which takes a position

So whoever has a key holds it until his outcome, prepared or not, and takes his position only then: positions of one key come in the
order of commits, and no message with a lower one can appear later.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any

from troth.errors import ConfigError, Reason, RequestError
from troth.log.mariadb_outbox import HOLD, key_number
from troth.mariadb.address import DRIVERS

Statement = tuple[str, tuple[Any, ...]]

_LOCK_CLASS = 0x74726F
"""Our advisory locks, apart from the service's own."""
_PUT = "INSERT INTO troth.outbox (topic, key, body) VALUES (%s, %s, %s) RETURNING id"
_PUT_IN_ORDER = (
    f"WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock({_LOCK_CLASS}, hashtext(%s)))"
    " INSERT INTO troth.outbox (topic, key, body) SELECT %s, %s, %s FROM held RETURNING id"
)
_PUT_MARIADB = (
    "INSERT INTO troth_outbox (id, topic, `key`, `body`)"
    " VALUES (UNHEX(%s), CONVERT(UNHEX(%s) USING utf8mb4), CONVERT(UNHEX(%s) USING utf8mb4), COALESCE(UNHEX(%s), X''))"
)
"""All of it as hexadecimal digits: what the connection's character set lacks arrives, too, and no driver has anything to escape.
(Bytes are escaped with backslashes by aiomysql and asyncmy, also for a session with NO_BACKSLASH_ESCAPES: what a message says
would be a part of the statement.)"""


def leave(db: Any, topic: str, key: str | None, body: bytes) -> Any:
    """Leave a message; returns its id, or something to await that returns it. Raises what the database raises."""
    if hasattr(db, "copy_records_to_table"):  # asyncpg
        statement, parameters = _for_postgres(topic, key, body)
        return db.fetchval(_numbered(statement), *parameters)
    if hasattr(db, "pgconn"):  # psycopg
        cursor = db.execute(*_for_postgres(topic, key, body))
        return _awaited(cursor) if hasattr(cursor, "__await__") else cursor.fetchone()[0]
    if driver := _driver_of_mariadb(db):
        return (_by_cursor if driver == "pymysql" else _by_cursor_async)(db, topic, key, body)
    if callable(getattr(db, "connection", None)):  # a session of SQLAlchemy
        connection = db.connection()
        of_session = _of_session_async if hasattr(connection, "__await__") else _of_session
        return of_session(connection, topic, key, body)
    if getattr(db, "vendor", "") != "postgresql":
        raise RequestError(Reason.INVALID_ARGUMENT, f"a message cannot be left in a {type(db).__name__}")
    with db.cursor() as cursor:  # Django
        cursor.execute(*_for_postgres(topic, key, body))
        return cursor.fetchone()[0]


# ---- PostgreSQL


def _for_postgres(topic: str, key: str | None, body: bytes) -> Statement:
    """It returns the id."""
    return (_PUT, (topic, None, body)) if key is None else (_PUT_IN_ORDER, (key, topic, key, body))


def _numbered(statement: str) -> str:
    """With parameters as asyncpg has them."""
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", statement)


async def _awaited(executing: Any) -> Any:
    return (await (await executing).fetchone())[0]


# ---- MariaDB


def _driver_of_mariadb(db: Any) -> str:
    """The driver whose connection this is; empty for what is none. (A service may have a class of its own.)"""
    packages = {kind.__module__.partition(".")[0] for kind in type(db).__mro__}
    return next((driver for driver in DRIVERS if driver in packages), "")


def _for_mariadb(made: uuid.UUID, topic: str, key: str | None, body: bytes) -> Iterator[Statement]:
    """Each changes one row."""
    if key is not None:
        yield HOLD, (key_number(key),)
    yield _PUT_MARIADB, (made.hex, topic.encode().hex(), None if key is None else key.encode().hex(), body.hex())


def _check_one(changed: int) -> None:
    """Without its row a key would have no order, and nobody would be told."""
    if changed != 1:
        raise ConfigError("troth_outbox_key has not all of its rows", hint="Run `troth store init --participant NAME` again.")


def _by_cursor(db: Any, topic: str, key: str | None, body: bytes) -> uuid.UUID:
    made = uuid.uuid4()
    with db.cursor() as cursor:
        for statement, parameters in _for_mariadb(made, topic, key, body):
            cursor.execute(statement, parameters)
            _check_one(cursor.rowcount)
    return made


async def _by_cursor_async(db: Any, topic: str, key: str | None, body: bytes) -> uuid.UUID:
    made = uuid.uuid4()
    async with db.cursor() as cursor:
        for statement, parameters in _for_mariadb(made, topic, key, body):
            await cursor.execute(statement, parameters)
            _check_one(cursor.rowcount)
    return made


# ---- sessions of SQLAlchemy, on either


def _of_session(connection: Any, topic: str, key: str | None, body: bytes) -> Any:
    if connection.dialect.name == "postgresql":
        return connection.exec_driver_sql(*_for_postgres(topic, key, body)).scalar_one()
    made = uuid.uuid4()
    for statement, parameters in _for_mariadb(made, topic, key, body):
        _check_one(connection.exec_driver_sql(statement, parameters).rowcount)
    return made


async def _of_session_async(connecting: Any, topic: str, key: str | None, body: bytes) -> Any:
    connection = await connecting
    if connection.dialect.name == "postgresql":
        statement, parameters = _for_postgres(topic, key, body)
        text = _numbered(statement) if connection.dialect.driver == "asyncpg" else statement
        return (await connection.exec_driver_sql(text, parameters)).scalar_one()
    made = uuid.uuid4()
    for statement, parameters in _for_mariadb(made, topic, key, body):
        _check_one((await connection.exec_driver_sql(statement, parameters)).rowcount)
    return made
