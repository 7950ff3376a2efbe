"""The outbox of a MariaDB database (`store`): the tables of `troth.log.mariadb_outbox`.

Its session reads committed data: there a lock is one of rows alone, and nobody who inserts waits for it. Rows are deleted one at a
time: of a list of them the server may read the whole table, and wait for every branch that is prepared.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import try_to_record
from troth.log import mariadb_schema
from troth.log.mariadb_store import version_of
from troth.mariadb import errors
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection
from troth.mariadb.drivers import driver_of

SERVER_VERSION_MIN = (10, 6)
"""Since then it has SKIP LOCKED."""
LOCK_WAIT_SECONDS = 10

_FIRST = (
    "SELECT position, LENGTH(body) FROM troth_outbox AS o WHERE aside IS NULL AND due <= UTC_TIMESTAMP(6)"
    " AND (`key` IS NULL OR position = (SELECT position FROM troth_outbox AS f WHERE f.`key` = o.`key` AND f.aside IS NULL"
    " ORDER BY f.position LIMIT 1)) ORDER BY position LIMIT %s"
)
_TAKE = (
    "SELECT id, topic, `key`, body, attempts, position FROM troth_outbox FORCE INDEX (PRIMARY) WHERE position IN ({})"
    " AND aside IS NULL ORDER BY position FOR UPDATE SKIP LOCKED"
)
_DONE = "DELETE FROM troth_outbox WHERE position = %s"
_FAILED = (
    "UPDATE troth_outbox SET aside = IF(attempts + 1 >= %(most)s, UTC_TIMESTAMP(6), NULL), attempts = attempts + 1,"
    " error = %(error)s, due = UTC_TIMESTAMP(6) + INTERVAL %(microseconds)s MICROSECOND WHERE position = %(position)s"
)
"""From left to right: what stands behind `attempts` would see the new one."""


class MariadbOutbox:
    """See `OutboxStore`. Raises `ConfigError` for what is no address, or has a driver that is not there."""

    def __init__(self, address: str, idle_seconds: float) -> None:
        self._address = parse(address)
        driver_of(self._address.driver)
        self._idle_seconds = math.ceil(idle_seconds)

    @property
    def kinds(self) -> tuple[type[Exception], ...]:
        """See `OutboxStore`; of the drivers that are in use."""
        return errors.kinds()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """See `OutboxStore`."""
        connection = await Connection.to(self._address)
        try:
            await connection.ask(mariadb_schema.SESSION, (LOCK_WAIT_SECONDS, LOCK_WAIT_SECONDS))
            row = await connection.one("SELECT VERSION()")
            if row is None or version_of(str(row[0])) < SERVER_VERSION_MIN:
                wanted = ".".join(map(str, SERVER_VERSION_MIN))
                raise OSError(f"{self._address.place} is on {row and row[0]}: a relay takes MariaDB {wanted} or newer")
            await connection.ask("SET SESSION idle_transaction_timeout = %s", (self._idle_seconds,))
            await try_to_record(self, connection)
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def transaction(self, connection: Connection) -> AsyncIterator[None]:
        """See `OutboxStore`. Who was cut off between question and answer has no use for his session: it ends, and rolls back."""
        try:
            await connection.ask("BEGIN")
            yield
            await connection.ask("COMMIT")
        except BaseException:
            connection.cut()
            raise

    async def first(self, connection: Connection, messages_max: int) -> Sequence[tuple[int, int]]:
        """See `OutboxStore`."""
        return [(int(position), int(size)) for position, size in (await connection.ask(_FIRST, (messages_max,))).rows]

    async def take(self, connection: Connection, positions: Sequence[int]) -> list[Message]:
        """See `OutboxStore`."""
        rows = (await connection.ask(_TAKE.format(", ".join(["%s"] * len(positions))), list(positions))).rows
        return [Message(uuid.UUID(bytes=bytes(made)), *rest) for made, *rest in rows]

    async def done(self, connection: Connection, positions: Sequence[int]) -> None:
        """See `OutboxStore`."""
        for position in positions:
            await connection.ask(_DONE, (position,))

    async def failed(self, connection: Connection, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """See `OutboxStore`."""
        told = {"error": error, "microseconds": int(wait_seconds * 1_000_000), "most": attempts_max, "position": position}
        await connection.ask(_FAILED, told)
