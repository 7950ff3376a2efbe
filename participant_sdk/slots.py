"""Slots: a service as any number of processes on one database, with nothing on local disk (DESIGN, section 8).

Each process owns one *slot*, `payments/0`, `payments/1` ...: a log in the database, and the branches that it names. To the
coordinator a slot is a participant; clients name the service. A process claims a slot that nobody owns, or makes a further one.

What a dead process has left is finished by any other one: it *visits* the slot, which is to own it, until nothing is unfinished
there, and gives it back. A slot whose owner did not give it back is visited at once; one that was given back now and then,
because the coordinator may have a question that nobody else can answer.

Whoever loses the connection to the database has lost its slot (rule 17): it says nothing more, and claims one anew.

A coordinator inside of the service (`participant_sdk.embedded`) has slots as well, by the same code. There a process has the slot
of one number of everything, and whoever visits the coordinator's visits those of the participants with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

from participant_sdk.border import Raised, called
from participant_sdk.health import Condition, Health
from participant_sdk.registry import Registry
from participant_sdk.runtime import Runtime
from participant_sdk.wiring import Setup
from troth.backoff import Backoff
from troth.engine import EngineCounters
from troth.errors import ConfigError, LogError, LogLocked, Reason, RequestError, TrothError
from troth.log.contract import Log
from troth.logs import get_logger
from troth.tasks import all_of, is_cancelling
from troth.v1 import common_pb2

LOOK_SECONDS = 1.0
"""Between two looks at who owns which slot."""
VISIT_AGAIN_SECONDS = 60.0
"""How long a slot that was given back stays alone."""
VISITS_MAX = 4
"""Slots that one process visits at the same time."""
QUIET_LOOKS = 4
"""Looks at a visited slot, each a quarter of a second after the one before, that find nothing unfinished before it is left."""
CLAIM_AGAIN = Backoff(first_seconds=0.1, cap_seconds=5.0)
"""The wait between two attempts to get a slot again."""
CLAIMS_MAX = 12
"""Attempts to get a slot that another process has still, of a process that may have no other."""

Held = TypeVar("Held")

_log = get_logger("participant_sdk.slots")


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot, as the database tells."""

    name: str
    owned: bool
    """Whether a process has it."""
    abandoned: bool
    """Whether its last owner did not give it back."""


class SlotLogs(Protocol):
    """Where the logs of a service's slots are (`participant_sdk.resources.postgres.PostgresLog`). All raise `LogError`."""

    slots_max: int

    async def slots(self, service: str) -> Sequence[Slot]:
        """All slots of a service, by number."""

    def name(self, service: str, number: int) -> str:
        """What the slot of a number is called."""

    async def make(self, slot: str) -> None:
        """Make a slot, if it is not there."""

    def log(self, slot: str) -> Log:
        """The log of a slot, not opened."""

    async def hurry(self) -> None:
        """What is closed now waits for no answer of a silent database for long; returns when none is awaited to look at slots."""

    async def close(self) -> None:
        """Let go of what was opened to look, and to renew leases, once all logs are closed."""


async def claimed(
    logs: SlotLogs, service: str, begin: Callable[[str], Awaitable[Held]], visited: Container[str] = ()
) -> tuple[str, Held]:
    """A slot that nobody has, and what `begin` made of it. Raises `LogLocked` when all are owned, and what `begin` raises."""
    refused = 0
    while True:
        slots = await logs.slots(service)
        for slot in slots:
            if not slot.owned and slot.name not in visited:
                with suppress(LogLocked):
                    return slot.name, await begin(slot.name)
        if len(slots) < logs.slots_max:
            there = {slot.name for slot in slots}
            await logs.make(next(name for name in (logs.name(service, number) for number in count()) if name not in there))
            continue
        refused += 1
        if refused > 3:
            raise LogLocked(
                Reason.LOG_LOCKED, f"all {len(slots)} slots of {service} are owned (slots_max)",
                hint="Run fewer processes of the service, or raise slots_max.",
            )
        await asyncio.sleep(CLAIM_AGAIN.delay_seconds(refused, service))


