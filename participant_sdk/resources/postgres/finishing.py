"""Finishing branches in PostgreSQL, from any connection to the same database.

What is read here was perhaps never acknowledged to anybody: where replicas are waited for, a server shows its own commits before
they have them. Whoever speaks of what was read would promise what a failover loses. So something is written behind it, and waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from participant_sdk.resources.postgres.backends import END_BRANCH, digest
from participant_sdk.resources.postgres.connections import Working, waits_for_replicas
from participant_sdk.resources.postgres.sqlstates import LOCK_TIMEOUT, UNDEFINED_GID, why
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.finishing import BranchFinishers, Fate
from troth.gids import gid_prefix
from troth.log import postgres_branches as branches

BARRIER = "SELECT pg_logical_emit_message(true, 'troth', '')"
"""Writes a few bytes to the log of the server: when they are acknowledged, so is all that was before them."""


class Finishers(BranchFinishers):
    """Connections that finish branches. Raises `psycopg.Error` where nothing else is said."""

    def __init__(self, pool: AsyncConnectionPool[Working]) -> None:
        self._pool = pool

    def kinds(self) -> tuple[type[Exception], ...]:
        """See `BranchFinishers`."""
        return (psycopg.Error,)

    def why(self, error: Exception) -> str:
        """See `BranchFinishers`."""
        assert isinstance(error, psycopg.Error)
        return why(error)

    async def open(self) -> None:
        """See `BranchFinishers`."""
        await self._pool.open()

    async def close(self) -> None:
        """See `BranchFinishers`."""
        await self._pool.close()

    async def ask(self, statement: str, parameters: Any = None) -> list[Any]:
        """The rows of a statement that is a transaction of its own."""
        async with self._pool.connection(finishing.WAIT_SECONDS) as connection:
            with waits_for_replicas(connection):
                cursor = await connection.execute(statement, parameters, prepare=False)
                return await cursor.fetchall() if cursor.description else []

    async def do(self, statement: str) -> None:
        """A statement that gives no rows."""
        await self.ask(statement)

    async def finish(self, name: str, *, commit: bool) -> bool:
        """See `BranchFinishers`."""
        try:
            await self.do(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{name}'")
        except psycopg.Error as error:
            if error.sqlstate != UNDEFINED_GID:
                raise
            return False
        return True

    async def fate(self, name: str) -> Fate:
        """See `BranchFinishers`."""
        try:
            rows = await self._entomb(name)
        except psycopg.Error as error:
            if error.sqlstate == LOCK_TIMEOUT:
                await self.ask(END_BRANCH, (digest(name),))
            raise
        await self.ask(BARRIER)
        return Fate.COMMITTED if rows[0][0] else Fate.DEAD

    async def _entomb(self, gid: str) -> list[Any]:
        async with self._pool.connection(finishing.WAIT_SECONDS) as connection, connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {finishing.LOCK_WAIT_SECONDS * 1000}")
            for _ in range(2):
                cursor = await connection.execute(branches.ENTOMB, {"gid": gid}, prepare=False)
                if rows := await cursor.fetchall():
                    break
            return rows

    async def prepared(self, participant: str) -> Sequence[str]:
        """See `BranchFinishers`."""
        found = [row[0] for row in await self.ask(branches.LIST, (gid_prefix(participant),))]
        if found:
            await self.ask(BARRIER)
        return found

    async def forget(self, names: Sequence[str]) -> None:
        """See `BranchFinishers`."""
        await self.ask(branches.FORGET, (list(names),))
