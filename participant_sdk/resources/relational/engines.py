"""SQLAlchemy: branches on the connections of the service's own engine, and sessions that are bound to them.

An operation gets a session of its own. What it left in it is flushed when it returns, so that the database has seen and checked all
of it before the vote. `commit()` and `rollback()` of a session end up at the driver's connection, and are refused there; a nested
transaction (`begin_nested`) is a savepoint, and works.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from participant_sdk.resources.relational.guard import BranchGuard
from troth.errors import Aborted, ConfigError, Reason

Operation = Callable[[Any], Any]


def check_engine(engine: Any, drivers: tuple[tuple[str, str], ...], wanted: str) -> None:
    """Raise `ConfigError` for what is no engine, or one of another database or driver, or one that says no `rollback()`."""
    if not isinstance(engine, Engine | AsyncEngine):
        raise ConfigError(f"engine is a {type(engine).__name__}, and no SQLAlchemy engine")
    if (engine.dialect.name, engine.dialect.driver) not in drivers:
        raise ConfigError(f"the engine is {engine.dialect.name}+{engine.dialect.driver}", hint=f"Make it for {wanted}.")
    if getattr(engine.dialect, "skip_autocommit_rollback", False):  # from SQLAlchemy 2.0.43 on
        raise ConfigError("the engine has skip_autocommit_rollback: rollback() of a session would do nothing, and say nothing")


def kept(lent: Connection) -> Any:
    """The driver's connection of SQLAlchemy's, which keeps it from now on. Where one is lost, SQLAlchemy would connect anew as soon
    as its user has rolled back, and what he did there would be outside of the branch."""
    driver = lent.connection.driver_connection

    def check(connection: Connection, *_: Any) -> None:
        if not has(connection, driver):
            raise Aborted(Reason.PARTICIPANT_AWAY, "the connection was lost, and the branch with it")

    event.listen(lent, "before_cursor_execute", check)
    return driver


def has(lent: Connection, driver: Any) -> bool:
    """Whether SQLAlchemy's connection has the driver's still, and has neither given it up (a statement was cancelled, say) nor got
    another one instead."""
    return not lent.closed and not lent.invalidated and lent.connection.driver_connection is driver


class OfService:
    """What belongs to the service is neither opened nor closed here."""

    lends = True

    async def open(self) -> None:
        """See `Source`."""

    async def close(self) -> None:
        """See `Source`."""


class Lending(OfService, ABC):
    """Connections that SQLAlchemy lends."""

    def __init__(self) -> None:
        self._lent: dict[int, Any] = {}
        """SQLAlchemy's connections and the driver's, by the identity of what a branch has."""

    # ---- what each server does in its own words

    @abstractmethod
    async def _translated(self, connecting: Awaitable[Any]) -> Any:
        """A connection of SQLAlchemy, or the driver's own error."""

    @abstractmethod
    def _working(self, raw: Any) -> Any:
        """What a branch has of the driver's connection."""


class AsyncEngineSource(Lending):
    """Connections of an `AsyncEngine`; operations get an `AsyncSession`."""

    reasons = ("", "the engine is asynchronous, and gives an AsyncSession")

    def __init__(self, engine: AsyncEngine, session: Callable[..., Any] | None) -> None:
        super().__init__()
        self._engine, self._session = engine, session or AsyncSession

    async def take(self, wait_seconds: float) -> Any:
        """See `Source`."""
        lent = await self._translated(asyncio.wait_for(self._autocommit(), wait_seconds))
        driver = kept(lent.sync_connection)
        working = self._working(driver)
        self._lent[id(working)] = lent, driver
        return working

    async def _autocommit(self) -> Any:
        connection = await self._engine.connect()
        return await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def give(self, connection: Any) -> None:
        """See `Source`."""
        lent, driver = self._lent.pop(id(connection))
        if not has(lent.sync_connection, driver):
            await connection.close()
        elif connection.closed:
            await lent.invalidate()
        await lent.close()

    async def refresh(self) -> None:
        """See `Source`."""
        await self._engine.dispose()

    async def _detached(self) -> Any:
        """A connection of the driver that is taken from the engine for good, so that whatever it does to make one is done."""
        raw = await self._engine.raw_connection()
        connection: Any = raw.driver_connection
        raw.detach()
        return connection

    def work(self, operation: Operation, connection: Any, guard: BranchGuard) -> Operation:
        """See `Source`."""

        async def work(_: Any) -> Any:
            session = self._session(bind=self._lent[id(connection)][0])
            try:
                value = await operation(session)
                await session.flush()
                return value
            finally:
                guard.over = True
                await session.close()

        return work


class EngineSource(Lending):
    """Connections of an `Engine`, asked in threads; operations get a `Session`."""

    reasons = ("the engine is not asynchronous, and gives a Session: use create_async_engine", "")

    def __init__(self, engine: Engine, session: Callable[..., Any] | None) -> None:
        super().__init__()
        self._engine, self._session = engine, session or Session

    async def take(self, wait_seconds: float) -> Any:
        """See `Source`."""
        lent = await self._translated(self._connected(wait_seconds))
        driver = kept(lent)
        working = self._working(driver)
        self._lent[id(working)] = lent, driver
        return working

    async def _connected(self, wait_seconds: float) -> Any:
        connecting = asyncio.ensure_future(asyncio.to_thread(self._connect))
        await asyncio.wait([connecting], timeout=wait_seconds)
        if not connecting.done():
            connecting.add_done_callback(_put_back)
            raise TimeoutError
        return connecting.result()

    def _connect(self) -> Any:
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    async def give(self, connection: Any) -> None:
        """See `Source`."""
        lent, driver = self._lent.pop(id(connection))
        if not has(lent, driver):
            await connection.close()
        elif connection.closed:
            await asyncio.to_thread(lent.invalidate)
        await asyncio.to_thread(lent.close)

    async def refresh(self) -> None:
        """See `Source`."""
        await asyncio.to_thread(self._engine.dispose)

    def _detached(self) -> Any:
        """See `AsyncEngineSource._detached`; blocks."""
        raw = self._engine.raw_connection()
        connection: Any = raw.driver_connection
        raw.detach()
        return connection

    def work(self, operation: Operation, connection: Any, guard: BranchGuard) -> Operation:
        """See `Source`."""
        lent, _ = self._lent[id(connection)]

        def work(given: Any) -> Any:
            with self._guarded(guard, lent.connection.driver_connection, given):
                session = self._session(bind=lent)
                try:
                    value = operation(session)
                    session.flush()
                    return value
                finally:
                    guard.over = True
                    session.close()

        return work

    @abstractmethod
    def _guarded(self, guard: BranchGuard, driver: Any, given: Any) -> AbstractContextManager[None]:
        """Guard SQLAlchemy's connection, if the branch's own is another object."""


def _put_back(connecting: asyncio.Future[Any]) -> None:
    """What a thread got when nobody waited for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
