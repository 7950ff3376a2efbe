"""A cell: its logs in PostgreSQL instead of a file, shards, nodes, a node that is killed, and services in slots.

The server is a private one of this run, beside everything else on the same machine. CPU is that of the load generator, the nodes
and the participants, without it.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from bench.cluster import Cluster, participant_process
from bench.measure import Once, Result, measure
from bench.processes import LOOK_SECONDS, READY_SECONDS, Process, ProcessFailed, Together
from participant_sdk.client import Client, call
from participant_sdk.testing.postgres import PostgresServer
from troth.cell import shard_of_key
from troth.log.postgres_cell import init_cell
from troth.log.postgres_store import init
from troth.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from bench.stages import Bench

CALLERS = 1024
SHARDS = 16
NODES = (1, 2, 4)
NAMES = ("left", "right")
KILLS = 3
SETTLED_SECONDS = 60.0


class Node(Process):
    """`troth serve --store`; it says where it listens."""

    def __init__(self, name: str, directory: Path, dsn: str, cell: str) -> None:
        command = ["-m", "coordinator.cli", "serve", "--store", dsn, "--name", cell, "--listen", "127.0.0.1:0"]
        super().__init__(name, directory, command)

    async def ready(self) -> None:
        """Wait until it has said where it is."""
        async with asyncio.timeout(READY_SECONDS):
            while (found := re.search(r"(?:serving|standing by) on (\S+:\d+)", self.said())) is None:
                if not self.lives:
                    raise ProcessFailed(f"{self.name} ended: {self.said()[-500:]}")
                await asyncio.sleep(LOOK_SECONDS)
        self.address = found[1]


class Cell(Together):
    """Nodes of a cell, two participants and a client. Use it as an async context manager."""

    def __init__(self, directory: Path, dsn: str, shards: int, nodes: int, slots: int = 0) -> None:
        self._directory, self._dsn, self._shards, self._slots = directory, dsn, shards, slots
        self._cell = directory.name
        super().__init__()
        self.nodes = [Node(f"node{number}", directory / f"node{number}", dsn, self._cell) for number in range(nodes)]
        self.participants: list[Process] = []

    async def _start(self) -> None:
        await init_cell(self._dsn, self._cell, self._shards)
        for node in self.nodes:
            self._stack.push_async_callback(node.stop)
            await node.start()
        addresses = ",".join(node.address for node in self.nodes)
        for name, number in itertools.product(NAMES, range(self._slots or 1)):
            store = self._dsn if self._slots else ""
            one = participant_process(self._directory / f"{name}{number}", addresses, [name], "log", store)
            self.participants.append(one)
            self._stack.push_async_callback(one.stop)
            await one.start()
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.nodes[0].address))
        self._ask = admin_pb2_grpc.AdminServiceStub(channel).GetCell
        await self._shared_out()
        self.client = await self._stack.enter_async_context(Client(addresses, pending_max=20_000))

    async def _shared_out(self) -> None:
        """Until every node has its share."""
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                seen = await self.seen()
                counts = sorted(node.shards for node in seen.nodes)
                if sum(counts) == self._shards and counts[-1] - counts[0] <= 1 and len(counts) == len(self.nodes):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def seen(self) -> admin_pb2.GetCellResponse:
        """The cell, as the first node sees it."""
        return await self._ask(admin_pb2.GetCellRequest())

    @property
    def pids(self) -> Mapping[str, int]:
        """The processes of the cell."""
        return {one.directory.name: one.pid for one in (*self.nodes, *self.participants)}

    def keyed(self) -> Once:
        """Transactions with keys, which are spread over all shards."""
        numbers = itertools.count()

        async def once() -> bool:
            number = next(numbers)
            await self.client.run(
                *(call(name, "note", account=number, amount=2) for name in NAMES), timeout=30.0, key=f"{self._cell}-{number}"
            )
            return True

        return once

    async def seconds_until_committed(self) -> float:
        """Kill the node that has the last shard; from then to the next commit there."""
        seen, shard = await self.seen(), self._shards - 1
        owner = next(one.node for one in seen.shards if one.coordinator.endswith(f"-{shard:02}"))
        node = next(one for one in self.nodes if one.address == owner)
        keys = (key for key in map(str, itertools.count()) if shard_of_key(key, self._shards) == shard)
        began = time.perf_counter()
        await node.end(signal.SIGKILL)
        await self.client.run(
            *(call(name, "note", account=1, amount=2) for name in NAMES), timeout=60.0, key=next(keys), attempts=100
        )
        self.nodes.remove(node)
        return time.perf_counter() - began


async def cell(bench: Bench) -> None:
    """One node on a file, one on a store; one shard and many; several nodes; a slot more; a node that is killed."""
    from bench.stages import one_shot

    async with AsyncExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        await init(server.dsn(), "participant", ())

        async def take(name: str, once: Once, pids: Mapping[str, int]) -> Result:
            result = await measure(f"cell {name}", CALLERS, once, bench.span, {**bench.pids, **pids})
            bench.add(result)
            return result

        async with Cluster(bench.directory / "file", [[name] for name in NAMES]) as cluster:
            await take("file", one_shot(cluster.client, list(NAMES)), cluster.pids)
        async with Cell(bench.directory / "store", server.dsn(), 1, 1) as one:
            await take("store", one_shot(one.client, list(NAMES)), one.pids)
            await take("1 shard", one.keyed(), one.pids)
        for nodes in NODES:
            async with Cell(bench.directory / f"nodes{nodes}", server.dsn(), SHARDS, nodes) as one:
                await take(f"{nodes} nodes", one.keyed(), one.pids)
        for slots in (1, 2):
            async with Cell(bench.directory / f"slots{slots}", server.dsn(), 1, 1, slots) as one:
                await take(f"{slots} slots", one.keyed(), one.pids)
        for kill in range(KILLS):
            async with Cell(bench.directory / f"kill{kill}", server.dsn(), SHARDS, 2) as one:
                bench.takeovers.append(await one.seconds_until_committed())
