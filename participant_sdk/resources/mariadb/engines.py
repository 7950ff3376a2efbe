"""SQLAlchemy's engines on MariaDB."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from participant_sdk.resources.mariadb.causes import database_error
from participant_sdk.resources.mariadb.connections import Source
from participant_sdk.resources.relational import engines
from participant_sdk.resources.relational.guard import BranchGuard
from participant_sdk.resources.relational.pool import PoolBusy
from troth.mariadb.address import DRIVERS
from troth.mariadb.connection import Connection
from troth.mariadb.drivers import Driver, driver_of

_KNOWN = tuple((name, driver) for name in ("mysql", "mariadb") for driver in DRIVERS)


def engine_source(engine: Any, session: Callable[..., Any] | None) -> Source:
    """The source of an engine. Raises `ConfigError` for one that is none, or of another driver."""
    engines.check_engine(engine, _KNOWN, "mariadb+aiomysql://, mariadb+asyncmy:// or mariadb+pymysql://")
    driver = driver_of(engine.dialect.driver)
    kind = AsyncEngineSource if isinstance(engine, AsyncEngine) else EngineSource
    return kind(engine, session, driver)


async def _driver_errors(connecting: Awaitable[Any]) -> Any:
    """A connection, or the driver's own error."""
    try:
        return await connecting
    except (TimeoutError, PoolTimeout):
        raise PoolBusy("all connections of the engine are taken") from None
    except SQLAlchemyError as error:
        raise database_error(error) or OSError(str(error)) from error


class _OfDriver:
    """What engines of either kind do with the driver of their connections."""

    def __init__(self, engine: Any, session: Callable[..., Any] | None, driver: Driver) -> None:
        super().__init__(engine, session)  # type: ignore[call-arg]  # of the engine's kind, which comes behind
        self._driver = driver

    async def _translated(self, connecting: Awaitable[Any]) -> Any:
        return await _driver_errors(connecting)

    def _working(self, raw: Any) -> Connection:
        return Connection(self._driver, raw)


class AsyncEngineSource(_OfDriver, engines.AsyncEngineSource):
    """See `engines.AsyncEngineSource`."""

    async def new(self) -> Connection:
        """See `Source`."""
        return self._working(await _driver_errors(self._detached()))


class EngineSource(_OfDriver, engines.EngineSource):
    """See `engines.EngineSource`."""

    async def new(self) -> Connection:
        """See `Source`."""
        return self._working(await _driver_errors(asyncio.to_thread(self._detached)))

    def _guarded(self, guard: BranchGuard, driver: Any, given: Any) -> AbstractContextManager[None]:
        return nullcontext()  # it is the branch's own
