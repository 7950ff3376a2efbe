"""Faults at random moments: kills, stops and partitions of a cluster of banks. Whatever was killed is started again."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bank_cluster import BANKS, CLIENTS, COORDINATOR, PAST_EVERY_TIMEOUT_SECONDS, BankCluster
from points import GROUPS
from processes import Process

from participant_sdk.testing.proxy import BOTH, DOWN, UP, FaultProxy

PAUSE_SECONDS = (0.1, 1.2)
PARTITION_SECONDS = (0.3, 3.0)
FAULTS_AT_ONCE = 2
PARTITIONS: dict[str, Callable[[FaultProxy], None]] = {
    "cut": lambda proxy: proxy.cut(BOTH),
    "cut up": lambda proxy: proxy.cut(UP),
    "cut down": lambda proxy: proxy.cut(DOWN),
    "drop": lambda proxy: proxy.drop(BOTH),
    "drop down": lambda proxy: proxy.drop(DOWN),
    "half-open up": lambda proxy: proxy.half_open(UP),
    "half-open down": lambda proxy: proxy.half_open(DOWN),
    "reset": lambda proxy: proxy.reset(),
    "refuse": lambda proxy: proxy.refuse(),
    "delay": lambda proxy: proxy.delay(0.2, jitter=0.3),
    "throttle": lambda proxy: proxy.throttle(20_000),
}
POINTS = {
    role: [point for group in GROUPS.values() for point in group if point.startswith(f"{role}:")]
    for role in ("coordinator", "participant")
}


@dataclass
class Monkey:
    """Makes faults until it is told to stop."""

    cluster: BankCluster
    seed: int
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    failed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Gets the error when a process ended as nobody ordered."""
    _watchers: list[asyncio.Task[None]] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    _calm: bool = False
    _at_peace: set[str] = field(default_factory=set)
    """Processes that were started without a failpoint since everything is calm."""

    def watch(self) -> None:
        """Start again whatever is killed, from now on."""
        self._chance = random.Random(self.seed)
        self._watchers = [asyncio.create_task(self._watch(process)) for process in self.cluster.processes.values()]

    async def rage(self) -> None:
        """Make faults until cancelled."""
        try:
            async with asyncio.TaskGroup() as faults:
                while True:
                    await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
                    if len(self._busy) < FAULTS_AT_ONCE:
                        faults.create_task(self._fault())
        finally:
            self._heal()

    async def peace(self) -> None:
        """Let everything run again, with no faults any more."""
        self._calm = True
        self._heal()
        # A process may still have a failpoint armed, and would be killed when it stops.
        for process in self.cluster.processes.values():
            process.kill()
        for process in self.cluster.processes.values():
            async with asyncio.timeout(60):
                while process.name not in self._at_peace:
                    await asyncio.sleep(0.05)
                    self._raise_failure()

    async def stop(self) -> None:
        """Watch no longer."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failed.done():
            self.failed.result()

    def _heal(self) -> None:
        for proxy in self.cluster.proxies.values():
            proxy.heal()
        for process in self.cluster.processes.values():
            process.signal(signal.SIGCONT)

    # ---- faults

    async def _fault(self) -> None:
        what = self._chance.choices((self._kill, self._kill_all, self._stop, self._partition), (5, 1, 2, 5))[0]
        await what()

    async def _kill(self) -> None:
        process = self._chance.choice(list(self.cluster.processes.values()))
        self.say(f"kill {process.name}")
        process.kill()

    async def _kill_all(self) -> None:
        self.say("kill everything")
        for process in self.cluster.processes.values():
            process.kill()

    async def _stop(self) -> None:
        name = self._chance.choice((COORDINATOR, *BANKS))
        process = self.cluster.processes[name]
        await self._during(f"stop {name}", lambda: process.signal(signal.SIGSTOP), PAST_EVERY_TIMEOUT_SECONDS)
        process.signal(signal.SIGCONT)
        self.counts["stops"] += 1

    async def _partition(self) -> None:
        name = self._chance.choice((*BANKS, CLIENTS))
        if f"proxy {name}" in self._busy:
            return
        kind, cut = self._chance.choice(sorted(PARTITIONS.items(), key=lambda item: item[0]))
        proxy = self.cluster.proxies[name]
        self._busy.add(f"proxy {name}")
        try:
            await self._during(f"{kind} {name}", lambda: cut(proxy), self._chance.uniform(*PARTITION_SECONDS))
        finally:
            proxy.heal()
            self._busy.discard(f"proxy {name}")
        self.counts["partitions"] += 1

    async def _during(self, what: str, begin: Callable[[], None], seconds: float) -> None:
        self.say(f"{what} for {seconds:.1f} s")
        self._busy.add(what)
        try:
            begin()
            await asyncio.sleep(seconds)
        finally:
            self._busy.discard(what)

    # ---- coming back

    async def _watch(self, process: Process) -> None:
        try:
            while True:
                status = await process.ended()
                if status != -signal.SIGKILL:
                    raise process.unexpected_end(status)
                self.counts["kills"] += 1
                if not self._calm:
                    await asyncio.sleep(self._chance.choice((0.0, 0.0, 0.3, 1.0)))
                await self._start(process)
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _start(self, process: Process) -> None:
        """Start it; every now and then with a crash point armed, which may be one of its recovery."""
        calm = self._calm
        if await process.start(self._armed(process)) and calm:
            self._at_peace.add(process.name)
        # When it was killed before it was ready, its watcher sees that.

    def _armed(self, process: Process) -> str:
        if self._calm or self._chance.random() < 0.6:
            return ""
        points = POINTS["coordinator" if process.name == COORDINATOR else "participant"]
        point = f"{self._chance.choice(points)}=kill@{self._chance.choice((1, 1, 2, 5, 20))}"
        self.say(f"{process.name} comes back with {point}")
        return point
