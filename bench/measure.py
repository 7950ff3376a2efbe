"""One measurement: so many callers in a closed loop for so long, and what it cost every process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from bench.processes import cpu_seconds, memory_kib

Once = Callable[[], Awaitable[bool]]
"""One transaction or call; whether it did what was wanted (an abort that was asked for is wanted)."""
Count = Callable[[], Awaitable[Mapping[str, int]]]
"""Counters of messages, forced records and syncs of everybody together."""


@dataclass(slots=True)
class Result:
    """What was measured. Latencies in milliseconds, CPU in microseconds a transaction."""

    name: str
    callers: int
    done: int
    other: int
    """Transactions that ended in another way than wanted."""
    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    """Messages, forced records and syncs a transaction."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Peak resident memory of each process up to here."""


@dataclass(frozen=True, slots=True)
class Span:
    """How long to run before, and while, measuring."""

    warm_seconds: float
    seconds: float


async def no_counts() -> Mapping[str, int]:
    """For what has no counters."""
    return {}


class _Callers:
    """The closed loop: each caller begins its next transaction when the last one is over."""

    def __init__(self, once: Once) -> None:
        self._once = once
        self.latencies: list[float] = []
        self.other = 0
        self._ending = False

    async def call(self) -> None:
        clock = time.perf_counter
        while not self._ending:
            began = clock()
            wanted = await self._once()
            self.latencies.append(clock() - began)
            if not wanted:
                self.other += 1

    def end(self) -> None:
        self._ending = True


async def measure(name: str, callers: int, once: Once, span: Span, pids: Mapping[str, int], count: Count = no_counts) -> Result:
    """Run `callers` callers and measure between two moments of full load."""
    loop = _Callers(once)
    tasks = [asyncio.create_task(loop.call()) for _ in range(callers)]
    try:
        await _unless_failed(tasks, span.warm_seconds)
        counts = dict(await count())
        cpu = {one: cpu_seconds(pid) for one, pid in pids.items()}
        loop.latencies, loop.other = [], 0
        began = time.perf_counter()
        await _unless_failed(tasks, span.seconds)
        latencies, other = loop.latencies, loop.other
        seconds = time.perf_counter() - began
        cpu = {one: cpu_seconds(pid) - cpu[one] for one, pid in pids.items()}
        counted = {one: value - counts.get(one, 0) for one, value in (await count()).items()}
    finally:
        loop.end()
        await asyncio.gather(*tasks, return_exceptions=True)
    return _result(name, callers, latencies[:], other, seconds, cpu, counted, pids)


async def _unless_failed(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


def _result(
    name: str, callers: int, latencies: list[float], other: int, seconds: float, cpu: Mapping[str, float],
    counted: Mapping[str, int], pids: Mapping[str, int],
) -> Result:  # fmt: skip
    latencies.sort()
    done = max(1, len(latencies))

    def at(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 if latencies else float("nan")

    return Result(
        name, callers, len(latencies), other, len(latencies) / seconds, at(0.5), at(0.99), at(0.999),
        cpu_us={one: value / done * 1e6 for one, value in cpu.items()},
        counts={one: value / done for one, value in counted.items()},
        memory_mib={one: memory_kib(pid) / 1024 for one, pid in pids.items()},
    )  # fmt: skip
