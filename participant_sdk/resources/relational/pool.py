"""A pool of our own, for any driver: in MariaDB a prepared branch takes its connection along, so most are used once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Pooled(Protocol):
    """What a pool asks of a connection."""

    @property
    def closed(self) -> bool:
        """Whether it is known to be gone."""

    def cut(self) -> None:
        """Close the socket without a word."""

    async def close(self) -> None:
        """Say goodbye; raises nothing."""


Connection = TypeVar("Connection", bound=Pooled)


class PoolBusy(Exception):
    """All connections are taken."""


class Pool(Generic[Connection]):
    """At most `size` connections, which `connect` makes."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], size: int) -> None:
        self._connect = connect
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    async def take(self, wait_seconds: float) -> Connection:
        """One that is idle, or a new one. Raises `PoolBusy`, and what the driver raises."""
        try:
            async with asyncio.timeout(wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise PoolBusy(f"all {self._size} connections are taken") from None
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    async def give(self, connection: Connection) -> None:
        """Take one back, in whatever state it is."""
        self._free.release()
        if self._closed:
            await connection.close()
        elif not connection.closed:
            self._idle.append(connection)

    @asynccontextmanager
    async def connection(self, wait_seconds: float) -> AsyncIterator[Connection]:
        """One for the time of the block; it is closed if the block fails."""
        connection = await self.take(wait_seconds)
        try:
            yield connection
        except BaseException:
            connection.cut()
            raise
        finally:
            await self.give(connection)

    async def refresh(self) -> None:
        """Drop those that are idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def close(self) -> None:
        """Close those that are idle now, and the others when they come back."""
        self._closed = True
        await self.refresh()
