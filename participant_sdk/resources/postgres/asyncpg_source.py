"""The service's own pool of asyncpg, from which branches get their connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import asyncpg
from psycopg_pool import PoolTimeout

from participant_sdk.resources.postgres.asyncpg_branch import AsyncpgBranch
from participant_sdk.resources.postgres.asyncpg_driver import RAISED, Session, driver_error
from participant_sdk.resources.postgres.asyncpg_finishing import AsyncpgFinishers
from participant_sdk.resources.postgres.asyncpg_guard import AsyncpgGuard
from participant_sdk.resources.postgres.connections import FINISHERS_MAX, Operation
from participant_sdk.resources.relational import finishing
from participant_sdk.resources.relational.pool import Pool
from troth.errors import ConfigError

REASONS = ("", "asyncpg is asynchronous: write an async def")


class AsyncpgSource:
    """Connections of the service's pool, which it opens and closes itself. `pool` may be a function that gives it (or something to
    await that does): a pool belongs to an event loop, and the participant is often there before that runs."""

    kinds = (AsyncpgBranch, AsyncpgFinishers)
    """What works on its sessions, and what finishes branches with them."""
    reasons = REASONS

    def __init__(self, pool: asyncpg.Pool[Any] | Callable[[], Any]) -> None:
        self._given = pool
        self._pool: Any = None

    async def open(self) -> None:
        """See `Source`. Raises `ConfigError` for a function that gives no pool."""
        pool: Any = self._given
        if not isinstance(pool, asyncpg.Pool):
            pool = pool()
            if not isinstance(pool, asyncpg.Pool) and isawaitable(pool):
                pool = await pool
        if not isinstance(pool, asyncpg.Pool):
            raise ConfigError(f"the function of the database gave a {type(pool).__name__}, and no pool of asyncpg")
        self._pool = pool

    async def close(self) -> None:
        """See `Source`."""

    async def take(self, wait_seconds: float) -> Session:
        """See `Source`."""
        try:
            return Session(await self._pool.acquire(timeout=wait_seconds))
        except TimeoutError:
            raise PoolTimeout("all connections of the pool are taken") from None
        except RAISED as error:
            raise driver_error(error, closed=True) from error

    async def give(self, session: Session) -> None:
        """See `Source`. asyncpg resets it, with a statement more; one that cannot be reset is closed."""
        try:
            await self._pool.release(session.given)
        except RAISED:
            session.cut()

    async def refresh(self) -> None:
        """See `Source`: each is made anew before it is lent again."""
        await self._pool.expire_connections()

    def work(self, operation: Operation, session: Session, guard: AsyncpgGuard) -> Operation:
        """See `Source`: operations get what the pool has lent."""
        return operation

    def finishers(self) -> Pool[Session]:
        """Connections apart from the pool's, made as it makes them; not more than a few."""

        async def connected() -> Session:
            try:
                return Session(await asyncio.wait_for(self._pool._get_new_connection(), finishing.WAIT_SECONDS))
            except RAISED as error:
                raise driver_error(error, closed=True) from error

        return Pool(connected, FINISHERS_MAX)
