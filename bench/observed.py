"""What it costs to be looked at: metrics that are scraped, traces of which one in a hundred is sampled, history and an open
console, against none of it, in the same run. Each of them alone, too.

What is compared is CPU, and not rates: those of one run differ by more than what is looked for.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from bench.measure import Result, measure
from bench.processes import ROOT, Process
from bench.service import provide_traces

if TYPE_CHECKING:
    from bench.cluster import Cluster
    from bench.stages import Bench

ROUNDS = 7
"""All are measured in turns, since the machine is not always equally fast."""
CALLERS = 128
SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
METRICS, TRACING, CONSOLE = ("metrics_listen=127.0.0.1:0",), ("tracing=true",), ("console_listen=127.0.0.1:0",)
NO_HISTORY = ("history_seconds=0",)
KINDS: dict[str, tuple[str, ...]] = {
    "unobserved": NO_HISTORY, "metrics": (*METRICS, *NO_HISTORY), "traced": (*TRACING, *NO_HISTORY), "history": (),
    "console": (*CONSOLE, *NO_HISTORY), "observed": (*METRICS, *TRACING, *CONSOLE),
}  # fmt: skip
"""The settings of each."""
LOOKED_AT = tuple(kind for kind in KINDS if kind != "unobserved")
"""Those that are compared with that one."""


def share(results: dict[str, Result], kind: str) -> float:
    """CPU of a transaction of the unobserved to that of a kind: the median of the rounds; nan where that was not measured."""
    turns = [(results.get(f"unobserved {turn}"), results.get(f"{kind} {turn}")) for turn in range(ROUNDS)]
    found = [sum(bare.cpu_us.values()) / sum(one.cpu_us.values()) for bare, one in turns if bare is not None and one is not None]
    return statistics.median(found) if found else float("nan")


async def observed(bench: Bench) -> None:
    """One-shot transactions over two log-only participants."""
    from bench.cluster import Cluster
    from bench.stages import PAIR, one_shot
    from troth import tracing

    names = [name for group in PAIR for name in group]
    async with AsyncExitStack() as stack:
        directory = bench.directory / "backend"
        backend = Process("backend", directory, ["-m", "bench.onlooker", "--directory", str(directory)])
        stack.push_async_callback(backend.stop)
        await backend.start()
        told = {**SAMPLED, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{backend.address}"}
        stack.enter_context(_environment(told))
        clusters = {}
        for kind, settings in KINDS.items():
            cluster = Cluster(bench.directory / kind, PAIR, settings=settings, traced=TRACING[0] in settings)
            clusters[kind] = await stack.enter_async_context(cluster)
        stack.push_async_callback(asyncio.to_thread, provide_traces().shutdown)
        for turn in range(ROUNDS):
            for kind in list(KINDS) if turn % 2 == 0 else reversed(KINDS):
                cluster = clusters[kind]
                pids, once = {**bench.pids, **cluster.pids}, one_shot(cluster.client, names)
                (tracing.enable if TRACING[0] in KINDS[kind] else tracing.disable)()
                async with _looked_at(cluster):
                    bench.add(await measure(f"{kind} {turn}", CALLERS, once, bench.span, pids, cluster.counts))
        tracing.disable()


@contextmanager
def _environment(told: dict[str, str]) -> Iterator[None]:
    """Tell processes that are started inside where spans go."""
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@asynccontextmanager
async def _looked_at(cluster: Cluster) -> AsyncIterator[None]:
    """Somebody reads the metrics and has the console open while it is measured, in a process that is not counted."""
    said = cluster.coordinator.said()
    served = re.findall(r'"(?:metrics are|the console is) served".*?(http://[\d.:]+/(?:metrics)?)', said)
    if not served:
        yield
        return
    onlooker = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.onlooker", "--look", *served, cwd=ROOT)
    try:
        yield
    finally:
        onlooker.kill()  # raises where it has ended by itself: then nobody has looked
        await onlooker.wait()