class Visits:
    """Looks after the slots of a service that no process has. `visit` owns one until nothing is unfinished there."""

    def __init__(self, logs: SlotLogs, service: str, visit: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        self._logs = logs
        self._service = service
        self._visit = visit
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._visited: dict[str, float] = {}

    @property
    def names(self) -> Container[str]:
        """The slots that are visited now."""
        return self._under_way.keys()

    async def look(self) -> None:
        """Begin to visit what nobody has: at once where its owner did not give it back, else now and then."""
        now = asyncio.get_running_loop().time()
        self._under_way = {name: visit for name, visit in self._under_way.items() if not visit.done()}
        for slot in await self._logs.slots(self._service):
            if slot.owned:
                self._visited[slot.name] = now
            elif slot.name not in self._under_way and len(self._under_way) < VISITS_MAX and (
                slot.abandoned or now - self._visited.setdefault(slot.name, now) >= VISIT_AGAIN_SECONDS
            ):  # fmt: skip
                self._visited[slot.name] = now
                self._under_way[slot.name] = asyncio.create_task(self._visit(slot.name), name=f"troth-visit-{slot.name}")

    async def end(self) -> None:
        """Leave them all."""
        for visit in self._under_way.values():
            visit.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


class Slots:
    """What one process has of a service's slots: its own, and those that it visits. Behaves as the `Runtime` of its own slot."""

    def __init__(self, setup: Setup, registry: Registry, logs: SlotLogs) -> None:
        self._setup = setup
        self._registry = registry
        self._logs = logs
        self._own: Runtime | None = None
        self._visits = Visits(logs, setup.name, self._visit)
        self._tending: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[TrothError | None] = asyncio.get_running_loop().create_future()
        """As in `Runtime`."""

    # ---- as a runtime

    @property
    def own(self) -> Runtime:
        """The runtime of the slot that this process has, or had last."""
        assert self._own is not None, "the participant was not started"
        return self._own

    @property
    def name(self) -> str:
        """The slot that this process has."""
        return self.own.name

    @property
    def incarnation(self) -> int:
        """See `Runtime`."""
        return self.own.incarnation

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs in."""
        return self.own.loop

    @property
    def counters(self) -> EngineCounters:
        """Of its own slot."""
        return self.own.counters

    @property
    def connected(self) -> asyncio.Event:
        """Of its own slot."""
        return self.own.connected

    @property
    def health(self) -> Health:
        """Of its own slot; without one it is away, and gets one again."""
        health = self.own.health
        if self.ended.done():
            error = self.ended.result()
            return replace(health, condition=Condition.STOPPED if error is None else Condition.FAILED, error=error)
        return replace(health, condition=Condition.AWAY, error=None) if health.condition is Condition.FAILED else health

    def check_place(self) -> None:
        """As in `Runtime`."""
        self.own.check_place()

    async def ask(self, make_event: Callable[[asyncio.Future[Any]], Any]) -> Any:
        """As in `Runtime`."""
        return await self.own.ask(make_event)

    @property
    def resource(self) -> Any:
        """Of its own slot."""
        return self.own.resource

    @property
    def heard_out(self) -> frozenset[int]:
        """Of its own slot."""
        return self.own.heard_out

    def tell(self, stream: int, field: str, message: Any) -> None:
        """As in `Runtime`."""
        self.own.tell(stream, field, message)

    async def is_first(self) -> bool:
        """Whether its own slot is the lowest that a process has: it does what the service does once. Raises `LogError`."""
        slots = await self._logs.slots(self._setup.name)
        owned = [slot.name for slot in slots if slot.owned and slot.name not in self._visits.names]
        return not owned or owned[0] == self.name

    async def caller(self, context: common_pb2.TransactionContext) -> str:
        """See `Runtime`."""
        return await self.own.caller(context)

    async def last_call(self, transaction_id: str) -> common_pb2.SealedVote | None:
        """As in `Runtime`."""
        return await self.own.last_call(transaction_id)

    # ---- life

    async def start(self) -> None:
        """Get a slot, recover it, and begin to connect. Raises `LogError`, `ConfigError`."""
        try:
            self._own = await self._claim()
        except BaseException:
            await self._logs.close()
            raise
        self._tending = asyncio.create_task(self._tend(), name=f"troth-slots-{self._setup.name}")

    async def stop(self) -> None:
        """Give the slots back."""
        await self._end(None, Runtime.stop)

    async def crash(self) -> None:
        """As in `Runtime`; for tests."""
        await self._end(RequestError(Reason.SHUTTING_DOWN, f"participant {self._setup.name} was crashed"), Runtime.crash)

    async def _end(self, error: TrothError | None, how: Callable[[Runtime], Any]) -> None:
        self.own.check_place()
        if not self.ended.done():
            self.ended.set_result(error)
        await all_of(self._logs.hurry, self._untended, self._visits.end, lambda: how(self.own), self._logs.close)

    async def _untended(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)

    async def _claim(self) -> Runtime:
        """A slot that nobody has, or the one that this process is to have, recovered. Raises `LogError`."""
        number = self._setup.wiring.slot()
        if number is None:
            slot, runtime = await claimed(self._logs, self._setup.name, self._started, self._visits.names)
        else:
            runtime = await self.of_number(number)
            slot = runtime.name
        _log.info("has a slot", participant=self._setup.name, slot=slot)
        return runtime

    async def of_number(self, number: int) -> Runtime:
        """The slot of a number, recovered; whoever asked stops it. Raises `LogError`; `LogLocked` when its owner does not end."""
        slot = self._logs.name(self._setup.name, number)
        await self._logs.make(slot)
        for attempt in range(CLAIMS_MAX):
            with suppress(LogLocked):
                return await self._started(slot)
            await asyncio.sleep(CLAIM_AGAIN.delay_seconds(attempt, slot))
        return await self._started(slot)

    async def _started(self, slot: str) -> Runtime:
        resource = self._setup.resource.slot(slot, self._registry)
        setup = replace(self._setup, name=slot, resource=resource, on_failure=None, log=lambda: self._logs.log(slot))
        runtime = Runtime(setup, self._registry)
        await runtime.start()
        return runtime

    # ---- tending

    async def _tend(self) -> None:
        """Have a slot as long as the process lives, and look after those of others."""
        while not self.ended.done():
            await asyncio.wait((self.own.ended,), timeout=LOOK_SECONDS)
            if self.own.ended.done():
                await self._again(self.own.ended.result())
            elif self._setup.wiring.slot() is None:
                with suppress(LogError):
                    await self._visits.look()

    async def _again(self, error: TrothError | None) -> None:
        """Our slot is gone: get one again, unless no slot would help."""
        attempt = 0
        while not self.ended.done():
            if not (isinstance(error, LogError) or (error is not None and error.reason is Reason.STALE_INCARNATION)):
                self._fail(error or RequestError(Reason.SHUTTING_DOWN, f"{self.name} was closed"))
                return
            _log.warning("lost its slot", participant=self._setup.name, slot=self.name, why=error.message)
            await asyncio.sleep(CLAIM_AGAIN.delay_seconds(attempt, self._setup.name))
            attempt += 1
            try:
                self._own = await self._claim()
                return
            except TrothError as again:
                error = again

    def _fail(self, error: TrothError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
        if self._setup.on_failure is not None:
            result = called(self._setup.on_failure, error)
            if type(result) is Raised:
                _log.error("on_failure failed", participant=self._setup.name, exc_info=result.error)

    async def _visit(self, slot: str) -> None:
        """Own a slot until nothing is unfinished there."""
        try:
            runtime = await self._started(slot)
        except LogLocked:
            return  # somebody was faster
        except TrothError as error:
            _log.warning("cannot look after a slot", slot=slot, why=error.message, hint=error.hint)
            return
        try:
            quiet = 0
            while quiet < QUIET_LOOKS and not runtime.ended.done() and not is_cancelling():
                await asyncio.wait((runtime.ended,), timeout=0.25)
                quiet = quiet + 1 if runtime.connected.is_set() and not runtime.health.unfinished else 0
        finally:
            await asyncio.shield(runtime.stop())


def check_slotted(resource: Any) -> None:
    """Raise `ConfigError` for a resource that one process must have to itself."""
    if not hasattr(resource, "slot"):
        raise ConfigError(
            f"{type(resource).__name__} keeps its own log, and belongs to one process",
            hint="log= is for Postgres and LogResource; leave it out.",
        )


def checked_log(log: SlotLogs | None, data_directory: str | Path, resource: Any) -> SlotLogs | None:
    """Where the log is to be. Raises `ConfigError` when it is nowhere, or in two places."""
    if (log is None) == (not str(data_directory)):
        hint = "A directory of its own, or PostgresLog(dsn) for several processes."
        raise ConfigError("a participant needs either data_directory or log", hint=hint)
    if log is not None:
        check_slotted(resource)
    return log
