"""SQLAlchemy's engines on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolBusy
from sqlalchemy.ext.asyncio import AsyncEngine

from participant_sdk.resources.postgres.connections import FINISHERS_MAX, Source, Working, dsn_pool, twin
from participant_sdk.resources.postgres.sqlstates import database_error
from participant_sdk.resources.relational import engines
from participant_sdk.resources.relational.guard import BranchGuard

_PSYCOPG = (("postgresql", "psycopg"), ("postgresql", "psycopg_async"))
_ASYNCPG = (("postgresql", "asyncpg"),)


def engine_source(engine: Any, session: Callable[..., Any] | None) -> Source:
    """The source of an engine. Raises `ConfigError` for one that is none, or of another driver."""
    drivers = _PSYCOPG + _ASYNCPG if isinstance(engine, AsyncEngine) else _PSYCOPG
    engines.check_engine(engine, drivers, "postgresql+psycopg://... (with create_async_engine also for postgresql+asyncpg://...)")
    if not isinstance(engine, AsyncEngine):
        return EngineSource(engine, session)
    if engine.dialect.driver != "asyncpg":
        return AsyncEngineSource(engine, session)
    from participant_sdk.resources.postgres.asyncpg_engine import AsyncpgEngineSource

    asyncpg_source: Any = AsyncpgEngineSource(engine, session)
    return cast(Source, asyncpg_source)


async def driver_errors(connecting: Awaitable[Any]) -> Any:
    """A connection, or psycopg's own error."""
    try:
        return await connecting
    except (TimeoutError, PoolBusy):
        raise PoolTimeout("all connections of the engine are taken") from None
    except SQLAlchemyError as error:
        raise database_error(error) or psycopg.OperationalError(str(error)) from error


class AsyncEngineSource(engines.AsyncEngineSource):
    """See `engines.AsyncEngineSource`."""

    async def _translated(self, connecting: Awaitable[Any]) -> Any:
        return await driver_errors(connecting)

    def _working(self, raw: Any) -> Working:
        working: Working = raw
        return working

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        source = self

        class Detached(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **options: Any) -> Any:
                connection = await source._detached()
                await connection.set_autocommit(True)
                return connection

        return dsn_pool("", {}, connections_max=FINISHERS_MAX, connection_class=Detached)


class EngineSource(engines.EngineSource):
    """See `engines.EngineSource`."""

    async def _translated(self, connecting: Awaitable[Any]) -> Any:
        return await driver_errors(connecting)

    def _working(self, raw: Any) -> Working:
        return twin(psycopg.AsyncConnection, raw)

    def finishers(self) -> AsyncConnectionPool[Working]:
        """See `Source`."""
        source = self

        class Detached(psycopg.AsyncConnection[Any]):
            @classmethod
            async def connect(cls, conninfo: str = "", **options: Any) -> Any:
                owner = await asyncio.to_thread(source._detached)
                connection = twin(psycopg.AsyncConnection, owner)
                vars(connection)["troth_owner"] = owner
                return connection

        return dsn_pool("", {}, connections_max=FINISHERS_MAX, connection_class=Detached)

    def _guarded(self, guard: BranchGuard, driver: Any, given: Any) -> AbstractContextManager[None]:
        return guard.on(driver)
