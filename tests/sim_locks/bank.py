"""A bank that writes down who read and changed what, and in which operations follow pointers to the accounts that they need."""

from __future__ import annotations

from typing import Any, NamedTuple

from participant_sdk.core.work import Execute, ExecuteRefused, Keys, Wanted
from tests.sim.bank import Bank, arguments_of, operation
from troth.v1 import common_pb2, record_pb2

CHASE = "chase"
"""An operation that reads an account, and pays into the one that the balance points to: a key that depends on data."""


class Access(NamedTuple):
    """One account, read or changed by a transaction."""

    transaction_id: str
    account: str
    changed: bool


class HotBank(Bank):
    """The simulated resource, with witnesses of its own."""

    def __init__(self, accounts: dict[str, int]) -> None:
        super().__init__(accounts)
        self.accesses: list[Access] = []
        """In the order in which they happened; kept over crashes."""
        self.found = 0
        """How often an operation found a key that it did not hold."""
        self._pointed = sorted(accounts)

    def _execute(self, work: Execute, record: record_pb2.ParticipantRecord | None) -> tuple[object, bool]:
        for one in work.operations:
            wanted = Keys((self._target(one),)) if one.name == CHASE else Keys()
            if work.keys.lacks(wanted):
                self.found += 1
                return Wanted(work.transaction_id, work.call_id, wanted), False
        before = len(self.accesses)
        answer = super()._execute(work, record)
        if isinstance(answer[0], ExecuteRefused):
            del self.accesses[before:]
        return answer

    def _run(self, transaction_id: str, operation_: common_pb2.Operation, done: Any, changed: Any) -> common_pb2.Cause | None:
        account, amount = arguments_of(operation_.arguments)
        if operation_.name == CHASE:
            cause = self._run(transaction_id, operation("read", account), done, changed)
            target = operation("credit", self._target(operation_), amount)
            return cause or self._run(transaction_id, target, done, changed)
        cause = super()._run(transaction_id, operation_, done, changed)
        if cause is None:
            self.accesses.append(Access(transaction_id, account, operation_.name != "read"))
        return cause

    def _target(self, operation_: common_pb2.Operation) -> str:
        account, _ = arguments_of(operation_.arguments)
        return self._pointed[self.rows.accounts[account] % len(self._pointed)]
