"""SQLAlchemy's asynchronous engines on `postgresql+asyncpg`: asyncpg's connections as of its pool, with sessions on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from participant_sdk.resources.postgres.asyncpg_adapter import guarded
from participant_sdk.resources.postgres.asyncpg_branch import AsyncpgBranch
from participant_sdk.resources.postgres.asyncpg_driver import RAISED, Session, driver_error
from participant_sdk.resources.postgres.asyncpg_finishing import AsyncpgFinishers
from participant_sdk.resources.postgres.connections import FINISHERS_MAX
from participant_sdk.resources.postgres.engines import driver_errors
from participant_sdk.resources.relational import engines, finishing
from participant_sdk.resources.relational.pool import Pool


class AsyncpgEngineSource(engines.AsyncEngineSource):
    """See `engines.AsyncEngineSource`. While a branch has a connection, SQLAlchemy's adapter of it is in autocommit mode and begins
    nothing: the branch's own statements go past it."""

    kinds = (AsyncpgBranch, AsyncpgFinishers)
    """See `AsyncpgSource`."""

    async def _translated(self, connecting: Awaitable[Any]) -> Any:
        try:
            return await driver_errors(connecting)
        except RAISED as error:
            raise driver_error(error, closed=True) from error

    def _working(self, raw: Any) -> Session:
        return Session(raw)

    def work(self, operation: engines.Operation, connection: Session, guard: Any) -> engines.Operation:
        """See `Source`."""
        with_session = super().work(operation, connection, guard)
        lent, _ = self._lent[id(connection)]

        async def work(given: Any) -> Any:
            adapter = (await lent.get_raw_connection()).dbapi_connection
            with guarded(adapter, guard):
                return await with_session(given)

        return work

    def finishers(self) -> Pool[Session]:
        """Connections that are taken from the engine for good; not more than a few."""

        async def connected() -> Session:
            session = Session(await self._translated(asyncio.wait_for(self._detached(), finishing.WAIT_SECONDS)))
            if session.in_transaction:  # the adapter's, for what the engine's events have asked
                await session.tag("ROLLBACK")
            return session

        return Pool(connected, FINISHERS_MAX)
