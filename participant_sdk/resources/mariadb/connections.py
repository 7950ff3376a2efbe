"""Where branches get their connections: a pool of ours, or the service's own.

A branch has one connection until its vote; a prepared one has then to be closed, since only so others can finish the branch.
Connections that *finish* branches are kept apart from those that work, so that a service all of whose connections wait for a
decision can still carry it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from participant_sdk.resources.mariadb.guard import Guard
from participant_sdk.resources.relational.finishing import LOCK_WAIT_SECONDS
from participant_sdk.resources.relational.pool import Pool, PoolBusy
from troth.mariadb.address import Address
from troth.mariadb.connection import Connection
from troth.mariadb.drivers import Driver, driver_of

Operation = Callable[[Any], Any]
"""An operation with its arguments: a function of what operations get, plain or returning a coroutine."""
FINISHERS_MAX = 4
"""Connections that finish branches."""


class Source(Protocol):
    """Gives connections to branches. What goes wrong is raised as the driver raises it, or as `PoolBusy`."""

    reasons: tuple[str, str]
    """Why an `async def`, and why a plain `def`, cannot be an operation; empty where it can."""
    lends: bool
    """Whether the service uses the connections too: they go back as they came."""

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Close what was opened here."""

    async def take(self, wait_seconds: float) -> Connection:
        """A connection that is in no transaction."""

    async def give(self, connection: Connection) -> None:
        """Give one back, in whatever state it is."""

    async def refresh(self) -> None:
        """Drop connections that the server may have closed."""

    async def new(self) -> Connection:
        """One that belongs to nobody else, for finishing."""

    def work(self, operation: Operation, connection: Connection, guard: Guard) -> Operation:
        """The operation as a function of the driver's connection."""


def reasons_of(driver: Driver) -> tuple[str, str]:
    """A driver serves one style: what it gives to operations blocks, or does not."""
    if driver.asynchronous:
        return "", f"{driver.name} is asynchronous: write `async def`, or use mysql+pymysql://"
    return f"{driver.name} blocks: write a plain `def`, or use mysql+aiomysql://", ""


def finisher_pool(source: Source) -> Pool[Connection]:
    """Connections that finish branches: what they wait for, they wait for a short time."""

    async def connect() -> Connection:
        connection = await source.new()
        await connection.set_up(LOCK_WAIT_SECONDS)
        return connection

    return Pool(connect, FINISHERS_MAX)


class GivesConnections:
    """Operations get the connection itself."""

    def work(self, operation: Operation, connection: Connection, guard: Guard) -> Operation:
        """See `Source`."""
        return operation


class DsnSource(GivesConnections):
    """Connections of our own."""

    lends = False

    def __init__(self, address: Address, connections_max: int) -> None:
        self._address = address
        self._connections_max = connections_max
        self.reasons = reasons_of(driver_of(address.driver))
        self._pool: Pool[Connection] | None = None
        self._users = 0
        """Slots that use it."""

    async def open(self) -> None:
        """See `Source`."""
        self._users += 1
        if self._pool is None:
            self._pool = Pool(self.new, self._connections_max)

    async def close(self) -> None:
        """See `Source`."""
        self._users -= 1
        if self._users == 0 and self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    async def take(self, wait_seconds: float) -> Connection:
        """See `Source`."""
        assert self._pool is not None, "the resource is not open"
        return await self._pool.take(wait_seconds)

    async def give(self, connection: Connection) -> None:
        """See `Source`."""
        if self._pool is None:
            await connection.close()
        else:
            await self._pool.give(connection)

    async def refresh(self) -> None:
        """See `Source`."""
        if self._pool is not None:
            await self._pool.refresh()

    async def new(self) -> Connection:
        """See `Source`."""
        return await Connection.to(self._address)


class PoolSource(GivesConnections):
    """Connections of the service's own pool, of aiomysql or asyncmy, which it closes itself."""

    lends = True

    def __init__(self, pool: Any, driver: Driver) -> None:
        self._pool = pool
        self._driver = driver
        self.reasons = reasons_of(driver)

    async def open(self) -> None:
        """See `Source`."""

    async def close(self) -> None:
        """See `Source`."""

    async def take(self, wait_seconds: float) -> Connection:
        """See `Source`."""
        try:
            async with asyncio.timeout(wait_seconds):
                return Connection(self._driver, await self._pool.acquire())
        except TimeoutError:
            raise PoolBusy(f"all {self._pool.maxsize} connections of the pool are taken") from None

    async def give(self, connection: Connection) -> None:
        """See `Source`."""
        released = self._pool.release(connection.raw)
        if released is not None:
            await released

    async def refresh(self) -> None:
        """See `Source`."""
        await self._pool.clear()

    async def new(self) -> Connection:
        """See `Source`: made as the pool makes its own."""
        module = __import__(self._driver.name)
        return Connection(self._driver, await module.connect(**self._pool._conn_kwargs))


def pool_source(pool: Any) -> Source | None:
    """The source of a pool of a known driver; `None` for what is none."""
    driver = type(pool).__module__.partition(".")[0]
    if driver not in ("aiomysql", "asyncmy") or not hasattr(pool, "acquire"):
        return None
    return PoolSource(pool, driver_of(driver))
