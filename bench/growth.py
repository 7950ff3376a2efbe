"""Growth: what happens when there is much of everything. `scripts/bench --growth`"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import crafted, stages
from bench.cluster import Cluster
from bench.measure import Once, Span, measure
from bench.processes import memory_kib
from participant_sdk.client import Aborted, call

POLL_SECONDS = 0.02
OPEN_MAX = 1_000
"""How many transactions the coordinator takes at a time when it is overloaded; with the rate it bounds what the last one waits."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    transactions: int = 1_000_000
    slices: int = 10
    undelivered: int = 100_000
    open_transactions: int = 10_000
    participants: int = 200
    seconds: float = 5.0


QUICK = Sizes(transactions=40_000, slices=4, undelivered=10_000, open_transactions=2_000, participants=40, seconds=2.0)


@dataclass(slots=True)
class Growth:
    """One run and its figures."""

    directory: Path
    sizes: Sizes
    say: Callable[[str], None]
    figures: dict[str, float] = field(default_factory=dict)

    def tell(self, name: str, value: float, unit: str = "") -> None:
        """Keep a figure and say it."""
        self.figures[name] = value
        self.say(f"{name:44} {value:14,.2f} {unit}")


async def run(growth: Growth) -> None:
    """Everything, one after the other."""
    await restart(growth)
    await many_open(growth)
    await stopped_participant(growth)
    await overload(growth)
    await long_log(growth)


# ---- a crash that left much behind


async def restart(growth: Growth) -> None:
    """A coordinator with undelivered decisions, and two participants that are in doubt about half of them each."""
    count = growth.sizes.undelivered
    directory = growth.directory / "restart"
    branches: dict[str, list[tuple[str, int]]] = {"left": [], "right": []}
    owed: list[tuple[str, int, int]] = []
    for number, name in enumerate(crafted.names(count)):
        owner, order = number % 2, number // 2 + 1
        branches[("left", "right")[owner]].append((name, order))
        owed.append((name, owner, order))
    log_ids = {}
    for name, owned in branches.items():
        log_ids[name] = await crafted.participant_log(directory / name / name / "participant.db", name, owned)
    await crafted.coordinator_log(directory / "coordinator" / "coordinator.db", log_ids, owed)
    cluster = Cluster(directory, stages.PAIR, before_participants=lambda seconds: _served(growth, count, seconds))
    began = time.perf_counter()
    async with cluster:
        growth.tell(f"{count // 2} in doubt: both participants back after", max(cluster.ready_seconds), "s")
        while (await cluster.status())["committed"] < count:
            if time.perf_counter() - began > 120:
                raise TimeoutError("the decisions were not delivered in two minutes")
            await asyncio.sleep(POLL_SECONDS)
        growth.tell(f"{count} decisions delivered after", time.perf_counter() - began, "s from the coordinator's start")


def _served(growth: Growth, count: int, seconds: float) -> None:
    growth.tell(f"{count} undelivered: coordinator serves after", seconds, "s")


# ---- much at the same time


async def many_open(growth: Growth) -> None:
    """Many participants, and many transactions whose operations wait: the memory of an open transaction."""
    sizes = growth.sizes
    groups = [[f"p{number:03d}" for number in range(start, sizes.participants, 4)] for start in range(4)]
    names = [name for group in groups for name in group]
    chance = random.Random(1)
    async with Cluster(growth.directory / "open", groups) as cluster:
        growth.tell("participants connected", (await cluster.status())["participant_streams_open"])
        pid = cluster.coordinator.pid
        before = memory_kib(pid, "VmRSS")

        async def one() -> None:
            first, second = chance.sample(names, 2)
            await cluster.client.run(call(first, "wait"), call(second, "wait"), timeout=60.0)

        tasks = [asyncio.create_task(one()) for _ in range(sizes.open_transactions)]
        while (await cluster.status())["undecided"] < sizes.open_transactions:  # noqa: ASYNC110 - another process's counter
            await asyncio.sleep(POLL_SECONDS)
        taken = (memory_kib(pid, "VmRSS") - before) / sizes.open_transactions
        growth.tell("coordinator, memory of an open transaction", taken, "KiB (resident, two participants)")
        await cluster.release()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        growth.tell("of these, errors", sum(isinstance(one, BaseException) for one in results), f"of {len(tasks)}")


async def stopped_participant(growth: Growth) -> None:
    """One participant is stopped while transactions wait for it; two others go on."""
    groups = [["left"], ["right"], ["stopped"]]
    span = Span(1.0, growth.sizes.seconds)
    async with Cluster(growth.directory / "stopped", groups) as cluster:
        pids = {"load": os.getpid(), **cluster.pids}
        once = stages.one_shot(cluster.client, ["left", "right"])
        before = await measure("before", 64, once, span, pids)
        memory = memory_kib(cluster.coordinator.pid, "VmRSS")
        stopped = cluster.participants[2]
        stopped.signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(_doomed(cluster)) for _ in range(2000)]
        after = await measure("after", 64, once, span, pids)
        growth.tell("rate of the others with one stopped", after.rate / before.rate, "of the rate before")
        growth.tell("p99 of the others with one stopped", after.p99_ms / before.p99_ms, "of the p99 before")
        grown = memory_kib(cluster.coordinator.pid, "VmRSS") - memory
        growth.tell("coordinator grew meanwhile by", grown / 1024, "MiB (2,000 transactions wait for the stopped one)")
        stopped.signal(signal.SIGCONT)
        await asyncio.gather(*waiting)


