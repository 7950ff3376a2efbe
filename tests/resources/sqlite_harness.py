"""A SqliteResource and a few functions, driven as the engine drives it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from participant_sdk.core.work import (
    Execute,
    Executed,
    ExecuteRefused,
    Keys,
    LocalDone,
    LocalRun,
    Mode,
    Release,
    Undo,
)
from participant_sdk.resources.sqlite import SqliteResource
from troth.errors import Reason, RequestError
from troth.log.contract import StoredRecord, Written
from troth.ready import Append, Event
from troth.v1 import common_pb2, record_pb2
from troth.values import decode_value

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL CHECK (balance >= 0));
INSERT INTO accounts VALUES ('a', 100), ('b', 100), ('c', 100);
"""


class Operations:
    """Operations by name; arguments play no part."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[[Any], Any]] = {}

    def bind(self, operation: common_pb2.Operation) -> Callable[[Any], Any]:
        try:
            return self.functions[operation.name]
        except KeyError:
            raise RequestError(Reason.UNKNOWN_OPERATION, f"there is no operation {operation.name!r}") from None


KEYS = Keys(("key",))
"""What operations of these tests declare."""


class Bank:
    """One resource on one file."""

    def __init__(self, path: Path, schema: str = SCHEMA, participant: str = "bank", **limits: Any) -> None:
        self.resource = SqliteResource(path, schema=schema, **limits)
        self.operations = Operations()
        self.resource.bind(participant, self.operations)
        self.stored: Sequence[StoredRecord] = ()
        self.log_id = ""

    async def open(self) -> Bank:
        identity, self.stored = await self.resource.open()
        self.log_id = identity.log_id
        return self

    async def __aenter__(self) -> Bank:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.resource.close()

    async def write(self, *batch: Append, sync: bool = True, drop_below: int = 0) -> Written:
        return await self.resource.write(batch, sync=sync, drop_below=drop_below)

    async def one(self, append: Append, sync: bool = True) -> Event:
        return (await self.write(append, sync=sync)).events[0]

    # ---- appends

    def execute(
        self,
        transaction_id: str,
        *functions: Callable[[Any], Any] | str,
        mode: Mode = Mode.PREPARE,
        keys: Keys = KEYS,
        **more: Any,
    ) -> Append:
        """An append that runs functions, or SQL texts, as the operations of a branch."""
        operations = []
        for function in functions:
            name = f"operation-{len(self.operations.functions)}"
            self.operations.functions[name] = as_function(function)
            operations.append(common_pb2.Operation(name=name))
        work = Execute(transaction_id, "", tuple(operations), keys, 0, mode, **more)
        return Append(empty_record(transaction_id, mode), transaction_id, mode is not Mode.ACTIVE, apply=work)

    def undo(self, transaction_id: str, *works: record_pb2.BranchWork) -> Append:
        record = finished(transaction_id, common_pb2.OUTCOME_ABORTED)
        return Append(record, transaction_id, apply=Undo(transaction_id, works))

    def release(self, transaction_id: str) -> Append:
        record = finished(transaction_id, common_pb2.OUTCOME_COMMITTED)
        return Append(record, transaction_id, apply=Release(transaction_id))

    def local(self, function: Callable[[Any], Any] | str, write: bool = True, schema: bool = False) -> Append:
        return Append(None, apply=LocalRun("ticket", as_function(function), write, schema))

    # ---- whole steps

    async def did(self, transaction_id: str, *functions: Callable[[Any], Any] | str, **more: Any) -> Executed:
        event = await self.one(self.execute(transaction_id, *functions, **more))
        assert isinstance(event, Executed), event
        return event

    async def refused(self, transaction_id: str, *functions: Callable[[Any], Any] | str, **more: Any) -> common_pb2.Cause:
        written = await self.write(self.execute(transaction_id, *functions, **more))
        (event,) = written.events
        assert isinstance(event, ExecuteRefused), event
        assert written.seqs == [0]
        assert event.cause.participant == "bank"
        return event.cause

    async def locally(self, function: Callable[[Any], Any] | str, **more: Any) -> LocalDone:
        event = await self.one(self.local(function, **more))
        assert isinstance(event, LocalDone)
        return event

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        done = await self.locally(lambda db: db.execute(sql), write=False)
        assert done.error is None, done.error
        rows: list[tuple[Any, ...]] = done.value
        return rows

    async def balances(self) -> dict[str, int]:
        return dict(await self.rows("SELECT id, balance FROM accounts"))


def as_function(function: Callable[[Any], Any] | str) -> Callable[[Any], Any]:
    if isinstance(function, str):
        return lambda db: len(db.execute(function))
    return function


def add(account: str, amount: int) -> str:
    return f"UPDATE accounts SET balance = balance + {amount} WHERE id = '{account}'"


def empty_record(transaction_id: str, mode: Mode) -> record_pb2.ParticipantRecord:
    record = record_pb2.ParticipantRecord()
    if mode is Mode.ACTIVE:
        record.branch_active.transaction_id = transaction_id
    elif mode is Mode.PREPARE:
        record.branch_prepared.transaction_id = transaction_id
    else:
        record.branch_finished.transaction_id = transaction_id
        record.branch_finished.outcome = common_pb2.OUTCOME_COMMITTED
        record.branch_finished.one_phase = True
    return record


def finished(transaction_id: str, outcome: common_pb2.Outcome) -> record_pb2.ParticipantRecord:
    message = record_pb2.BranchFinished(transaction_id=transaction_id, outcome=outcome)
    return record_pb2.ParticipantRecord(branch_finished=message)


def plain(transaction_id: str = "plain") -> Append:
    """An append without work."""
    return Append(finished(transaction_id, common_pb2.OUTCOME_ABORTED), transaction_id)


def run_program(program: str, path: Path) -> int:
    """Run a program in a process of its own, with a path as its argument; returns its status."""
    search = os.pathsep.join([str(Path(__file__).parent), os.getcwd()])
    environment = {**os.environ, "PYTHONPATH": search}
    return subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False).returncode


def values(event: Executed) -> list[Any]:
    return [decode_value(value) for value in event.work.results.values]


def kinds(records: Sequence[StoredRecord]) -> list[str]:
    return [record_pb2.ParticipantRecord.FromString(one.body).WhichOneof("kind") or "" for one in records]
