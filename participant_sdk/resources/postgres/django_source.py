"""Django: branches on connections of one of its databases, as `django.db.connections` makes them, and models that use them.

An operation gets Django's connection, which believes to be inside of `atomic`: so models, `select_for_update` and savepoints
(`atomic` again) work, and `commit`, `rollback` and `set_autocommit` are refused by Django itself. For its time the connection is
also `connections[alias]` of the thread, which is what models ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from django.db import DatabaseError, connections
from django.db.transaction import Atomic
from django.utils.connection import ConnectionDoesNotExist
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from participant_sdk.resources.postgres.connections import FINISHERS_MAX, Operation, Source, Working, dsn_pool, twin
from participant_sdk.resources.postgres.guard import Guard
from participant_sdk.resources.postgres.sqlstates import database_error
from troth.errors import ConfigError


def django_source(alias: str, connections_max: int) -> Source:
    """The source of one of Django's databases. Raises `ConfigError` when there is none of that name, or it is no PostgreSQL."""
    try:
        settings = connections.settings[alias]
        vendor = connections.create_connection(alias).vendor
    except (KeyError, ConnectionDoesNotExist):
        raise ConfigError(f"Django has no database {alias!r}", hint="Name one of settings.DATABASES.") from None
    if vendor != "postgresql":
        raise ConfigError(f"the database {alias!r} of Django is {settings['ENGINE']}", hint="django.db.backends.postgresql")
    return DjangoSource(alias, connections_max)


class DjangoSource:
    """Connections that belong to branches, made by Django; kept for the next branch, as many as there may be at a time."""

    reasons = ("Django's connection is not asynchronous: write a plain def", "")

    def __init__(self, alias: str, connections_max: int) -> None:
        self._alias = alias
        self._connections_max = connections_max
        self._room: asyncio.Semaphore | None = None
        self._lent: dict[int, Any] = {}
        """Django's connections, by the identity of psycopg's."""
        self._idle: list[Any] = []
        self._users = 0
        """Slots that use it."""

    async def open(self) -> None:
        """See `Source`."""
        self._users += 1
        self._room = self._room or asyncio.Semaphore(self._connections_max)

    async def close(self) -> None:
        """See `Source`."""
        self._users -= 1
        if self._users == 0:
            await self.refresh()

    async def take(self, wait_seconds: float) -> Working:
        """See `Source`."""
        assert self._room is not None, "the resource is not open"
        try:
            await asyncio.wait_for(self._room.acquire(), wait_seconds)
        except TimeoutError:
            raise PoolTimeout(f"{self._connections_max} branches have connections (connections_max)") from None
        try:
            lent = self._idle.pop() if self._idle else await asyncio.to_thread(_connected, self._alias)
        except BaseException:
            self._room.release()
            raise
        working = twin(psycopg.AsyncConnection, lent.connection)
        self._lent[id(working)] = lent
        return working

    async def give(self, connection: Working) -> None:
        """See `Source`."""
        assert self._room is not None, "the resource is not open"
        lent = self._lent.pop(id(connection))
        if connection.closed or self._users == 0:
            await asyncio.to_thread(lent.close)
        else:
            self._idle.append(lent)
        self._room.release()

    async def refresh(self) -> None:
        """See `Source`."""
        idle, self._idle = self._idle, []
        for lent in idle:
            await asyncio.to_thread(lent.close)

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        alias = self._alias

        class Connected(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **options: Any) -> Any:
                owner = await asyncio.to_thread(_connected, alias)
                connection = twin(psycopg.AsyncConnection, owner.connection)
                vars(connection)["troth_owner"] = owner
                return connection

        return dsn_pool("", {}, connections_max=FINISHERS_MAX, connection_class=Connected)

    def work(self, operation: Operation, connection: Working, guard: Guard) -> Operation:
        """See `Source`."""
        lent = self._lent[id(connection)]

        def work(_: Any) -> Any:
            with guard.on(lent.connection), _atomic(lent), self.around(lent):
                value = operation(lent)
                if lent.run_on_commit:
                    raise guard.deny("transaction.on_commit() in a transaction of the coordinator: nobody here hears of the commit")
                return value

        return work

    def around(self, db: Any) -> AbstractContextManager[None]:
        """Be around a block in a thread: `db` is what its models use."""
        return _current(self._alias, db)


def _connected(alias: str) -> Any:
    """A connection of Django's that may go from thread to thread. Raises `psycopg.Error`."""
    connection = connections.create_connection(alias)
    # A cursor at the server would have to outlive the transaction, since psycopg knows of none.
    connection.settings_dict = {**connection.settings_dict, "DISABLE_SERVER_SIDE_CURSORS": True}
    connection.inc_thread_sharing()
    try:
        connection.connect()
        connection.connection.set_autocommit(True)
    except DatabaseError as error:
        raise database_error(error) or psycopg.OperationalError(str(error)) from error
    return connection


@contextmanager
def _atomic(connection: Any) -> Iterator[None]:
    """Django's view of the branch's transaction."""
    connection.in_atomic_block, connection.autocommit = True, False
    connection.atomic_blocks.append(Atomic(connection.alias, savepoint=True, durable=False))
    try:
        yield
    finally:
        connection.in_atomic_block, connection.autocommit, connection.needs_rollback = False, True, False
        connection.closed_in_transaction = False
        for state in (connection.atomic_blocks, connection.savepoint_ids, connection.run_on_commit):
            state.clear()


@contextmanager
def _current(alias: str, connection: Any) -> Iterator[None]:
    before = next((one for one in connections.all(initialized_only=True) if one.alias == alias), None)
    connections[alias] = connection
    try:
        yield
    finally:
        if before is None:
            del connections[alias]
        else:
            connections[alias] = before