async def _doomed(cluster: Cluster) -> None:
    calls = [call(name, "note", account=1, amount=1) for name in ("left", "stopped")]
    with contextlib.suppress(Aborted):  # as wanted: nobody waits for it longer than the timeout
        await cluster.client.run(*calls, timeout=10.0)


# ---- overload


async def overload(growth: Growth) -> None:
    """Twice as much as it can do arrives, whether or not it keeps up; then it is let go.

    Each transaction has eight participants: with two the crowd, which lives on the same cores, would cost as much as the daemon.
    """
    names = [f"p{number}" for number in range(8)]
    settings = (f"open_transactions_max={OPEN_MAX}",)
    async with Cluster(growth.directory / "overload", [names[:4], names[4:]], settings=settings) as cluster:
        pids = {"load": os.getpid(), **cluster.pids}
        once = stages.one_shot(cluster.client, names)
        peak = await measure("peak", 256, once, Span(1.0, growth.sizes.seconds), pids)
        growth.tell("overload: peak rate of 256 callers, eight participants", peak.rate, "/s")
        # Callers who wait for each other come in step and batch better than a crowd does: what is kept is told of either.
        fitting, crowd = Crowd(cluster, names), Crowd(cluster, names)
        await fitting.run(peak.rate, growth.sizes.seconds)
        await crowd.run(2 * peak.rate, growth.sizes.seconds)
        growth.tell("overload: useful rate when as much arrives as that", fitting.rate(), "/s")
        growth.tell("overload: useful rate when twice as much arrives", crowd.rate(), "/s")
        growth.tell("overload: kept of the crowd's own peak", crowd.rate() / fitting.rate())
        growth.tell("overload: kept of the peak of callers in step", crowd.rate() / peak.rate)
        growth.tell("overload: shed", crowd.shed / max(1, crowd.shed + len(crowd.latencies)), "of what arrived")
        growth.tell("overload: p99 of what was accepted", crowd.p99_ms(), "ms")
        growth.tell("overload: other errors", crowd.errors)
        calm = await measure("after", 64, once, Span(0.2, 1.0), pids)
        growth.tell("overload: p99 right afterwards, 64 callers", calm.p99_ms, "ms")


class Crowd:
    """Callers who come at a rate of their own: an open loop."""

    def __init__(self, cluster: Cluster, names: list[str]) -> None:
        self._cluster = cluster
        self._names = names
        self._seconds = 0.0
        self.latencies: list[float] = []
        self.shed = self.errors = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Let them come for so long, and wait for the last."""
        clock = time.perf_counter
        began = clock()
        arrived = 0
        tasks: set[asyncio.Task[None]] = set()
        while (passed := clock() - began) < seconds:
            for _ in range(int(passed * rate) - arrived):
                arrived += 1
                task = asyncio.create_task(self._one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        self._seconds = clock() - began

    async def _one(self) -> None:
        began = time.perf_counter()
        calls = [call(name, "note", account=1, amount=2) for name in self._names]
        try:
            await self._cluster.client.run(*calls, timeout=30.0)
            self.latencies.append(time.perf_counter() - began)
        except Aborted as aborted:
            if aborted.reason.name == "OVERLOADED":
                self.shed += 1
            else:
                self.errors += 1

    def rate(self) -> float:
        """Committed transactions a second."""
        return len(self.latencies) / self._seconds

    def p99_ms(self) -> float:
        """Of what was committed."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else float("nan")


# ---- a long log


async def long_log(growth: Growth) -> None:
    """Many transactions in one log: rate, p99, memory and disk over time."""
    sizes = growth.sizes
    directory = growth.directory / "long"
    async with Cluster(directory, stages.PAIR) as cluster:
        each = sizes.transactions // sizes.slices
        once = stages.one_shot(cluster.client, ["left", "right"])
        for number in range(sizes.slices):
            rate, p99 = await _slice(once, each)
            done = (number + 1) * each
            growth.tell(f"after {done}: rate", rate, "/s")
            growth.tell(f"after {done}: p99", p99, "ms")
            growth.tell(f"after {done}: files of the coordinator", _mebibytes(directory / "coordinator"), "MiB")
            growth.tell(f"after {done}: memory of the coordinator", memory_kib(cluster.coordinator.pid, "VmRSS") / 1024, "MiB")


async def _slice(once: Once, count: int) -> tuple[float, float]:
    """Run so many transactions with 128 callers; returns rate and p99 in milliseconds."""
    latencies: list[float] = []
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            began = time.perf_counter()
            await once()
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(128)))
    seconds = time.perf_counter() - began
    latencies.sort()
    return count / seconds, latencies[int(len(latencies) * 0.99)] * 1000


def _mebibytes(directory: Path) -> float:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) / 1024 / 1024
