"""Kills processes at chosen moments, and starts them again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from processes import Cluster, Process


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: at the `nth` time that `process` comes to `failpoint`, counted from its start."""

    process: str
    failpoint: str
    nth: int
    moment: str
    """The moment in words."""

    @property
    def rule(self) -> str:
        """As the variable TROTH_FAILPOINTS wants it."""
        return f"{self.failpoint}=kill@{self.nth}"


def plan(orders: int) -> list[Kill]:
    """What is killed while so many orders are placed. A process's first kill is armed at its start, the next when it is
    started again; then it is left in peace."""

    def at(share: float) -> int:
        return max(1, int(orders * share))

    return [
        Kill("coordinator", "coordinator:after-sync:decided", at(0.08), "the decision was durable, no COMMIT was sent"),
        Kill("payments", "participant:after-send:votes", at(0.08), "it had voted YES and was in doubt"),
        Kill("inventory", "participant:after-apply:operation", at(0.90), "an operation had run, no PREPARED was durable"),
        Kill("coordinator", "coordinator:after-send:prepares", at(0.10), "PREPARE was sent, nothing was decided"),
    ]


@dataclass(slots=True)
class Death:
    """One process that was killed."""

    process: str
    moment: str
    back_seconds: float = 0.0
    """How long until it served again."""


@dataclass(slots=True)
class Chaos:
    """Watches a cluster; whoever is killed is started again. `tell` hears of each death when the process is back."""

    cluster: Cluster
    kills: Sequence[Kill]
    tell: Callable[[Death], None]
    deaths: list[Death] = field(default_factory=list)
    _armed: dict[str, Kill] = field(default_factory=dict)
    _all_at_once: set[str] = field(default_factory=set)
    _last_blow: bool = False
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    failed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Gets the error when a process ended as nobody ordered."""

    async def start(self) -> None:
        """Start the cluster with the first kill of each process armed."""
        rules = {name: self._arm(name) for name in ("coordinator", "orders", "inventory", "payments")}
        await self.cluster.start(rules)
        self._watchers = [asyncio.create_task(self._watch(each)) for each in self.cluster.processes.values()]

    def pending(self) -> list[Kill]:
        """The kills that have not come to pass."""
        past = {death.moment for death in self.deaths}
        return [kill for kill in self.kills if kill.moment not in past]

    def kill_everything(self) -> list[str]:
        """Kill all processes at once; they come back without failpoints. Returns their names."""
        self._last_blow = True
        killed = self.cluster.kill()
        self._all_at_once = set(killed)
        return killed

    async def stop(self) -> None:
        """Stop killing, and stop the cluster in order. Raises `ProcessFailed`."""
        await self._calm()
        await self.cluster.stop()

    async def abandon(self) -> None:
        """Stop everything at once."""
        await self._calm()
        self.cluster.kill()

    async def _calm(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def _arm(self, process: str) -> str:
        """The failpoints of the process's next start."""
        self._armed.pop(process, None)
        waiting = [kill for kill in self.pending() if kill.process == process]
        if not waiting or self._last_blow:
            return ""
        self._armed[process] = waiting[0]
        return waiting[0].rule

    async def _watch(self, process: Process) -> None:
        try:
            while True:
                status = await process.ended()
                if status != -signal.SIGKILL:
                    raise process.unexpected_end(status)
                await self._bring_back(process)
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _bring_back(self, process: Process) -> None:
        began = time.monotonic()
        death = Death(process.name, self._moment(process.name))
        self.deaths.append(death)
        if await process.start(self._arm(process.name)):
            death.back_seconds = time.monotonic() - began
        self.tell(death)

    def _moment(self, process: str) -> str:
        if process in self._all_at_once:
            self._all_at_once.discard(process)
            return "everything was killed at once"
        return self._armed[process].moment if process in self._armed else "nobody knows why"
