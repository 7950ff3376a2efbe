"""The stage: Troth's one-shot and interactive transactions and each peer, by turns, at 1, 16 and 128 callers.

Each peer has processes, services and callers of its own, in the language and by the library that its users have. It stands only
while it is measured, since an idle one takes of the two cores as well: Seata's clients look a thousand times a second for something
to send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cluster import Cluster
from bench.measure import Once, Result, Span, measure
from bench.peers import redis_store, seata
from bench.peers.table import CALLERS, INTERACTIVE, ONE_SHOT, Peer, key
from bench.processes import ProcessFailed

if TYPE_CHECKING:
    from bench.stages import Bench

TURNS = 3
SYNCS_SPAN = Span(0.2, 1.0)
Take = Callable[[str, int], Awaitable[Result]]
"""Measures so many callers under a name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is up and can be measured."""

    takes: dict[str, Take]
    look: Callable[[], Awaitable[str]]
    """Looks at how durable it is, and says what was seen. Raises `ProcessFailed` where it is not."""


async def peers(bench: Bench) -> None:
    """Everything by turns, forwards and backwards; how durable each is, is looked at when it has been measured."""
    stands: list[Callable[[Path], AbstractAsyncContextManager[Standing]]] = [partial(_troth, bench)]
    missing: list[Peer] = []
    jars, redis = seata.jars(), redis_store.programs()
    if isinstance(jars, str):
        missing.append(Peer("seata", seen=jars))
    else:
        classes = await seata.compiled(bench.directory / "classes", jars)
        stands += [partial(_seata, bench, jars, classes, synced) for synced in (False, True)]
        if redis is None:
            missing.append(Peer("seata on redis", seen="Redis could not be fetched; see above"))
        else:
            stands.append(partial(_seata_on_redis, bench, jars, classes, redis))
    seen: dict[str, str] = {}
    for turn in range(TURNS):
        for number, stand in list(enumerate(stands))[:: 1 if turn % 2 == 0 else -1]:
            async with stand(bench.directory / f"turn{turn}-{number}") as standing:
                for callers in CALLERS:
                    for name, take in standing.takes.items():
                        bench.add(await take(key(name, callers, turn), callers))
                seen |= dict.fromkeys(standing.takes, await standing.look())
    bench.peers.extend(Peer(name, TURNS, told) for name, told in seen.items())
    bench.peers.extend(missing)


@asynccontextmanager
async def _troth(bench: Bench, directory: Path) -> AsyncIterator[Standing]:
    from bench.stages import PAIR, interactive, one_shot

    async with Cluster(directory, PAIR) as cluster:
        pids = {**bench.pids, **cluster.pids}
        once = one_shot(cluster.client, [name for group in PAIR for name in group])

        def take(once: Once) -> Take:
            return lambda name, callers: measure(name, callers, once, bench.span, pids, cluster.counts)

        async def look() -> str:
            lone = await measure("look", 1, once, SYNCS_SPAN, pids, cluster.counts)
            if lone.counts["syncs"] < 1:
                raise ProcessFailed(f"Troth does not sync what it answers for: {lone.counts}")
            return f"syncs a transaction of one caller: {lone.counts['syncs']:.1f} in all"

        yield Standing({ONE_SHOT: take(once), INTERACTIVE: take(interactive(cluster))}, look)


@asynccontextmanager
async def _seata(bench: Bench, jars: Path, classes: Path, synced: bool, directory: Path) -> AsyncIterator[Standing]:
    store = _modes("file") | {"seata.store.file.dir": str(directory / "store"), "seata.store.file.flush-disk-mode": "sync"}
    async with seata.Seata(directory, jars, classes, store, synced=synced) as one:

        async def look() -> str:
            counted = await one.syncs(SYNCS_SPAN)
            if any(counted[name] < 1 for name in (counted if synced else ["server"])):
                raise ProcessFailed(f"Seata does not sync what it answers for: {counted}")
            told = ", ".join(f"{name} {value:.1f}" for name, value in counted.items())
            return f"syncs a transaction of one caller: {told}; warmed by {one.warmed:,}"

        name = "seata, services sync" if synced else "seata"
        yield Standing({name: lambda told, callers: one.run(told, callers, bench.span)}, look)


@asynccontextmanager
async def _seata_on_redis(bench: Bench, jars: Path, classes: Path, redis: Path, directory: Path) -> AsyncIterator[Standing]:
    async with AsyncExitStack() as stack:
        server = redis_store.RedisStore(directory / "redis", redis)
        stack.push_async_callback(server.stop)
        await server.start()
        place = {"mode": "single", "single.host": "127.0.0.1", "single.port": str(server.port)}
        place |= {"max-conn": "200", "max-total": "200"}  # more than there are callers: nobody waits for a connection
        store = _modes("redis") | {f"seata.store.redis.{name}": value for name, value in place.items()}
        one = await stack.enter_async_context(seata.Seata(directory, jars, classes, store, synced=False))
        others = {server.name: server.pid}

        async def look() -> str:
            return f"{await server.seen()}; warmed by {one.warmed:,}"

        yield Standing({"seata on redis": lambda told, callers: one.run(told, callers, bench.span, others)}, look)


def _modes(mode: str) -> dict[str, str]:
    return {f"seata.store.{part}mode": mode for part in ("", "session.", "lock.")}
