"""One hot key: 64 callers whose transactions all want it at two participants, against one caller alone, in the same run.

Two figures. *Useful rate*: how many commit in a second, to how many of one caller do, one after the other. *Fairness*: the
completions of the luckiest caller to those of the median one; nobody starves where that is near 1. Completions are counted from
the first one on, warming up included.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from typing import TYPE_CHECKING

from bench.cluster import Cluster
from bench.measure import Once, Result, measure
from participant_sdk.client import Aborted, call
from participant_sdk.client.client import Call

if TYPE_CHECKING:
    from bench.stages import Bench

CALLERS = 64
PAIR = [["left"], ["right"]]


def useful(result: Result) -> float:
    """Commits a second."""
    return result.rate * (1 - result.other / max(1, result.done))


async def hot(bench: Bench) -> None:
    """With participants that only log, and with real transfers between two accounts in SQLite."""
    for name, resource, calls in (
        ("hot", "log", [call(one, "contend", key=1) for one in ("left", "right")]),
        ("hot sqlite", "sqlite", [call("left", "move", account=1, amount=-1), call("right", "move", account=1, amount=1)]),
    ):
        async with Cluster(bench.directory / name.replace(" ", "-"), PAIR, resource) as cluster:
            pids = {**bench.pids, **cluster.pids}
            for callers in (1, CALLERS):
                done: Counter[str] = Counter()
                once = _counted(cluster, calls, done)
                bench.add(await measure(f"{name} {callers}", callers, once, bench.span, pids, cluster.counts))
            most, median = max(done.values()), statistics.median(done.values())
            bench.fairness[name] = most / median if len(done) == CALLERS and median else float("inf")


def _counted(cluster: Cluster, calls: list[Call], done: Counter[str]) -> Once:
    async def once() -> bool:
        task = asyncio.current_task()
        assert task is not None
        try:
            await cluster.client.run(*calls, timeout=30.0)
        except Aborted:
            return False
        done[task.get_name()] += 1
        return True

    return once
