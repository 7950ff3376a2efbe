"""The logs of a service's slots, in its own database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from participant_sdk.session import ROLE
from participant_sdk.slots import Slot
from troth.log import owned
from troth.log.contract import Log


class DatabaseLogs(ABC):
    """Where a participant keeps its log: `Participant("payments", log=PostgresLog(dsn), ...)`, in as many processes as you like.

    `dsn`            of the database, made ready by `troth store init --participant`
    `lease_seconds`  how long a process may say nothing before another takes its slot; one that was killed is replaced at once
    `slots_max`      the most processes of one service at the same time
    """

    def __init__(self, dsn: str, *, lease_seconds: float = owned.LEASE_SECONDS, slots_max: int = 64) -> None:
        self._dsn = dsn
        self._lease_seconds = lease_seconds
        self._leases: Any = None
        self._checked = False
        self._opened: dict[tuple[str, str], owned.OwnedLog] = {}
        """The last log of each role and name that this process had: it knows how far that was."""
        self._hurried = False
        self.slots_max = slots_max

    # ---- what each server does in its own words

    @abstractmethod
    def _new_leases(self) -> Any:
        """What renews the leases of this process."""

    @abstractmethod
    async def _check(self, connection: Any) -> None:
        """Refuse a database without a store, or with one of another version."""

    @abstractmethod
    async def _listed(self, connection: Any, role: str, prefix: str) -> Sequence[tuple[str, bool, bool]]:
        """Each log of a role whose name begins so: its name, whether it is taken and not given back, and if it is had still."""

    @abstractmethod
    async def _make(self, connection: Any, role: str, name: str) -> None:
        """Make a log, if it is not there."""

    @abstractmethod
    def _new_log(self, role: str, name: str, acknowledged: int) -> owned.OwnedLog:
        """A log of which this process knows how far it was."""

    # ----

    def log(self, slot: str) -> Log:
        """See `SlotLogs`."""
        return self.named(ROLE, slot)

    def named(self, role: str, name: str) -> Log:
        """Any log of the store, not opened; see `participant_sdk.embedded`."""
        known = self._opened[role, name].acknowledged if (role, name) in self._opened else 0
        self._opened[role, name] = log = self._new_log(role, name, known)
        if self._hurried:
            log.hurry()
        return log

    async def make_named(self, role: str, name: str) -> None:
        """Make it, if it is not there."""
        async with self.leases.connected("made", f"the log {name}") as connection:
            await self._check(connection)
            await self._make(connection, role, name)

    @property
    def leases(self) -> Any:
        """Renews those of all slots of this process, and has the connection on which it looks at the others."""
        if self._leases is None:
            self._leases = self._new_leases()
            if self._hurried:
                self._leases.hurry()
        return self._leases

    async def listed(self, role: str, prefix: str) -> Sequence[Slot]:
        """The logs of a role whose names begin so."""
        async with self.leases.connected("read", f"the logs of {prefix}") as connection:
            if not self._checked:
                await self._check(connection)
                self._checked = True
            listed = await self._listed(connection, role, prefix)
            return [Slot(name, bool(owned), bool(taken) and not owned) for name, taken, owned in listed]

    async def slots(self, service: str) -> Sequence[Slot]:
        """See `SlotLogs`."""
        return await self.listed(ROLE, f"{service}/")

    def name(self, service: str, number: int) -> str:
        """See `SlotLogs`."""
        return f"{service}/{number}"

    async def make(self, slot: str) -> None:
        """See `SlotLogs`. Whoever makes the same one at the same time has made it."""
        await self.make_named(ROLE, slot)

    async def hurry(self) -> None:
        """See `SlotLogs`."""
        self._hurried = True
        for log in self._opened.values():
            log.hurry()
        await self.leases.rest()

    async def close(self) -> None:
        """See `SlotLogs`."""
        self._hurried = False
        leases, self._leases = self._leases, None
        if leases is not None:
            await leases.close()
