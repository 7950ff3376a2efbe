"""Where branches get their connections: a pool of ours, or the service's own.

A branch has one connection until its vote, and works on it by `async def` and plain `def` alike: both see the same session,
through psycopg's asynchronous and its blocking object. Connections that *finish* branches are kept apart from those that work,
so that a service all of whose connections wait for a decision can still carry it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import psycopg
from psycopg.errors import Diagnostic
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from participant_sdk.resources.postgres.guard import Guard
from troth.log.postgres_store import NOT_REPLICATED, gave_up_waiting

Operation = Callable[[Any], Any]
"""An operation with its arguments: a function of what operations get, plain or returning a coroutine."""
Working = psycopg.AsyncConnection[Any]
Blocking = psycopg.Connection[Any]
_Twin = TypeVar("_Twin", Working, Blocking)

FINISHERS_MAX = 4
"""Connections that finish branches."""


class Source(Protocol):
    """Gives connections to branches."""

    reasons: tuple[str, str]
    """Why an `async def`, and why a plain `def`, cannot be an operation; empty where it can."""

    async def open(self) -> None:
        """Get ready. Raises `psycopg.Error`."""

    async def close(self) -> None:
        """Close what was opened here."""

    async def take(self, wait_seconds: float) -> Working:
        """An idle connection in autocommit mode. Raises `psycopg.Error` (`psycopg_pool.PoolTimeout` when all are taken)."""

    async def give(self, connection: Working) -> None:
        """Give one back, in whatever state it is."""

    async def refresh(self) -> None:
        """Drop connections that the server has closed."""

    def finishers(self) -> AsyncConnectionPool[Working]:
        """A pool of its own to the same database, not opened yet."""

    def work(self, operation: Operation, connection: Working, guard: Guard) -> Operation:
        """The operation as a function of a branch's connection (its blocking twin, for a plain function)."""


class GivesConnections:
    """Operations get the connection itself, in either style."""

    reasons = ("", "")

    def work(self, operation: Operation, connection: Working, guard: Guard) -> Operation:
        """See `Source`."""
        return operation


def dsn_pool(
    conninfo: Any, options: Any, *, connections_max: int, connection_class: type[Working] = psycopg.AsyncConnection
) -> AsyncConnectionPool[Working]:
    """A pool in the loop that runs; not opened."""
    settings = {**(options if isinstance(options, dict) else {}), "autocommit": True, "row_factory": tuple_row}
    return AsyncConnectionPool(
        conninfo, connection_class=connection_class, kwargs=settings, min_size=1, max_size=connections_max, open=False, name="troth"
    )


class DsnSource(GivesConnections):
    """Connections of our own."""

    def __init__(self, dsn: str, connections_max: int) -> None:
        self._dsn = dsn
        self._connections_max = connections_max
        self._pool: AsyncConnectionPool[Working] | None = None
        self._users = 0
        """Slots that use it."""

    async def open(self) -> None:
        """See `Source`."""
        self._users += 1
        if self._pool is None:
            self._pool = dsn_pool(self._dsn, {}, connections_max=self._connections_max)
            await self._pool.open()

    async def close(self) -> None:
        """See `Source`."""
        self._users -= 1
        if self._users == 0 and self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    async def take(self, wait_seconds: float) -> Working:
        """See `Source`."""
        assert self._pool is not None, "the resource is not open"
        return await got(self._pool, wait_seconds)

    async def give(self, connection: Working) -> None:
        """See `Source`."""
        if self._pool is None:
            await connection.close()
        else:
            await self._pool.putconn(connection)

    async def refresh(self) -> None:
        """See `Source`."""
        if self._pool is not None:
            await self._pool.check()

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        return dsn_pool(self._dsn, {}, connections_max=FINISHERS_MAX)


