"""The outbox of a MariaDB database (`store`): the tables of `troth.log.mariadb_outbox`.

Its session reads committed data: there a lock is one of rows alone, and nobody who inserts waits for it. Rows are deleted one at a
time: of a list of them the server may read the whole table, and wait for every branch that is prepared.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import Place, Waiting, tell_of_missing_index, try_to_record
from troth.log import mariadb_outbox
from troth.mariadb import errors
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection
from troth.mariadb.dialect import too_old, wanted
from troth.mariadb.drivers import driver_of

LOCK_WAIT_SECONDS = 10

_NEXT_TOPIC = "SELECT topic FROM troth_outbox {index} WHERE topic > %s AND aside IS NULL ORDER BY topic LIMIT 1"
"""`DISTINCT` would read all rows, where the table's statistics are old."""
_LINES = (
    "(SELECT topic, `key`, position FROM troth_outbox {index} WHERE topic = %s AND aside IS NULL AND `key` > %s{last_key}"
    " ORDER BY `key`, position LIMIT %s) UNION ALL (SELECT topic, `key`, position FROM troth_outbox {index} WHERE topic = %s"
    " AND aside IS NULL AND `key` IS NULL AND position > %s AND position <= %s AND due <= UTC_TIMESTAMP(6)"
    " ORDER BY position LIMIT %s)"
)
_LAST_KEY = (
    "SELECT `key` FROM troth_outbox {index} WHERE topic = %s AND aside IS NULL AND `key` > ''"
    " ORDER BY `key` DESC, position DESC LIMIT 1"
)
_LAST_POSITION = (
    "SELECT position FROM troth_outbox {index} WHERE topic = %s AND aside IS NULL AND `key` IS NULL ORDER BY position DESC LIMIT 1"
)
_POSITION_MAX = 2**63 - 1  # of a BIGINT
_HEAD = "SELECT position, topic, `key`, due <= UTC_TIMESTAMP(6), LENGTH(body) FROM troth_outbox FORCE INDEX ({index}) WHERE"
_OF_KEY = f"({_HEAD.format(index='of_key')} `key` = %s AND aside IS NULL ORDER BY position LIMIT %s)"
_AT = f"({_HEAD.format(index='PRIMARY')} position IN ({{}}) AND aside IS NULL)"
_TAKE = (
    "SELECT id, topic, `key`, body, attempts, position FROM troth_outbox FORCE INDEX (PRIMARY) WHERE position IN ({})"
    " AND aside IS NULL AND (due <= UTC_TIMESTAMP(6) OR %s) ORDER BY position FOR UPDATE SKIP LOCKED"
)
_DONE = "DELETE FROM troth_outbox WHERE position = %s"
_FAILED = (
    "UPDATE troth_outbox SET aside = IF(attempts + 1 >= %(most)s, UTC_TIMESTAMP(6), NULL), attempts = attempts + 1,"
    " error = %(error)s, due = UTC_TIMESTAMP(6) + INTERVAL %(microseconds)s MICROSECOND WHERE position = %(position)s"
)
"""From left to right: what stands behind `attempts` would see the new one."""

_PUT_OFF = (
    "UPDATE troth_outbox SET error = %(error)s, due = UTC_TIMESTAMP(6) + INTERVAL %(microseconds)s MICROSECOND"
    " WHERE position = %(position)s"
)


class MariadbOutbox:
    """See `OutboxStore`. Raises `ConfigError` for what is no address, or has a driver that is not there."""

    def __init__(self, address: str, idle_seconds: float) -> None:
        self._address = parse(address)
        driver_of(self._address.driver)
        self._idle_seconds = math.ceil(idle_seconds)
        self._index = ""

    @property
    def kinds(self) -> tuple[type[Exception], ...]:
        """See `OutboxStore`; of the drivers that are in use."""
        return errors.kinds()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """See `OutboxStore`."""
        connection = await Connection.to(self._address)
        try:
            await connection.set_up(LOCK_WAIT_SECONDS)
            row = await connection.one("SELECT VERSION()")
            if row is None or too_old(str(row[0]), relay=True):
                raise OSError(f"{self._address.place} is on {row and row[0]}: a relay takes {wanted(relay=True)}")
            await connection.ask(f"SET SESSION {connection.dialect.idle_limit} = %s", (self._idle_seconds,))
            await try_to_record(self, connection)
            there = await connection.one(mariadb_outbox.HAS_INDEX) is not None
            self._index = "FORCE INDEX (of_topic)" if there else ""
            if not there:
                tell_of_missing_index(self._address.place)
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

    async def topics(self, connection: Connection, after: str, topics_max: int) -> Sequence[str]:
        """See `OutboxStore`."""
        found = list[str]()
        while len(found) < topics_max:
            row = await connection.one(_NEXT_TOPIC.format(index=self._index), (found[-1] if found else after,))
            if row is None:
                break
            found.append(row[0])
        return found

    async def lines(
        self, connection: Connection, places: Sequence[Place], each_max: int
    ) -> Sequence[tuple[str, str | None, int]]:
        """See `OutboxStore`."""
        told, asked = list[Any](), list[str]()
        for topic, key, position, last_key, last_position in places:
            ends = [last_key] * (last_key is not None)
            told += [topic, key, *ends, each_max, topic, position, last_position or _POSITION_MAX, each_max]
            asked.append(_LINES.format(index=self._index, last_key=" AND `key` <= %s" * len(ends)))
        return [(topic, key, position) for topic, key, position in (await connection.ask(" UNION ALL ".join(asked), told)).rows]

    async def last(self, connection: Connection, topic: str) -> tuple[str | None, int | None]:
        """See `OutboxStore`."""
        key = await connection.one(_LAST_KEY.format(index=self._index), (topic,))
        position = await connection.one(_LAST_POSITION.format(index=self._index), (topic,))
        return (key[0] if key else None), (position[0] if position else None)

    async def heads(
        self, connection: Connection, keys: Sequence[str], positions: Sequence[int], each_max: int
    ) -> Sequence[Waiting]:
        """See `OutboxStore`."""
        asked = [_OF_KEY] * len(keys) + [_AT.format(", ".join(["%s"] * len(positions)))] * bool(positions)
        told = [*(value for key in keys for value in (key, each_max)), *positions]
        rows = (await connection.ask(" UNION ALL ".join(asked), told)).rows
        return [Waiting(position, topic, key, bool(due), size) for position, topic, key, due, size in rows]

    async def take(self, connection: Connection, positions: Sequence[int], *, put_off: bool = False) -> list[Message]:
        """See `OutboxStore`."""
        rows = (await connection.ask(_TAKE.format(", ".join(["%s"] * len(positions))), [*positions, put_off])).rows
        return [Message(uuid.UUID(bytes=bytes(made)), *rest) for made, *rest in rows]

    async def done(self, connection: Connection, positions: Sequence[int]) -> None:
        """See `OutboxStore`."""
        for position in positions:
            await connection.ask(_DONE, (position,))

    async def failed(self, connection: Connection, position: int, error: str, wait_seconds: float, attempts_max: int) -> None:
        """See `OutboxStore`."""
        told = {"error": error, "microseconds": int(wait_seconds * 1_000_000), "most": attempts_max, "position": position}
        await connection.ask(_FAILED, told)

    async def put_off(self, connection: Connection, position: int, error: str, wait_seconds: float) -> None:
        """See `OutboxStore`."""
        told = {"error": error, "microseconds": int(wait_seconds * 1_000_000), "position": position}
        await connection.ask(_PUT_OFF, told)
