"""The relay: delivers what was committed.

It takes a batch (`turns`), delivers it, and deletes what was delivered, all in one transaction whose locks keep other relays away.
Those of a key are delivered one after the other, from the first on, and different keys side by side. A relay that dies in between
has delivered, and not deleted: so a message may come twice, under the same id. What is behind a message that another relay has, or
that failed, is left where it is. What takes longer than `look_seconds` is left behind, and recorded later: the rest of its batch
does not wait for it.

A message that fails again and again by its own fault is *set aside*: it stays in the table with its error, and those behind it go
on. When nobody can be reached nobody is at fault: the topic goes apart (`apart`), and is tried again for ever. While something
takes long another connection goes on.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from participant_sdk.border import Raised, finished, words_of
from participant_sdk.outbox.apart import Apart, TopicAway
from participant_sdk.outbox.message import Message
from participant_sdk.outbox.store import store_of
from participant_sdk.outbox.turns import BatchMax, Turns, unbroken
from troth.backoff import Backoff
from troth.logs import get_logger
from troth.quiet import Quiet
from troth.tasks import ended, is_cancelling

Deliver = Callable[[Message], object]
"""Hands a message over; it, or what it returns, is done when the message is safe there. Raises `Away`, `OSError` or `TimeoutError`
when nobody can be reached, and anything else when it is this message that cannot be delivered."""

AGAIN = Backoff(first_seconds=0.1, cap_seconds=10.0)
"""The wait before a message that failed, a topic whose destination was away, or a database that was, is tried again."""
ERROR_CHARACTERS_MAX = 1_000
IDLE_SECONDS = 20.0
"""Past the time of a delivery, in which a relay that lives asks its database for something."""
LINE_SECONDS = 1.0
"""How long at most a batch goes on to the next message of a key; half of `look_seconds` otherwise, so that what is quick is never
taken for slow. It ends with one delivery more, far within `IDLE_SECONDS`; and who dies has not delivered more than that in vain."""
FAILED_BEFORE_MAX = 10_000
"""Messages of which it is remembered that they failed by nobody's fault."""
GAP_SECONDS = 1.0
"""Between the record of a batch and the lock of what was left behind, by far."""
SLOW = "it is being delivered, and takes long"
PROBE_MAX = 3
"""Messages by which a topic is tried that was away."""
LOOKS_MAX = 10
"""One after the other that found nothing, and had not seen everything; then it rests."""

_log = get_logger("participant_sdk.outbox")


class Away(Exception):
    """Nobody can be reached whom a message could be given to; no message is at fault. Its topic waits, and others go on."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay takes at once, and how long it waits."""

    batch_max: int = 100
    """Messages of one batch: different keys side by side, those of a key one after the other."""
    batch_bytes_max: int = 16 * 1024 * 1024
    """Bytes of their bodies."""
    attempts_max: int = 10
    """How often a message may fail by its own fault; then it is set aside."""
    deliver_seconds_max: float = 10.0
    """Longest time of one delivery; then whoever should take it is away."""
    look_seconds: float = 0.5
    """Between two looks into an outbox that has nothing to deliver; and how long the others wait for a batch that takes long."""
    connections_max: int = 4
    """Batches at the same time. It is one, and one connection, unless a batch takes longer than `look_seconds`, or a topic goes
    apart; all but one may be used by such topics."""


_NOBODY_THERE = (Away, OSError, TimeoutError)
_Outcome = tuple[Message, BaseException | None]


class _Lane(AsyncExitStack):
    """A connection, with what closes it."""

    connection: Any = None

    def kept(self) -> _Lane:
        """Another one that has what this had: the connection stays open behind this one's block."""
        kept = self.pop_all()
        kept.connection = self.connection
        return kept


class _Line:
    """Messages that are delivered one after the other."""

    def __init__(self, deliver: Callable[[Sequence[Message], list[_Outcome]], Coroutine[Any, Any, None]], messages: Any) -> None:
        self.messages: Sequence[Message] = messages
        self.outcomes: list[_Outcome] = []
        self.recorded = 0
        self.task = asyncio.create_task(deliver(messages, self.outcomes))

    def new(self) -> list[_Outcome]:
        """What has come since this was asked last."""
        new = self.outcomes[self.recorded :]
        self.recorded = len(self.outcomes)
        return new


