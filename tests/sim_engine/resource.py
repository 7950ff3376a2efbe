"""Where participants keep what they change: the simulated bank as the log of its own branches, and a ledger outside of any log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from participant_sdk import Refuse
from participant_sdk.core.work import Execute
from participant_sdk.resources.contract import OperationRegistry
from participant_sdk.resources.log_only import LogBranch, LoggedOperation
from tests.sim.bank import Bank, Rows, operation
from tests.sim_engine.loop import EngineWorld
from troth.log.contract import LogIdentity, StoredRecord, Written
from troth.log.memory import Disk, MemoryLog
from troth.ready import Append
from troth.v1 import common_pb2


class WorldDisk(Disk):
    """A disk in virtual time, on which the process may die between the write and the sync, and after the sync."""

    def __init__(self, world: EngineWorld) -> None:
        super().__init__(latency=self._spin)
        self._world = world
        self.mean_latency = 0.001

    async def _spin(self) -> None:
        await asyncio.sleep(self._world.random.expovariate(1 / self.mean_latency))

    def fail_soon(self, message: str) -> None:
        """Let one of the next calls fail."""
        self.fail_at[self.calls + self._world.random.randint(1, 4)] = message


class BankDisk(WorldDisk):
    """Keeps the bank's rows as of the same moment as the records."""

    def __init__(self, world: EngineWorld, bank: Bank) -> None:
        super().__init__(world)
        self.bank = bank
        self._durable_rows = bank.rows.copy()
        self._rows_of: dict[int, Rows] = {}

    def write(self, records: Sequence[StoredRecord], drop_below: int) -> None:
        """The batch, and the rows with it."""
        super().write(records, drop_below)
        self._rows_of[id(self.unsynced[-1])] = self.bank.rows.copy()

    def _settle(self, batch: Any) -> None:
        super()._settle(batch)
        self._durable_rows = self._rows_of.pop(id(batch))

    def crash(self, keep: int = 0) -> None:
        """See `Disk.crash`; the rows go back to what was durable."""
        super().crash(keep)
        self._rows_of.clear()
        self.bank.rows = self._durable_rows.copy()
        self.bank.row_locks.clear()


class BankResource(MemoryLog):
    """The bank as an atomic resource: its disk holds rows and records, changed by the same batch."""

    atomic = True
    async_reason = "the bank does not wait"
    batch_max = 512

    def __init__(self, disk: BankDisk, name: str) -> None:
        super().__init__(disk, role="participant", name=name, log_id=f"{name:0>32}")
        self._bank = disk.bank
        self._bank_disk = disk
        self._registry: OperationRegistry

    def bind(self, participant: str, operations: OperationRegistry) -> None:
        """Learn the operations."""
        self._registry = operations

    def recover_locks(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        """Take row locks again."""
        self._bank.recover_locks(transaction_id, list(rows))

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """A file is opened by a clean bank."""
        opened = await super().open()
        self._bank.row_locks.clear()
        return opened

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """Carry the work out, then write what is left of the batch."""
        await asyncio.sleep(0)  # the hop to the thread of a database
        self._check_usable()
        plain: list[Append] = []
        events: list[Any] = []
        for append in batch:
            event, keeps = (None, True) if append.apply is None else self._bank.apply(self._translated(append.apply), append.record)  # type: ignore[arg-type]  # participants only
            plain.append(Append(append.record if keeps else None, append.owner, append.force))
            events.append(event)
        written = await super().write(plain, sync=sync, drop_below=drop_below)
        return Written(written.seqs, events)

    def _translated(self, work: Any) -> Any:
        if not isinstance(work, Execute):
            return work
        return replace(work, operations=tuple(self._operation(one) for one in work.operations))

    def _operation(self, wire: common_pb2.Operation) -> common_pb2.Operation:
        bound: Any = self._registry.bind(wire)
        return operation(bound.name, bound.arguments["account"], bound.arguments.get("amount", 0))


class Ledger:
    """What a `LogResource` tells on commit: a system of its own, which survives crashes and takes repeats."""

    def __init__(self, world: EngineWorld, accounts: dict[str, int]) -> None:
        self.rows = Rows(dict(accounts))
        self.row_locks: dict[str, str] = {}
        self.violations: list[str] = []
        self._world = world
        self.failure_chance = 0.0

    async def on_commit(self, transaction_id: str, operations: Sequence[LoggedOperation]) -> None:
        """COMMIT is certain; told at least once."""
        await asyncio.sleep(self._world.random.expovariate(1 / 0.002))
        if self._world.random.random() < self.failure_chance:
            raise OSError("the ledger does not answer")
        if transaction_id not in self.rows.applied:
            for one in operations:
                self._book(transaction_id, one)
        else:
            self._world.reach("hook called again")
        await asyncio.sleep(self._world.random.expovariate(1 / 0.002))

    def _book(self, transaction_id: str, one: LoggedOperation) -> None:
        change = {"credit": 1, "debit": -1, "read": 0}[one.name] * one.arguments.get("amount", 0)
        if change:
            self.rows.accounts[one.arguments["account"]] += change
            self.rows.applied.setdefault(transaction_id, []).append((one.arguments["account"], change))


def register_bank(participant: Any) -> None:
    """The operations of a bank. Only their names, arguments and locks count: the bank does the work itself."""

    @participant.operation(locks=lambda account: [account])
    def debit(db: object, *, account: str, amount: int) -> int: ...  # type: ignore[empty-body]  # never called

    @participant.operation(locks=lambda account: [account])
    def credit(db: object, *, account: str, amount: int) -> int: ...  # type: ignore[empty-body]  # never called

    @participant.operation(locks=lambda account: [account])
    def read(db: object, *, account: str) -> int: ...  # type: ignore[empty-body]  # never called


def register_ledger(participant: Any) -> None:
    """The operations in front of a ledger: they decide and compute, and the hook does the work."""

    @participant.operation(locks=lambda account: [account])
    def debit(branch: LogBranch, *, account: str, amount: int) -> int:
        if amount == 13:
            raise Refuse("UNLUCKY")
        return amount

    @participant.operation(locks=lambda account: [account])
    async def credit(branch: LogBranch, *, account: str, amount: int) -> int:
        await asyncio.sleep(0.001)
        return amount

    @participant.operation(locks=lambda account: [account])
    def read(branch: LogBranch, *, account: str) -> int:
        branch.read_only()
        return 0