class PoolSource(GivesConnections):
    """Connections of the service's own asynchronous pool, which it opens and closes itself."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def open(self) -> None:
        """See `Source`."""
        if self._pool.closed:
            await self._pool.open()

    async def close(self) -> None:
        """See `Source`."""

    async def take(self, wait_seconds: float) -> Working:
        """See `Source`."""
        return await autocommitting(await got(self._pool, wait_seconds))

    async def give(self, connection: Working) -> None:
        """See `Source`."""
        await self._pool.putconn(await restored(connection))

    async def refresh(self) -> None:
        """See `Source`."""
        await self._pool.check()

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        return dsn_pool(self._pool.conninfo, self._pool.kwargs, connections_max=FINISHERS_MAX)


class BlockingPoolSource(GivesConnections):
    """Connections of the service's own blocking pool, asked in threads."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self._lent: dict[int, Blocking] = {}
        """By the identity of the connection that a branch has."""

    async def open(self) -> None:
        """See `Source`."""
        if self._pool.closed:
            await asyncio.to_thread(self._pool.open)

    async def close(self) -> None:
        """See `Source`."""

    async def take(self, wait_seconds: float) -> Working:
        """See `Source`."""
        lent = await asyncio.to_thread(self._pool.getconn, wait_seconds)
        working = await autocommitting(twin(psycopg.AsyncConnection, lent))
        self._lent[id(working)] = lent
        return working

    async def give(self, connection: Working) -> None:
        """See `Source`."""
        await asyncio.to_thread(self._pool.putconn, self._lent.pop(id(connection)))

    async def refresh(self) -> None:
        """See `Source`."""
        await asyncio.to_thread(self._pool.check)

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        return dsn_pool(self._pool.conninfo, self._pool.kwargs, connections_max=FINISHERS_MAX)


async def got(pool: AsyncConnectionPool[Any], wait_seconds: float) -> Working:
    """A connection of a pool. One that cannot connect says the same as one whose connections are all taken: told apart here."""
    failed = pool.get_stats().get("connections_errors", 0)
    try:
        connection: Working = await pool.getconn(wait_seconds)
        return connection
    except PoolTimeout:
        if pool.get_stats().get("connections_errors", 0) > failed:
            raise psycopg.OperationalError("the database cannot be reached") from None
        raise


@contextmanager
def waits_for_replicas(connection: Working) -> Iterator[None]:
    """Raises `psycopg.OperationalError` if what is done in the block is answered although replicas that were waited for need not
    have it: as after a lost connection, nobody knows."""
    gave_up: list[bool] = []

    def noticed(notice: Diagnostic) -> None:
        gave_up.append(gave_up_waiting(notice.source_function))  # now: what a notice says is gone when its handler has returned

    connection.add_notice_handler(noticed)
    try:
        yield
    finally:
        connection.remove_notice_handler(noticed)
    if any(gave_up):
        raise psycopg.OperationalError(NOT_REPLICATED)


async def autocommitting(connection: Working) -> Working:
    """The connection in autocommit mode, in which psycopg begins no transaction by itself."""
    if not connection.autocommit:
        await connection.set_autocommit(True)
        vars(connection)["troth_autocommit"] = False
    return connection


async def restored(connection: Working) -> Working:
    """The connection as its owner had it."""
    idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
    if vars(connection).pop("troth_autocommit", None) is False and idle:
        await connection.set_autocommit(False)
    return connection


def twin(kind: type[_Twin], connection: Any) -> _Twin:
    """psycopg's other object for the session that `connection` has: used in turns, and closed by whoever owns the first.

    It prepares no statements, since both would give them the same names.
    """
    pgconn = connection.pgconn
    handlers = pgconn.notice_handler, pgconn.notify_handler
    other = cast(Any, kind(pgconn))
    pgconn.notice_handler, pgconn.notify_handler = handlers
    other._pool = None  # what belongs to a pool does not warn that nobody closed it
    other._autocommit = True
    other._adapters = connection._adapters
    other.prepare_threshold = None
    other.row_factory = connection.row_factory
    return cast(_Twin, other)
