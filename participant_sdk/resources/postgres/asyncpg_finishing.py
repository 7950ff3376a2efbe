"""Finishing branches in PostgreSQL over asyncpg: the same statements as over psycopg, on connections of the service's own kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from participant_sdk.resources.postgres.asyncpg_driver import Session
from participant_sdk.resources.postgres.finishing import Finishers
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.pool import Pool, PoolBusy
from troth.log import postgres_branches as branches


class AsyncpgFinishers(Finishers):
    """See `Finishers`. Raises `psycopg.Error` where nothing else is said."""

    def __init__(self, pool: Pool[Session]) -> None:
        self._sessions = pool

    async def open(self) -> None:
        """See `BranchFinishers`: the first statement connects."""

    async def close(self) -> None:
        """See `BranchFinishers`."""
        await self._sessions.close()

    async def ask(self, statement: str, parameters: Any = None) -> list[Any]:
        """See `Finishers`."""
        async with self._session() as session:
            return await session.rows(statement, parameters or ())

    async def do(self, statement: str) -> None:
        """See `Finishers`. It is sent as it is, so that no statement with a branch's name is kept by anybody."""
        async with self._session() as session:
            await session.tag(statement)

    async def _entomb(self, gid: str) -> list[Any]:
        async with self._session() as session:
            try:
                await session.tag(f"BEGIN; SET LOCAL lock_timeout = {finishing.LOCK_WAIT_SECONDS * 1000}")
                for _ in range(2):
                    if rows := await session.rows(branches.ENTOMB, {"gid": gid}):
                        break
                tag = await session.tag("COMMIT")
            except psycopg.Error:
                with suppress(psycopg.Error):
                    await session.tag("ROLLBACK")
                raise
            if tag != "COMMIT":
                raise psycopg.OperationalError(f"COMMIT answered {tag}")
            return rows

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        """A connection for the time of the block. An error of the server does it no harm."""
        try:
            session = await self._sessions.take(finishing.WAIT_SECONDS)
        except PoolBusy as error:
            raise PoolTimeout(str(error)) from None
        try:
            yield session
        except psycopg.Error:
            if session.in_transaction:
                session.cut()
            raise
        except BaseException:
            session.cut()
            raise
        finally:
            await self._sessions.give(session)
