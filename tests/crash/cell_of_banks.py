"""All of it together: three nodes of a cell with several shards on one PostgreSQL server, two banks of three processes each on
another one, and what can happen to each of them.

What the checker wants is read past Troth, by psycopg, when all have ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from bank_check import Found
from bank_cluster import _environment
from bank_on_postgres import open_bank
from check import CoordinatorLog, ParticipantLog, coordinator_log, open_copy, participant_log
from nodes import at_rest, copy_log, cut, make_nodes, supervise
from processes import ROOT, Process

from participant_sdk.testing.postgres import PostgresServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.relational import until
from troth.cell import shard_names
from troth.log.postgres_cell import init_cell
from troth.v1 import record_pb2

BANKS = ("north", "south")
NODES, WORKERS, SHARDS = 3, 3, 4
NODE_LEASE_SECONDS = 1.0
SERVICE = Path(__file__).with_name("bank_on_postgres.py")
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'troth%' ORDER BY random() LIMIT 1"
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()"
LEASES = "SELECT log.name, lease.owner, lease.epoch FROM troth.lease JOIN troth.log ON log.number = lease.log"
Lease = tuple[str, str, int]
"""Of a log: its name, who has it, and the epoch."""


class CellOfBanks:
    """Everything that runs. `store` has the cell's logs, `data` what the banks have, and their slots."""

    def __init__(self, directory: Path, store: PostgresServer, data: PostgresServer, chance: random.Random) -> None:
        self.directory, self.store, self.data = directory, store, data
        self._chance = chance
        self.nodes = make_nodes(directory, NODES, store.dsn(), NODE_LEASE_SECONDS)
        self.workers: dict[str, list[Process]] = {}

    @property
    def address(self) -> str:
        """Of all nodes."""
        return ",".join(node.address for node in self.nodes)

    @property
    def apis(self) -> dict[str, str]:
        """Where callers reach each bank's own API: at whichever of its processes answers."""
        return {bank: "ipv4:" + ",".join(worker.address for worker in workers) for bank, workers in self.workers.items()}

    @property
    def processes(self) -> list[Process]:
        """The workers first, since they have more to say."""
        return [*(worker for workers in self.workers.values() for worker in workers), *self.nodes]

    async def start(self) -> None:
        await init_cell(self.store.dsn(), "c1", SHARDS)
        await supervise(self.nodes)
        for bank in BANKS:
            with psycopg.connect(self.data.dsn(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {bank}")
            await open_bank(self.data.dsn(bank))
            self.workers[bank] = [self._worker(bank, number) for number in range(WORKERS)]
        await asyncio.gather(*(worker.start() for workers in self.workers.values() for worker in workers))

    def _worker(self, bank: str, number: int) -> Process:
        directory = self.directory / f"{bank}{number}"
        more = {
            "BANK_NAME": bank, "BANK_DSN": self.data.dsn(bank), "SHOP_DIRECTORY": str(directory), "SHOP_COORDINATOR": self.address,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'examples' / 'shop'}",
        }  # fmt: skip
        return Process(f"{bank}{number}", [sys.executable, str(SERVICE)], directory, _environment(more))

    # ---- what goes wrong

    @property
    def troubles(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """By name. Each returns when what it is about has happened; what it breaks may take longer to mend."""
        return {
            "a node is killed": self._kill_node,
            "a node is stopped past its lease": self._stop_node,
            "a worker is killed": self._kill_worker,
            "a worker is stopped past its lease": self._stop_worker,
            "the nodes' sessions are terminated": lambda: _happens(_cut, self.store.dsn()),
            "the workers' sessions are terminated": lambda: _happens(_cut, self.data.dsn()),
            "a backend of the store is killed": lambda: _happens(_kill_backend, self.store.dsn()),
            "a backend of the banks is killed": lambda: _happens(_kill_backend, self.data.dsn()),
            "the store is killed": lambda: self._kill_server(self.store),
            "the banks' server is killed": lambda: self._kill_server(self.data),
        }

    async def supervise(self) -> None:
        """Whoever ended by himself, for want of a database when he began, is begun again."""
        await supervise(self.processes)

    async def _kill_node(self) -> None:
        """One that has a shard, if one has."""
        having = {owner for _, owner, _ in await self._leases(self.store.dsn())}
        node = self._chance.choice([node for node in self.nodes if node.address in having] or self.nodes)
        await _killed(node)

    async def _kill_worker(self) -> None:
        await _killed(self._chance.choice(self.workers[self._chance.choice(BANKS)]))

    async def _stop_node(self) -> None:
        """Until others have all that it had; then it wakes, and thinks that it has it still."""
        node = self._chance.choice(self.nodes)
        await self._stop(node, self.store.dsn(), lambda owner: owner == node.address)

    async def _stop_worker(self) -> None:
        """Until another one has adopted its slot; it wakes, and has to get a slot by a new claim."""
        bank = self._chance.choice(BANKS)
        worker = self._chance.choice(self.workers[bank])

        def own(owner: str) -> bool:
            return owner.split("/")[1] == str(worker.pid)

        dsn = self.data.dsn(bank)
        before = await self._stop(worker, dsn, own)

        async def again() -> bool:
            await self.supervise()
            return any(own(lease[1]) and lease not in before for lease in await self._leases(dsn))

        await until(again)

    async def _stop(self, process: Process, dsn: str, own: Callable[[str], bool]) -> Sequence[Lease]:
        """Stop a process that has a log, until all of its logs have been claimed by others; returns what it had."""
        before: list[Lease] = []

        async def stopped() -> bool:
            await self.supervise()
            process.signal(signal.SIGSTOP)
            before[:] = [lease for lease in await self._leases(dsn) if own(lease[1])]
            if not before:
                process.signal(signal.SIGCONT)  # it is on its way to one
            return bool(before)

        async def adopted() -> bool:
            await self.supervise()
            now = await self._leases(dsn)
            return bool(now) and not {lease[0] for lease in before} & {name for name, owner, _ in now if own(owner)}

        try:
            await until(stopped)
            await until(adopted)
        finally:
            process.signal(signal.SIGCONT)
        return before

    async def _kill_server(self, server: PostgresServer) -> None:
        """Its first process, and nobody says goodbye; what is left of its children is in the way of the next life for a moment."""
        await asyncio.to_thread(server.stop, signal.SIGKILL)

        async def starts() -> bool:
            try:
                await asyncio.to_thread(server.start)
            except RuntimeError as error:
                return _expected(error)
            return True

        await until(starts)

    async def _leases(self, dsn: str) -> list[Lease]:
        """As the database says; nothing while it is away."""
        try:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                return [(name, owner, epoch) for name, owner, epoch in await (await connection.execute(LEASES)).fetchall()]
        except psycopg.OperationalError:
            return []

    # ---- peace

    async def whole(self) -> bool:
        """Whether each node has a shard, each worker a slot, nothing is prepared, and no transaction is open."""
        await self.supervise()
        nodes = {owner for _, owner, _ in await self._leases(self.store.dsn())}
        if not nodes >= {node.address for node in self.nodes}:
            return False
        for bank, workers in self.workers.items():
            pids = {owner.split("/")[1] for _, owner, _ in await self._leases(self.data.dsn(bank))}
            if not pids >= {str(worker.pid) for worker in workers}:
                return False
        return not self.prepared() and not any(_rows(server.dsn(), OPEN)[0][0] for server in (self.store, self.data))

    def prepared(self) -> list[str]:
        """What is in doubt, in any database of both servers."""
        found = "SELECT gid FROM pg_prepared_xacts"
        return [row[0] for server in (self.store, self.data) for row in _rows(server.dsn(), found)]

    async def rest(self) -> None:
        """Wait until nobody owes anything, and everybody is back."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await at_rest(self.nodes)
        await until(self.whole)

    async def stop(self) -> None:
        """In order."""
        for process in self.processes:
            await process.stop()

    async def kill(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.kill()
            if process.running:
                await process.ended()

    def undo_half(self) -> None:
        """One bank forgets the youngest of its entries, and has the money back: what the checker is there to find."""
        with psycopg.connect(self.data.dsn(BANKS[0]), autocommit=True) as connection:
            forgotten = "DELETE FROM entries WHERE ctid = (SELECT max(ctid) FROM entries) RETURNING account, amount"
            back = "UPDATE accounts SET balance = balance - gone.amount FROM gone WHERE accounts.account = gone.account"
            connection.execute(f"WITH gone AS ({forgotten}) {back}")

    async def found(self) -> Found:
        """Everything that the databases say, for the checker."""
        entries: dict[str, Counter[tuple[str, str, int]]] = defaultdict(Counter)
        balances: dict[tuple[str, str], int] = {}
        moved: Counter[tuple[str, str]] = Counter()
        logs: dict[str, ParticipantLog] = {}
        for bank in BANKS:
            dsn = self.data.dsn(bank)
            for transfer, account, amount in _rows(dsn, "SELECT transfer, account, amount FROM entries"):
                entries[transfer][bank, account, amount] += 1
                moved[bank, account] += amount
            balances |= {(bank, account): balance for account, balance in _rows(dsn, "SELECT account, balance FROM accounts")}
            for (slot,) in _rows(dsn, "SELECT name FROM troth.log ORDER BY name"):
                logs[slot] = await _log(dsn, "participant", slot, record_pb2.ParticipantRecord, participant_log)
        whole = CoordinatorLog()
        for shard in shard_names("c1", SHARDS):
            one = await _log(self.store.dsn(), "coordinator", shard, record_pb2.CoordinatorRecord, coordinator_log)
            whole.decided |= one.decided
            whole.ended |= one.ended
            whole.keys_open |= one.keys_open
            whole.heuristic += one.heuristic
        return Found(entries, balances, moved, logs, whole)


async def _killed(process: Process) -> None:
    process.kill()
    await process.ended()
    await process.spawn()


def _expected(error: RuntimeError) -> bool:
    """Whether nothing is wrong but that the last life's children have not all ended. Raises what is."""
    if "shared memory" not in str(error):
        raise error
    return False


def _cut(dsn: str) -> bool:
    return cut(dsn) > 0


def _kill_backend(dsn: str) -> bool:
    """Of a backend that dies so the postmaster makes a crash of the whole server, and recovers from it."""
    for (pid,) in _rows(dsn, SESSIONS):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


async def _happens(ask: Callable[[str], bool], dsn: str) -> None:
    """Wait until a session could be had: after the trouble before nobody may be there yet, or the server still recovers."""

    async def happened() -> bool:
        with suppress(psycopg.OperationalError):
            return await asyncio.to_thread(ask, dsn)
        return False

    await until(happened)


def _rows(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


async def _log(dsn: str, role: str, name: str, record: Any, read: Callable[[Any], Any]) -> Any:
    """What the checker reads in a log, by a copy of it in a file."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "written" / "log.db"
        path.parent.mkdir()
        await copy_log(dsn, role, name, path, record)
        database = open_copy(path, Path(scratch))
        try:
            return read(database)
        finally:
            database.close()
