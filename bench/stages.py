"""What is measured, in order; each stage adds results under fixed names, which `report` and the last line read."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench import abuse, cell, closed, databases, floor, hot, observed
from bench.cluster import Cluster
from bench.echo import echo as answer
from bench.measure import Once, Result, Span, measure
from bench.participant import ACCOUNTS
from bench.peers import stage as peers
from bench.peers.table import Peer
from bench.processes import Process
from bench.service import SERVICE, method
from participant_sdk.client import Aborted, Client, call

ECHO_CALLERS = 256
CALLERS = (1, 16, 128, 1024)
WIDTHS = (1, 2, 4, 8, 16, 32, 64)
WIDE_CALLERS = 32
HOT_KEYS = 64
PAIR = [["left"], ["right"]]


@dataclass(slots=True)
class Bench:
    """One run: where its files are, how long each measurement takes, and what came out."""

    directory: Path
    span: Span
    say: Callable[[str], None]
    told: Callable[[Result], None]
    results: dict[str, Result] = field(default_factory=dict)
    echoes: list[float] = field(default_factory=list)
    fairness: dict[str, float] = field(default_factory=dict)
    """Of each stage with a hot key: completions of the luckiest caller to those of the median one."""
    takeovers: list[float] = field(default_factory=list)
    """Seconds from the kill of a node to the next commit on a shard of its."""
    abuses: list[abuse.Abuse] = field(default_factory=list)
    """What each kind of abuser has done to others."""
    peers: list[Peer] = field(default_factory=list)
    """What was measured beside Troth, and what could not be."""

    def add(self, result: Result) -> None:
        """Keep a result, and tell it."""
        self.results[result.name] = result
        self.told(result)

    @property
    def pids(self) -> dict[str, int]:
        """The load generator itself."""
        return {"load": os.getpid()}


async def echo(bench: Bench) -> None:
    """A bare call. Run several times in between: the machine is not always equally fast."""
    one = Process("echo", bench.directory / "echo", ["-m", "bench.echo", "--directory", str(bench.directory / "echo")])
    await one.start()
    try:
        async with grpc.aio.insecure_channel(one.address) as channel:
            send = method(channel, "Echo")

            async def once() -> bool:
                return bool(await send(b"x" * 64) is not None)

            pids = {"echo": one.pid, **bench.pids}
            many = await measure("echo", ECHO_CALLERS, once, bench.span, pids)
            bench.echoes.append(many.rate)
            bench.add(many)
            bench.add(await measure("echo c1", 1, once, bench.span, pids))
    finally:
        await one.stop()


async def echo_in_one_process(bench: Bench) -> None:
    """The same with the server in the load generator's process, for comparison with figures that were told that way."""
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            send = method(channel, "Echo")

            async def once() -> bool:
                return bool(await send(b"x" * 64) is not None)

            bench.add(await measure("echo, one process", ECHO_CALLERS, once, bench.span, bench.pids))
    finally:
        await server.stop(grace=0)


@asynccontextmanager
async def _bare(bench: Bench, kind: str) -> AsyncIterator[tuple[grpc.aio.Channel, dict[str, int]]]:
    """A coordinator and two participants of `bench.KIND`, and a channel to the coordinator."""
    async with AsyncExitStack() as stack:
        addresses: list[str] = []
        pids = bench.pids
        for name in ("left", "right", "coordinator"):
            directory = bench.directory / kind / name
            command = ["-m", f"bench.{kind}", "--directory", str(directory)]
            if name == "coordinator":
                command += ["--participants", ",".join(addresses)]
            one = Process(name, directory, command)
            stack.push_async_callback(one.stop)
            await one.start()
            addresses.append(one.address)
            pids[name] = one.pid
        yield await stack.enter_async_context(grpc.aio.insecure_channel(addresses[-1])), pids


async def textbook(bench: Bench) -> None:
    """The baseline: a unary RPC for each message, a sync for each record."""
    async with _bare(bench, "textbook") as (channel, pids):
        run = method(channel, "Run")

        async def once() -> bool:
            return bool(await run(b"x" * 64) == b"COMMITTED")

        for callers in (1, 128):
            bench.add(await measure(f"textbook {callers}", callers, once, bench.span, pids))


async def bare(bench: Bench) -> None:
    """The floor: the messages, records and syncs alone."""
    async with _bare(bench, "floor") as (channel, pids):
        caller = floor.Caller(channel)
        try:
            for callers in CALLERS:
                bench.add(await measure(f"floor {callers}", callers, caller.run, bench.span, pids))
        finally:
            await caller.close()


def one_shot(client: Client, names: list[str]) -> Once:
    """A transaction with one operation at each participant."""
    numbers = itertools.count()

    async def once() -> bool:
        account = next(numbers)
        await client.run(*(call(name, "note", account=account, amount=2) for name in names), timeout=30.0)
        return True

    return once


