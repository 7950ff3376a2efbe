"""Three nodes of a coordinator on one PostgreSQL server, and two banks, under transfers: nodes are killed, stopped for longer than
their lease and drained, connections to the database cut, the database itself killed. Then the independent checker looks."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

from bank_check import check
from bank_cluster import COORDINATOR, SERVICE, _environment
from nodes import at_rest, copy_log, cut, make_nodes, supervise
from processes import ROOT, Process
from transfers import Clerks

from participant_sdk.testing.postgres import PostgresServer
from troth.log.postgres_cell import init_cell
from troth.log.postgres_store import status
from troth.v1 import record_pb2

BANKS = ("north", "south")
NODES = 3
LEASE_SECONDS = 1.0
TROUBLES = ("kill",) * 4 + ("stop",) * 2 + ("drain", "cut", "cut", "bank", "server", "server")
ROUND_SECONDS = 1.2
PEACE_SECONDS = 240.0
ENOUGH = 20
SEED = 7


class Cell:
    """The nodes, the banks and the database."""

    def __init__(self, directory: Path, server: PostgresServer) -> None:
        self.server = server
        self.directory = directory
        self.nodes = make_nodes(directory, NODES, server.dsn(), LEASE_SECONDS)
        self.banks: dict[str, Process] = {}
        self.done: list[str] = []

    async def start(self) -> None:
        await init_cell(self.server.dsn(), "c1", 1)
        for node in self.nodes:
            await node.spawn()
        for name in BANKS:
            more = {
                "BANK_NAME": name, "SHOP_DIRECTORY": str(self.directory / name), "SHOP_COORDINATOR": self.address,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'examples' / 'shop'}",
            }  # fmt: skip
            self.banks[name] = Process(name, [sys.executable, str(SERVICE)], self.directory / name, _environment(more))
            assert await self.banks[name].start()

    @property
    def address(self) -> str:
        """Of all nodes."""
        return ",".join(node.address for node in self.nodes)

    async def trouble(self, what: str, chance: random.Random) -> None:
        """One thing that goes wrong, and the time that it takes."""
        await self.supervise()
        self.done.append(what)
        owner = await self._owner() or chance.choice(self.nodes)
        if what == "kill":
            owner.kill()
            await owner.ended()
            await owner.spawn()
        elif what == "drain":
            owner.signal(signal.SIGTERM)
            await owner.ended()
            await owner.spawn()
        elif what == "stop":
            owner.signal(signal.SIGSTOP)
            await asyncio.sleep(2.5 * LEASE_SECONDS)
            owner.signal(signal.SIGCONT)
        elif what == "cut":
            await asyncio.to_thread(self._cut)
        elif what == "bank":
            bank = chance.choice(list(self.banks.values()))
            bank.kill()
            await bank.ended()
            assert await bank.start()
        else:
            await asyncio.to_thread(self.server.stop, signal.SIGQUIT)
            await asyncio.to_thread(self.server.start)

    async def supervise(self) -> None:
        """A node that began while there was no database has ended: whoever supervises it begins it again."""
        await supervise(self.nodes)

    async def does_enough(self, clerks: Clerks) -> None:
        """Wait until so many transfers have committed as are wanted, on a machine of any speed."""
        async with asyncio.timeout(PEACE_SECONDS):
            while clerks.counts["COMMITTED"] <= ENOUGH:  # they tell nobody
                await self.supervise()
                await asyncio.sleep(0.1)

    async def at_rest(self) -> None:
        """Wait until nobody owes anything."""
        async with asyncio.timeout(PEACE_SECONDS):
            await at_rest(self.nodes)

    async def _owner(self) -> Process | None:
        """The node that has the log, as the store says."""
        (log,) = await status(self.server.dsn())
        return next((node for node in self.nodes if node.running and node.address == log.owner), None)

    def _cut(self) -> None:
        cut(self.server.dsn())

    async def stop(self) -> None:
        """In order: the banks first, since they have more to say."""
        for process in (*self.banks.values(), *self.nodes):
            await process.stop()

    async def kill(self) -> None:
        for process in (*self.banks.values(), *self.nodes):
            process.signal(signal.SIGCONT)
            process.kill()
            if process.running:
                await process.ended()


async def test_transfers_survive_nodes_and_their_database(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with PostgresServer() as server:
        cell = Cell(tmp_path, server)
        try:
            await cell.start()
            addresses = {name: bank.address for name, bank in cell.banks.items()}
            async with Clerks(cell.address, addresses, tmp_path / "told.jsonl", SEED) as clerks:
                working = asyncio.create_task(clerks.work())
                for what in chance.sample(TROUBLES, len(TROUBLES)):
                    await asyncio.sleep(ROUND_SECONDS)
                    await cell.trouble(what, chance)
                await asyncio.sleep(ROUND_SECONDS)
                await cell.does_enough(clerks)
                clerks.over.set()
                async with asyncio.timeout(PEACE_SECONDS):
                    await working
            await cell.at_rest()
            await cell.stop()
            copy = tmp_path / COORDINATOR / "coordinator.db"
            await copy_log(server.dsn(), "coordinator", "c1", copy, record_pb2.CoordinatorRecord)
        finally:
            await cell.kill()
    verdict = check(tmp_path, BANKS)
    assert not verdict.wrong, f"after {cell.done}: {verdict.wrong[:5]}"
    assert verdict.committed > ENOUGH, f"{verdict.committed} of {verdict.transfers} committed after {cell.done}"
