"""Drivers of MariaDB behind one narrow adapter: a statement in, rows and the number of changed rows out, errors by their number.

Their own helpers for two-phase commit and pools are not used. A driver that blocks is asked in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from troth.errors import ConfigError
from troth.mariadb.address import Address
from troth.mariadb.errors import SERVER_LOST

ASYNCMY_MIN = (0, 2, 12)
"""Below it an SQL injection (CVE-2025-65896)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said to a statement."""

    rows: Sequence[tuple[Any, ...]]
    changed: int


class Driver(Protocol):
    """One driver. What it raises is an `Error` of `errors`, or an `OSError`."""

    name: str
    asynchronous: bool

    async def connect(self, address: Address) -> Any:
        """A connection of its own kind, in autocommit mode."""

    async def ask(self, connection: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """Send one statement and read its answer."""

    async def close(self, connection: Any) -> None:
        """Say goodbye, so that the server notices at once; raises nothing."""

    def cut(self, connection: Any) -> None:
        """Close the socket without a word."""

    def closed(self, connection: Any) -> bool:
        """Whether the driver knows that the connection is gone."""


class _Asynchronous:
    """What both asynchronous drivers have from their common ancestor."""

    asynchronous = True

    async def _connected(self, connect: Callable[..., Any], lost: type[Exception], address: Address) -> Any:
        """A new connection. The drivers' own limit is for the socket: of a server that accepts and says nothing they know none."""
        arguments = address.arguments()
        seconds = arguments["connect_timeout"]
        try:
            async with asyncio.timeout(seconds):
                return await connect(db=address.database, **arguments)
        except TimeoutError:
            raise lost(SERVER_LOST, f"the server has not answered within {seconds} s") from None

    async def _ask(self, cursor: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Answer:
        await cursor.execute(statement, parameters or None)
        return Answer(await cursor.fetchall() if cursor.description else (), cursor.rowcount)

    async def close(self, connection: Any) -> None:
        """See `Driver`."""
        await _quietly(connection.ensure_closed())
        connection.close()

    def cut(self, connection: Any) -> None:
        """See `Driver`."""
        connection.close()


class Aiomysql(_Asynchronous):
    """aiomysql, of the aio-libs."""

    name = "aiomysql"

    async def connect(self, address: Address) -> Any:
        """See `Driver`."""
        import aiomysql

        return await self._connected(aiomysql.connect, aiomysql.OperationalError, address)

    async def ask(self, connection: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """See `Driver`."""
        import aiomysql

        return await self._ask(await connection.cursor(_quiet(aiomysql.Cursor)), statement, parameters)

    def closed(self, connection: Any) -> bool:
        """See `Driver`."""
        return bool(connection.closed)


class Asyncmy(_Asynchronous):
    """asyncmy, compiled."""

    name = "asyncmy"

    def __init__(self) -> None:
        from asyncmy.version import __VERSION__

        if tuple(int(part) for part in __VERSION__.split(".")[:3]) < ASYNCMY_MIN:
            raise ConfigError(f"asyncmy {__VERSION__} has an SQL injection (CVE-2025-65896)", hint="pip install 'asyncmy>=0.2.12'")

    async def connect(self, address: Address) -> Any:
        """See `Driver`."""
        import asyncmy
        from asyncmy.errors import OperationalError

        return await self._connected(asyncmy.connect, OperationalError, address)

    async def ask(self, connection: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """See `Driver`."""
        from asyncmy.cursors import Cursor

        return await self._ask(connection.cursor(_quiet(Cursor)), statement, parameters)

    def closed(self, connection: Any) -> bool:
        """See `Driver`."""
        return not connection.connected


class Pymysql:
    """PyMySQL, which blocks."""

    name = "pymysql"
    asynchronous = False

    async def connect(self, address: Address) -> Any:
        """See `Driver`."""
        import pymysql

        return await asyncio.to_thread(pymysql.connect, database=address.database, **address.arguments())

    async def ask(self, connection: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Answer:
        """See `Driver`."""
        return await asyncio.to_thread(self._ask, connection, statement, parameters)

    def _ask(self, connection: Any, statement: str, parameters: Sequence[Any] | Mapping[str, Any]) -> Answer:
        from pymysql.cursors import Cursor

        cursor = connection.cursor(Cursor)
        cursor.execute(statement, parameters or None)
        return Answer(cursor.fetchall() if cursor.description else (), cursor.rowcount)

    async def close(self, connection: Any) -> None:
        """See `Driver`."""
        if connection.open:
            await _quietly(asyncio.to_thread(connection.close))

    def cut(self, connection: Any) -> None:
        """See `Driver`."""
        connection._force_close()

    def closed(self, connection: Any) -> bool:
        """See `Driver`."""
        return not connection.open


@cache
def _quiet(cursor: Any) -> Any:
    """A driver's cursor, without the warnings of the server that it fetches with a statement of its own and gives to Python's."""

    async def _show_warnings(self: Any, connection: Any) -> None:
        """Nothing."""

    return type("Cursor", (cursor,), {"_show_warnings": _show_warnings})


async def _quietly(closing: Any) -> None:
    with suppress(Exception):  # whatever it is: the connection is gone, which was wanted
        await closing


def driver_of(name: str) -> Driver:
    """The driver of a name. Raises `ConfigError` for one that is not installed or must not be used."""
    kinds: dict[str, type[Driver]] = {"aiomysql": Aiomysql, "asyncmy": Asyncmy, "pymysql": Pymysql}
    try:
        __import__(name)
        return kinds[name]()
    except ModuleNotFoundError:
        raise ConfigError(f"the driver {name} is not installed", hint=f"pip install {name}, or 'troth[mariadb]'.") from None
