"""An `Embedded` in several processes: its own slots, and what a dead process has left in them.

A process has the slot of *one number of everything*: a coordinator's log, and of each participant the slot of that number. So a
coordinator and its participants always find each other in one process, over function calls: whoever owns the coordinator's log of a
number, and nobody else, goes for the participants' slots of that number.

What a dead process has left is finished by any other: it recovers that coordinator beside its own, and the participants' slots with
it, until nothing is unfinished there, and gives all of it back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from participant_sdk.embedded.coordinator import Gone, InProcessCoordinator
from participant_sdk.runtime import Runtime
from participant_sdk.slots import CLAIM_AGAIN, QUIET_LOOKS, Slot
from troth.errors import ConfigError, LogError, LogLocked, TrothError
from troth.ids import service_of
from troth.log.contract import Log
from troth.logs import get_logger
from troth.tasks import is_cancelling

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

ROLE = "coordinator"
NAME_OF_ITS_OWN = "Give each service's Embedded a name of its own."
LOOK_SECONDS = 0.25
"""Between two looks at what is unfinished in a slot that is visited."""

_log = get_logger("participant_sdk.embedded")


class OwnedLogs(Protocol):
    """A place in a database for logs (`participant_sdk.PostgresLog`). All raise `LogError`."""

    slots_max: int

    async def make_named(self, role: str, name: str) -> None:
        """Make a log, if it is not there."""

    async def listed(self, role: str, prefix: str) -> Sequence[Slot]:
        """The logs of a role whose names begin so."""

    def named(self, role: str, name: str) -> Log:
        """A log, not opened."""

    async def hurry(self) -> None:
        """See `SlotLogs`."""

    async def close(self) -> None:
        """Let go of what was opened, once all logs are closed."""


class CoordinatorLogs:
    """The logs of a service's coordinators as slots (`participant_sdk.slots.SlotLogs`). The first one has the name itself, the
    others have a number behind it: these are names of coordinators, and stand in the ids of transactions.

    Raises `ConfigError` for a name that looks like another one's slot.
    """

    def __init__(self, logs: OwnedLogs, service: str) -> None:
        if _NUMBERED.search(service):
            raise ConfigError(f"{service!r} looks like one of several processes of another service", hint="Leave the number out.")
        self._logs = logs
        self.slots_max = logs.slots_max

    def name(self, service: str, number: int) -> str:
        """See `SlotLogs`."""
        return f"{service}-{number}" if number else service

    @staticmethod
    def number(slot: str) -> int:
        """The number in such a name."""
        found = _NUMBERED.search(slot)
        return int(found[1]) if found else 0

    async def slots(self, service: str) -> Sequence[Slot]:
        """See `SlotLogs`."""
        listed = await self._logs.listed(ROLE, service)
        return [slot for slot in listed if self.name(service, self.number(slot.name)) == slot.name]

    async def make(self, slot: str) -> None:
        """See `SlotLogs`."""
        await self._logs.make_named(ROLE, slot)

    def log(self, slot: str) -> Log:
        """See `SlotLogs`."""
        return self._logs.named(ROLE, slot)

    async def hurry(self) -> None:
        """See `SlotLogs`."""
        await self._logs.hurry()

    async def close(self) -> None:
        """See `SlotLogs`."""
        await self._logs.close()


_NUMBERED = re.compile(r"-(0|[1-9][0-9]*)\Z")


def strangers(owing: set[str], participants: Sequence[Participant]) -> list[str]:
    """Whom a coordinator awaits that is none of these participants: it is another service's."""
    ours = {one.name for one in participants}
    return sorted(name for name in owing if service_of(name) not in ours)


class Visit:
    """One coordinator that this process has beside its own, with the participants' slots of its number."""

    def __init__(self, coordinator: InProcessCoordinator, number: int, participants: Sequence[Participant]) -> None:
        self._coordinator = coordinator
        self._number = number
        self._participants = participants
        self._runtimes: dict[str, Runtime] = {}

    async def finish(self) -> None:
        """Return when nothing is unfinished, or when it is none of ours. Raises `Gone` when its log fails."""
        attending = [asyncio.create_task(self._attend(participant)) for participant in self._participants]
        try:
            quiet = 0
            while quiet < QUIET_LOOKS and not is_cancelling():
                await asyncio.sleep(LOOK_SECONDS)
                owing = await self._coordinator.owing()
                if others := strangers(owing, self._participants):
                    what, name = "another service's coordinator has this name", self._coordinator.name
                    _log.warning(what, coordinator=name, participants=others, hint=NAME_OF_ITS_OWN)
                    return
                quiet = quiet + 1 if not owing and self._rests() else 0
        finally:
            for task in attending:
                task.cancel()
            await asyncio.gather(*attending, return_exceptions=True)

    def _rests(self) -> bool:
        found = self._runtimes.values()
        return len(found) == len(self._participants) and all(
            one.connected.is_set() and not one.ended.done() and not one.health.unfinished for one in found
        )

    async def _attend(self, participant: Participant) -> None:
        """Have its slot, also when its database is away for a while."""
        attempt = 0
        while not is_cancelling():
            try:
                runtime = await participant.of_number(self._number)
            except LogError as error:
                what = "cannot look after a slot"
                _log.warning(what, participant=participant.name, number=self._number, why=error.message, hint=error.hint)
            else:
                self._runtimes[participant.name] = runtime
                try:
                    await asyncio.shield(runtime.ended)
                finally:
                    del self._runtimes[participant.name]
                    await asyncio.shield(runtime.stop())
            await asyncio.sleep(CLAIM_AGAIN.delay_seconds(attempt, participant.name))
            attempt += 1


async def visited(
    slot: str, begin: Callable[[str], Awaitable[InProcessCoordinator]], participants: Sequence[Participant],
    end: Callable[[InProcessCoordinator], Awaitable[None]],
) -> None:
    """Own the coordinator of a slot that nobody has, until nothing is unfinished there."""
    try:
        coordinator = await begin(slot)
    except LogLocked:
        return  # somebody was faster
    except TrothError as error:
        _log.warning("cannot look after a coordinator", coordinator=slot, why=error.message, hint=error.hint)
        return
    try:
        with suppress(Gone):
            await Visit(coordinator, CoordinatorLogs.number(slot), participants).finish()
    finally:
        await asyncio.shield(end(coordinator))
