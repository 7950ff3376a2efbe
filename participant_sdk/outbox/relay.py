"""The relay: delivers what was committed.

It takes the first message of each key that is due, delivers them side by side, and deletes what was delivered, all in one
transaction whose locks keep other relays away. A relay that dies in between has delivered, and not deleted: so a message may come
twice, under the same id. Only the first of a key is ever taken, so the next one follows when that is done or set aside.

A message that fails again and again by its own fault is *set aside*: it stays in the table with its error, and those behind it go
on. When the broker is away nobody is at fault: everything waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from participant_sdk.border import Raised, finished, words_of
from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import store_of
from troth.backoff import Backoff
from troth.logs import get_logger
from troth.tasks import is_cancelling

Deliver = Callable[[Message], object]
"""Hands a message over; it, or what it returns, is done when the message is safe there. Raises `Away`, `OSError` or `TimeoutError`
when nobody can be reached, and anything else when it is this message that cannot be delivered."""

AGAIN = Backoff(first_seconds=0.1, cap_seconds=10.0)
"""The wait before a message that failed, or a broker that was away, is tried again."""
ERROR_CHARACTERS_MAX = 1_000
IDLE_SECONDS = 20.0
"""Past the time of a delivery, in which a relay that lives asks its database for something."""

_log = get_logger("participant_sdk.outbox")


class Away(Exception):
    """Nobody can be reached whom a message could be given to; no message is at fault."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay takes at once, and how long it waits."""

    batch_max: int = 100
    """Messages that are delivered at the same time."""
    batch_bytes_max: int = 16 * 1024 * 1024
    """Bytes of their bodies."""
    attempts_max: int = 10
    """How often a message may fail by its own fault; then it is set aside."""
    deliver_seconds_max: float = 10.0
    """Longest time of one delivery; then whoever should take it is away."""
    look_seconds: float = 0.5
    """Between two looks into an outbox that has nothing to deliver."""


class Relay:
    """Delivers the outbox of one database; use it as `async with Relay(dsn, deliver)`. Any number of them may run.

    `dsn`      a connection string of PostgreSQL, or an address of MariaDB (`troth.mariadb.address`)
    `deliver`  see `Deliver`

    Raises `ConfigError` for an address of MariaDB that is none, or whose driver is missing.
    """

    def __init__(self, dsn: str, deliver: Deliver, *, limits: RelayLimits | None = None) -> None:
        self._dsn = dsn
        self._deliver = deliver
        self._limits = limits or RelayLimits()
        self._outbox = store_of(dsn, self._limits.deliver_seconds_max + IDLE_SECONDS)
        self._running: asyncio.Task[None] | None = None
        self.delivered = 0
        """Messages that were delivered and deleted."""

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run(), name="troth-relay")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    async def run(self) -> None:
        """Deliver, until cancelled. A database or a broker that is away is tried again for ever."""
        failures = 0
        while not is_cancelling():
            try:
                async with self._outbox.connected() as connection:
                    while not is_cancelling():
                        done = await self.deliver_once(connection)
                        failures = 0
                        await asyncio.sleep(0 if done else self._limits.look_seconds)
            except self._waits_for() as error:
                wait = AGAIN.delay_seconds(failures, self._dsn)
                failures += 1
                _log.warning("the outbox waits", why=f"{type(error).__name__}: {error}", seconds=round(wait, 1))
                await asyncio.sleep(wait)

    def _waits_for(self) -> tuple[type[Exception], ...]:
        """What is nobody's fault here: the database or the broker is away."""
        return (Away, *self._outbox.kinds)

    async def deliver_once(self, connection: Any) -> int:
        """Deliver what is due now, at most one batch; returns how many were tried. Raises `Away` (what was delivered is done).

        `connection` is the database's own: psycopg's, or a `troth.mariadb.connection.Connection` that reads committed data.
        """
        away: BaseException | None = None
        async with self._outbox.transaction(connection):
            messages = await self._take(connection)
            outcomes = await asyncio.gather(*(self._delivered(message) for message in messages))
            done = [message.position for message, error in zip(messages, outcomes, strict=True) if error is None]
            if done:
                await self._outbox.done(connection, done)
            for message, error in zip(messages, outcomes, strict=True):
                if isinstance(error, (Away, OSError, TimeoutError)):
                    away = error
                elif error is not None:
                    await self._failed(connection, message, error)
        self.delivered += len(done)
        if away is not None:
            raise Away(words_of(away, ERROR_CHARACTERS_MAX))
        return len(messages)

    async def _take(self, connection: Any) -> list[Message]:
        limits = self._limits
        first = await self._outbox.first(connection, limits.batch_max)
        room, positions = limits.batch_bytes_max, list[int]()
        for position, size in first:
            room -= size
            if room < 0 and positions:
                break
            positions.append(position)
        return await self._outbox.take(connection, positions) if positions else []

    async def _delivered(self, message: Message) -> BaseException | None:
        try:
            async with asyncio.timeout(self._limits.deliver_seconds_max):
                result = await finished(self._deliver, message)
        except TimeoutError as error:
            return error
        return result.error if type(result) is Raised else None

    async def _failed(self, connection: Any, message: Message, error: BaseException) -> None:
        told = words_of(error, ERROR_CHARACTERS_MAX).replace("\0", " ")
        most = self._limits.attempts_max
        if message.attempts + 1 >= most:
            _log.error("a message is set aside", id=str(message.id), topic=message.topic, attempts=most, error=told)
        wait = AGAIN.delay_seconds(message.attempts, str(message.id))
        await self._outbox.failed(connection, message.position, told, wait, most)