async def log_only(bench: Bench) -> None:
    """One-shot and interactive transactions over two log-only participants, and what is not the common case."""
    async with Cluster(bench.directory / "log", PAIR) as cluster:
        pids = {**bench.pids, **cluster.pids}

        async def take(name: str, callers: int, once: Once) -> None:
            bench.add(await measure(name, callers, once, bench.span, pids, cluster.counts))

        for callers in CALLERS:
            await take(f"one-shot {callers}", callers, one_shot(cluster.client, ["left", "right"]))
        await take("complete 128", 128, _complete(cluster.client))
        await take("plain calls 128", 128, _plain(cluster))
        await take("interactive 128", 128, interactive(cluster))
        await take("read-only 128", 128, _read_only(cluster.client))
        await take("abort-heavy 128", 128, _half_aborted(cluster.client))
        await take("contended 128", 128, _contended(cluster.client))


def _complete(client: Client) -> Once:
    async def once() -> bool:
        left, right = (call(name, "note", account=1, amount=2) for name in ("left", "right"))
        await client.run(left, right, timeout=30.0, wait="complete")
        return True

    return once


def _plain(cluster: Cluster) -> Once:
    async def once() -> bool:
        for one in cluster.plain_calls:
            await one(b"1")
        return True

    return once


def interactive(cluster: Cluster) -> Once:
    """A transaction with a plain call to each of two services."""
    async def once() -> bool:
        async with cluster.client.transaction(timeout=30.0):
            for one in cluster.work_calls:
                await one(b"1")
        return True

    return once


def _read_only(client: Client) -> Once:
    async def once() -> bool:
        await client.run(call("left", "look", account=1), call("right", "look", account=1), timeout=30.0)
        return True

    return once


def _half_aborted(client: Client) -> Once:
    """Every second transaction is refused by one participant; that is wanted."""
    numbers = iter(range(10**12))
    good = one_shot(client, ["left", "right"])

    async def once() -> bool:
        if next(numbers) % 2:
            return await good()
        try:
            await client.run(call("left", "note", account=1, amount=2), call("right", "refuse"), timeout=30.0)
        except Aborted:
            return True
        return False

    return once


def _contended(client: Client) -> Once:
    """All callers want one of a few keys; what loses aborts, is tried again once, and counts as other when it loses again."""
    chance = random.Random(1)

    async def once() -> bool:
        key = chance.randrange(HOT_KEYS)
        try:
            await client.run(call("left", "contend", key=key), call("right", "contend", key=key), timeout=30.0, attempts=3)
        except Aborted:
            return False
        return True

    return once


def transfer(client: Client) -> Once:
    """Money moves from an account at the left to one at the right."""
    chance = random.Random(1)

    async def once() -> bool:
        amount = chance.randrange(1, 100)
        debit = call("left", "move", account=chance.randrange(ACCOUNTS), amount=-amount)
        credit = call("right", "move", account=chance.randrange(ACCOUNTS), amount=amount)
        try:
            await client.run(debit, credit, timeout=30.0, attempts=20)
        except Aborted:
            return False
        return True

    return once


async def sqlite(bench: Bench) -> None:
    """Real transfers between accounts in two SQLite files."""
    async with Cluster(bench.directory / "sqlite", PAIR, "sqlite") as cluster:
        once = transfer(cluster.client)
        pids = {**bench.pids, **cluster.pids}
        for callers in (1, 128, 1024):
            bench.add(await measure(f"sqlite {callers}", callers, once, bench.span, pids, cluster.counts))


async def wide(bench: Bench) -> None:
    """1 to 64 participants a transaction, half of them in each of two processes."""
    groups = [[f"p{number:02d}" for number in range(start, 64, 2)] for start in (0, 1)]
    names = sorted(name for group in groups for name in group)
    async with Cluster(bench.directory / "wide", groups) as cluster:
        pids = {**bench.pids, **cluster.pids}
        for width in WIDTHS:
            once = one_shot(cluster.client, names[:width])
            name = f"participants {width}"
            bench.add(await measure(name, WIDE_CALLERS, once, bench.span, pids, cluster.counts))


STAGES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "echo": echo,
    "textbook": textbook,
    "floor": bare,
    "one-process": echo_in_one_process,
    "log": log_only,
    "sqlite": sqlite,
    "wide": wide,
    "hot": hot.hot,
    "cell": cell.cell,
    "databases": databases.databases,
    "closed": closed.closed,
    "observed": observed.observed,
    "abuse": abuse.abuse,
    "peers": peers.peers,
}
USUAL = tuple(name for name in STAGES if name != "peers")
"""Those that are run when nobody names any: peers are fetched, and want a JDK."""


async def run(bench: Bench, names: list[str]) -> None:
    """Run the stages, with the echo before, between and after them."""
    for name in names:
        bench.say(name)
        await STAGES[name](bench)
        if name in ("log", "sqlite") and "echo" in names:
            await echo(bench)
        await asyncio.sleep(0)