def _lines(messages: Iterable[Message]) -> list[list[Message]]:
    lines: defaultdict[str | int, list[Message]] = defaultdict(list)
    for message in messages:
        lines[message.position if message.key is None else message.key].append(message)
    return list(lines.values())


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
        self._turns = Turns(self._outbox)
        self._apart = Apart()
        self._quiet = Quiet()
        self._flying: Counter[str] = Counter()
        """Deliveries that have not ended, by topic."""
        self._failed_before: dict[int, int] = {}
        """How often nobody was reached for a message whose topic is reached."""
        self._free: list[_Lane] = []
        self._rounds: set[asyncio.Task[int]] = set()
        self._late: asyncio.Future[None] | None = None
        """Done when the round of all topics waits for stragglers alone."""
        self._running: asyncio.Task[None] | None = None
        self.delivered = 0
        """Messages that were delivered and deleted."""

    @property
    def away(self) -> dict[str, TopicAway]:
        """The topics whose destination is away, each with its back-off, and those where it is slow (no failures)."""
        return self._apart.known()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run(), name="troth-relay")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])

    # ---- rounds

    async def run(self) -> None:
        """Deliver, until cancelled. A database or a broker that is away is tried again for ever; and so is a fault of the relay
        itself, which is told: messages that nobody delivers any more are worse."""
        failures = looks = 0
        try:
            while not is_cancelling():
                try:
                    looks = 0 if await self._rounds_go_on() else looks + 1
                    failures = 0
                    if looks and (self._turns.whole or looks % LOOKS_MAX == 0):
                        await asyncio.sleep(self._pause_seconds())
                except Exception as error:
                    wait = AGAIN.delay_seconds(failures, self._dsn)
                    failures += 1
                    why, seconds = f"{type(error).__name__}: {error}", round(wait, 1)
                    if isinstance(error, self._outbox.kinds):
                        _log.warning("the outbox waits", why=why, seconds=seconds)
                    else:
                        _log.error("a relay failed; it goes on", why=why, seconds=seconds, exc_info=error)
                    await asyncio.sleep(wait)
        finally:
            for one in self._rounds:
                one.cancel()
            for one in self._rounds:
                await ended(one)
            for lane in self._free:
                await lane.aclose()
            self._rounds.clear()
            self._free.clear()

    async def _rounds_go_on(self) -> int:
        """A round of all topics that go together, and of each that goes apart and is due; returns how many messages were tried in
        rounds that have ended. One in which something takes long is left to itself."""
        for topic in self._apart.ready():
            if self._has_room() and not self._flying[topic]:
                self._begin(topic)
        self._late = asyncio.get_running_loop().create_future()
        together, tried = self._begin(None), 0
        both: list[asyncio.Future[Any]] = [together, self._late]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        while not together.done() and len(self._rounds) >= max(2, self._limits.connections_max):
            await asyncio.wait(self._rounds, return_when=asyncio.FIRST_COMPLETED)
            tried += self._ended()
        return tried + self._ended()

    def _has_room(self) -> bool:
        """For a topic that goes apart: one place is always kept for the others."""
        return len(self._rounds) + 1 < max(2, self._limits.connections_max)

    def _pause_seconds(self) -> float:
        next_seconds = self._apart.next_seconds(self._flying) if self._has_room() else float("inf")
        return min(self._limits.look_seconds, next_seconds)

    def _begin(self, topic: str | None) -> asyncio.Task[int]:
        one = asyncio.create_task(self._round(topic), name="troth-relay-round")
        self._rounds.add(one)
        if topic is not None:
            self._flying[topic] += 1  # until it has ended: a topic that goes apart has one round at a time
            one.add_done_callback(lambda _: self._landed(topic))
        return one

    def _ended(self) -> int:
        """How many messages were tried in rounds that have ended since. Raises what one of them has raised."""
        tried = 0
        for one in [one for one in self._rounds if one.done()]:
            self._rounds.discard(one)
            tried += one.result()
        return tried

    async def _round(self, topic: str | None) -> int:
        async with self._free.pop() if self._free else _Lane() as lane:
            if lane.connection is None:
                lane.connection = await lane.enter_async_context(self._outbox.connected())
            tried = await self.deliver_once(lane.connection, topic)
            if not self._free:
                self._free.append(lane.kept())
        return tried

    # ---- one batch

    async def deliver_once(self, connection: Any, topic: str | None = None) -> int:
        """Deliver what is next, at most one batch, of one topic, or of all that do not go apart; returns how many were tried.

        `connection` is the database's own: psycopg's, or a `troth.mariadb.connection.Connection` that reads committed data.
        """
        lines = list[_Line]()
        try:
            async with self._outbox.transaction(connection):
                lines = [_Line(self._line, messages) for messages in _lines(await self._take(connection, topic))]
                if lines:
                    await asyncio.wait([line.task for line in lines], timeout=self._limits.look_seconds)
                late = [line for line in lines if not line.task.done()]
                for line in late:
                    if not line.task.done():
                        await self._leave_behind(connection, line)
                tried = [outcome for line in lines for outcome in line.new()]
                late = [line for line in late if not line.task.done()]
                away = await self._record(connection, tried)
            self._settled(tried)
            if late and topic is None and self._late is not None and not self._late.done():
                self._late.set_result(None)
            if late:
                tried += await self._stragglers(connection, late)
            elif topic is not None and not tried:
                self._apart.in_vain(topic, self._limits.look_seconds)
            elif topic is not None and topic not in away:
                self._apart.well(topic)
        finally:
            for line in lines:
                line.task.cancel()
            for line in lines:
                await ended(line.task)
        return len(tried)

    async def _leave_behind(self, connection: Any, line: _Line) -> None:
        """What is being delivered takes long: the rest of the batch is recorded without it. Until it is locked again it is due for
        nobody."""
        message = line.messages[len(line.outcomes)]
        self._apart.slow(message.topic)
        await self._outbox.put_off(connection, message.position, SLOW, GAP_SECONDS)

    async def _stragglers(self, connection: Any, late: Sequence[_Line]) -> list[_Outcome]:
        """Wait for what was left behind, and record what came of it; whoever has taken it since does so himself."""
        async with self._outbox.transaction(connection):
            positions = [line.messages[line.recorded].position for line in late]
            held = {message.position for message in await self._outbox.take(connection, positions, put_off=True)}
            await asyncio.wait([line.task for line in late])
            tried = [outcome for line in late for outcome in line.new() if outcome[0].position in held]
            await self._record(connection, tried)
        self._settled(tried)
        return tried

    async def _record(self, connection: Any, outcomes: Sequence[_Outcome]) -> list[str]:
        """Record what came of deliveries; returns the topics of which nobody was reached."""
        done = [message.position for message, error in outcomes if error is None]
        if done:
            await self._outbox.done(connection, done)
        away = self._put_apart(outcomes)
        try:
            for message, error in outcomes:
                if error is not None:
                    await self._failed(connection, message, error)
        finally:
            for topic in away:
                self._apart.counts(topic)
        return away

    def _settled(self, outcomes: Iterable[_Outcome]) -> None:
        for message, error in outcomes:
            if error is None:
                self.delivered += 1
                self._failed_before.pop(message.position, None)

    async def _take(self, connection: Any, topic: str | None) -> list[Message]:
        limits = self._limits
        if topic is None:
            apart = {*self._apart, *+self._flying}
            chosen = await self._turns.of_all(connection, BatchMax(limits.batch_max, limits.batch_bytes_max), apart)
        else:
            most = min(PROBE_MAX, limits.batch_max) if self._apart.is_away(topic) else limits.batch_max
            chosen = await self._turns.of_topic(connection, BatchMax(most, limits.batch_bytes_max), topic)
        if not chosen:
            return []
        taken = {message.position: message for message in await self._outbox.take(connection, [one.position for one in chosen])}
        return [taken[position] for position in unbroken(chosen, taken)]

    async def _line(self, messages: Iterable[Message], outcomes: list[_Outcome]) -> None:
        """One after the other, until one fails, or it is time to record."""
        clock = asyncio.get_running_loop().time
        ends = clock() + min(LINE_SECONDS, self._limits.look_seconds / 2)
        for message in messages:
            if outcomes and clock() >= ends:
                break
            self._flying[message.topic] += 1
            try:
                error = await self._delivered(message)
            finally:
                self._landed(message.topic)
            outcomes.append((message, error))
            if error is not None:
                break

    def _landed(self, topic: str) -> None:
        self._flying[topic] -= 1
        if not self._flying[topic]:
            del self._flying[topic]

    async def _delivered(self, message: Message) -> BaseException | None:
        try:
            async with asyncio.timeout(self._limits.deliver_seconds_max):
                result = await finished(self._deliver, message)
        except TimeoutError as error:
            return error
        return result.error if type(result) is Raised else None

    # ---- what failed

    def _put_apart(self, outcomes: Iterable[_Outcome]) -> list[str]:
        """The topics of which nobody was reached; where somebody was, it is a matter of single messages."""
        errors = dict[str, BaseException]()
        reached = set[str]()
        for message, error in outcomes:
            if isinstance(error, _NOBODY_THERE):
                errors[message.topic] = error
            else:
                reached.add(message.topic)
        away = [topic for topic in errors if topic not in reached]
        for topic in away:
            one = self._apart.away(topic, words_of(errors[topic], ERROR_CHARACTERS_MAX), AGAIN)
            fields = {"topic": topic, "why": one.error, "failures": one.failures, "seconds": round(one.wait_seconds, 1)}
            self._quiet.tell(_log.warning, "a topic waits", **fields)
        return away

    async def _failed(self, connection: Any, message: Message, error: BaseException) -> None:
        told = words_of(error, ERROR_CHARACTERS_MAX).replace("\0", " ")
        if isinstance(error, _NOBODY_THERE):
            await self._outbox.put_off(connection, message.position, told, self._put_off_seconds(message))
            return
        most = self._limits.attempts_max
        if message.attempts + 1 >= most:
            _log.error("a message is set aside", id=str(message.id), topic=message.topic, attempts=most, error=told)
        wait = AGAIN.delay_seconds(message.attempts, str(message.id))
        await self._outbox.failed(connection, message.position, told, wait, most)

    def _put_off_seconds(self, message: Message) -> float:
        """As long as its topic; where that is reached, longer each time."""
        if seconds := self._apart.wait_seconds(message.topic):
            return seconds
        if len(self._failed_before) >= FAILED_BEFORE_MAX:
            self._failed_before.clear()
        failures = self._failed_before.pop(message.position, 0)
        self._failed_before[message.position] = failures + 1
        return AGAIN.delay_seconds(failures, str(message.id))
