"""The simulated resource: accounts in a dictionary that changes in one local transaction with the records of branches.

It does what the SQLite resource does (`participant_sdk.resources.sqlite`): operations change rows at once, changed rows are locked,
the old values go into the record, and an abort puts them back, newest first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

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
    UndoFailed,
    Undone,
)
from troth.errors import Reason
from troth.v1 import common_pb2, record_pb2


@dataclass
class Rows:
    """What a crash must keep whole: the accounts, and which transaction changed what (the checkers' witness)."""

    accounts: dict[str, int] = field(default_factory=dict)
    applied: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """For each transaction the changes that stand now."""

    def copy(self) -> Rows:
        """A snapshot."""
        return Rows(dict(self.accounts), {name: list(changes) for name, changes in self.applied.items()})


def operation(name: str, account: str, amount: int = 0) -> common_pb2.Operation:
    """An operation of the bank."""
    return common_pb2.Operation(name=name, arguments=json.dumps([account, amount]).encode())


@lru_cache(maxsize=4096)
def arguments_of(arguments: bytes) -> tuple[str, int]:
    """The account and the amount of an operation, or of the inverse of a change."""
    account, amount = json.loads(arguments)
    return account, amount


def keys_of(operations: Sequence[common_pb2.Operation]) -> Keys:
    """The lock keys that the operations declare: shared by those that only read."""
    changed = dict.fromkeys(arguments_of(op.arguments)[0] for op in operations if op.name != "read")
    read = dict.fromkeys(arguments_of(op.arguments)[0] for op in operations)
    return Keys(tuple(changed), tuple(account for account in read if account not in changed))


def sign_of(name: str) -> int:
    """What an operation does to an account."""
    return {"credit": 1, "debit": -1, "read": 0}[name]


class Bank:
    """One participant's resource. `rows` is replaced by its disk after a crash."""

    def __init__(self, accounts: dict[str, int]) -> None:
        self.rows = Rows(dict(accounts))
        self.row_locks: dict[str, str] = {}
        self.violations: list[str] = []
        self.refused: set[str] = set()
        """Transactions of which an operation was refused for want of money: the author's own refusal, no fault."""
        self._snapshot: Rows | None = None

    def snapshot(self) -> Rows:
        """The rows as they are now; the same object as long as nothing changes."""
        if self._snapshot is None:
            self._snapshot = self.rows.copy()
        return self._snapshot

    def restore(self, rows: Rows) -> None:
        """Go back to a snapshot, with no row locked."""
        self.rows = rows.copy()
        self._snapshot = rows
        self.row_locks.clear()

    def recover_locks(self, transaction_id: str, rows: list[bytes]) -> None:
        """Take the row locks of an unfinished branch again."""
        for row in rows:
            assert self.row_locks.setdefault(row.decode(), transaction_id) == transaction_id

    # ---- work

    def apply(self, work: object, record: record_pb2.ParticipantRecord | None) -> tuple[object | None, bool]:
        """Carry out one apply; returns its event and whether its record stays."""
        if isinstance(work, Execute):
            self._snapshot = None
            return self._execute(work, record)
        if isinstance(work, Undo):
            self._snapshot = None
            return self._undo(work)
        if isinstance(work, Release):
            self._let_go(work.transaction_id)
            return None, True
        assert isinstance(work, LocalRun)
        self._snapshot = None
        return LocalDone(work.ticket, work.function(self.rows)), True

    def _execute(self, work: Execute, record: record_pb2.ParticipantRecord | None) -> tuple[object, bool]:
        done = record_pb2.BranchWork()
        work.keys.into(done)
        changed: list[tuple[str, int]] = []
        for operation in work.operations:
            cause = self._run(work.transaction_id, operation, done, changed)
            if cause is not None:
                self._put_back(work.transaction_id, changed)
                return ExecuteRefused(work.transaction_id, work.call_id, cause), False
        self._lock(work, changed)
        done.undo.extend(json.dumps(change).encode() for change in changed)
        done.rows.extend(name.encode() for name, _ in changed)
        if work.mode is Mode.ONE_PHASE:
            self._let_go(work.transaction_id)
        keeps = bool(changed) or (work.mode is not Mode.ACTIVE and (work.earlier_changed or work.hold))
        assert record is not None
        self._fill(record, done)
        return Executed(work.transaction_id, work.call_id, done, bool(changed)), keeps

    def _run(
        self, transaction_id: str, operation: common_pb2.Operation, done: record_pb2.BranchWork, changed: list[tuple[str, int]]
    ) -> common_pb2.Cause | None:
        account, amount = arguments_of(operation.arguments)
        holder = self.row_locks.get(account, transaction_id)
        if operation.name == "read":
            if holder != transaction_id:
                self.violations.append(f"isolation: {transaction_id} read {account}, which {holder} has changed and not decided")
            done.results.values.add(integer=self.rows.accounts[account])
            return None
        if holder != transaction_id:
            return common_pb2.Cause(reason=Reason.CONFLICT.name, retryable=True)
        balance = self.rows.accounts[account]
        new = balance + (amount if operation.name == "credit" else -amount)
        if new < 0:
            self.refused.add(transaction_id)
            return common_pb2.Cause(reason=Reason.REFUSED.name, code="NO_FUNDS")
        self.rows.accounts[account] = new
        self.rows.applied.setdefault(transaction_id, []).append((account, new - balance))
        changed.append((account, balance))
        done.results.values.add(integer=new)
        return None

    def _put_back(self, transaction_id: str, changed: list[tuple[str, int]]) -> None:
        for account, balance in reversed(changed):
            self.rows.accounts[account] = balance
            self.rows.applied[transaction_id].pop()

    def _lock(self, work: Execute, changed: list[tuple[str, int]]) -> None:
        for account, _ in changed:
            self.row_locks[account] = work.transaction_id

    def _fill(self, record: record_pb2.ParticipantRecord, done: record_pb2.BranchWork) -> None:
        kind = record.WhichOneof("kind")
        if kind == "branch_finished":
            record.branch_finished.results.CopyFrom(done.results)
        else:
            getattr(record, kind or "").work.CopyFrom(done)

    def _undo(self, work: Undo) -> tuple[object, bool]:
        before = self.rows.copy()
        for done in reversed(work.works):
            for undo in reversed(done.undo):
                account, balance = arguments_of(undo)
                applied = self.rows.applied.get(work.transaction_id, [])
                if not applied or self.rows.accounts[account] - applied[-1][1] != balance or applied[-1][0] != account:
                    self.rows = before
                    return UndoFailed(work.transaction_id, f"{account} is not as the branch left it"), False
                self.rows.accounts[account] = balance
                applied.pop()
        self._let_go(work.transaction_id)
        return Undone(work.transaction_id), True

    def _let_go(self, transaction_id: str) -> None:
        for account in [name for name, holder in self.row_locks.items() if holder == transaction_id]:
            del self.row_locks[account]
