"""A resource without a database: its operations compute and decide, and the SDK's log is all that is kept.

For a participant that votes (a limit check, a fraud rule), or whose effect is told to somebody else once the transaction has
committed (`on_commit`: send the mail, call the partner). Operations get a `LogBranch` first:

    mail = Participant("mail", resource=LogResource(on_commit=deliver), ...)

    @mail.operation(locks=[])
    async def welcome(branch: LogBranch, *, address: str) -> None:
        if await bounced(address):
            raise Refuse("BOUNCED")

An operation runs once. What it does beside the log is not undone when the transaction aborts: effects belong into `on_commit`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from participant_sdk.border import Raised, awaited, called, finished
from participant_sdk.causes import cause_of_operation
from participant_sdk.core.work import (
    NO_KEYS,
    CommitBranch,
    Committed,
    Execute,
    Executed,
    ExecuteRefused,
    Keys,
    LocalDone,
    LocalRun,
    PrepareBranch,
    ResourceKind,
    Undo,
    Undone,
    Wanted,
)
from participant_sdk.drivers import Invoked, Jobs, Submit, raised, until_done
from participant_sdk.lock_keys import LockKey, keys_not_held
from participant_sdk.registry import BoundOperation, Registry
from participant_sdk.tracing import inside
from troth import tracing
from troth.errors import Reason, RequestError
from troth.v1 import record_pb2
from troth.values import add_result


@dataclass(frozen=True, slots=True)
class LoggedOperation:
    """One operation as the log keeps it."""

    name: str
    arguments: dict[str, Any]


Hook = Callable[[str, Sequence[LoggedOperation]], Awaitable[None] | None]
"""Called with the transaction id and the branch's operations, oldest first; a plain function or a coroutine function."""


class LogBranch:
    """What an operation of a `LogResource` gets: the transaction that it runs in."""

    __slots__ = ("_keys", "_read_only", "_wanted", "transaction_id")

    def __init__(self, transaction_id: str, keys: Keys | None = None) -> None:
        self.transaction_id = transaction_id
        """The transaction; empty in `participant.local` and `participant.read`."""
        self._read_only = False
        self._keys = keys
        self._wanted = NO_KEYS

    def lock(self, *keys: LockKey) -> None:
        """Lock what the operation finds out while it runs, as `Database.lock` does: where a key is not held yet, the operation is
        broken off here and runs again from its start when it is. Nobody undoes what it did beside the log until then, so call
        this first. Raises `RequestError`, which ends the operation in any case."""
        self._wanted = keys_not_held(self._keys, keys)
        if self._wanted != NO_KEYS:
            raise RequestError(Reason.CONFLICT, "a lock is not held yet: the operation runs again when it is")

    def read_only(self) -> None:
        """Say that this branch needs to know no outcome: it then leaves the transaction at its vote, without a record."""
        self._read_only = True


class LogResource:
    """The resource. Both hooks are called at least once, also after a crash, and must take repeats.

    `on_commit`  when COMMIT is certain. The branch is committed, and acknowledged, when the hook has succeeded.
    `on_abort`   when a branch that did something is certain to be rolled back. A branch that had not voted when the process
                 died is gone without it.

    A hook that raises is called again with back-off, for ever; other branches go on. With a hook, a commit costs two records
    in any case, because it must be known after a crash that the hook is still owed.
    """

    atomic = False
    async_reason = ""

    def __init__(self, *, on_commit: Hook | None = None, on_abort: Hook | None = None) -> None:
        self._on_commit = on_commit
        self._on_abort = on_abort
        self._participant = ""
        self._operations = Registry()
        self._submit: Submit = lambda event: None
        self._jobs = Jobs()

    # ---- what the participant uses

    @property
    def kind(self) -> ResourceKind:
        """With a hook a branch is finished outside the log, like that of any other resource that is asked to commit."""
        return ResourceKind.LOGGED if self._on_commit is None and self._on_abort is None else ResourceKind.EXTERNAL

    def bind(self, participant: str, operations: Registry) -> None:
        """Learn the participant's name and operations."""
        self._participant = participant
        self._operations = operations

    def slot(self, name: str, operations: Registry) -> LogResource:
        """The same for one slot of the service (see `participant_sdk.slots`)."""
        resource = LogResource(on_commit=self._on_commit, on_abort=self._on_abort)
        resource.bind(name, operations)
        return resource

    def driver(self, submit: Submit) -> LogResource:
        """Begin to answer to `submit`."""
        self._submit = submit
        return self

    async def open(self, names: Mapping[str, str]) -> None:
        """Nothing is kept outside the log."""

    async def close(self) -> None:
        """Stop hooks and operations; the next process calls the hooks again."""
        await self._jobs.close()

    def invoke(self, work: Invoked) -> None:
        """Begin with a piece of work."""
        if isinstance(work, Execute):
            if tracing.spans is None:
                self._execute(work)
            else:
                with inside(self._participant, work.transaction_id, work.call_id):
                    self._execute(work)
        elif isinstance(work, PrepareBranch):
            # The answer is added to the works of the calls, which say all there is.
            self._submit(Executed(work.transaction_id, "", record_pb2.BranchWork(), True))
        elif isinstance(work, CommitBranch):
            self._finish(work, self._on_commit, Committed(work.transaction_id))
        elif isinstance(work, Undo):
            self._finish(work, self._on_abort, Undone(work.transaction_id))
        elif isinstance(work, LocalRun):
            self._local(work)

    # ---- operations

    def _execute(self, work: Execute) -> None:
        """Run the operations at once when they are plain functions: a task costs more than most of them."""
        bound: list[BoundOperation] = []
        waits = False
        try:
            for operation in work.operations:
                one = self._operations.bind(operation)
                bound.append(one)
                waits = waits or one.spec.is_async
        except Exception as error:
            self._refuse(work, error, "the call")
            return
        if waits:
            self._jobs.start(self._execute_async(work, bound))
        else:
            self._execute_plain(work, bound)

    def _execute_plain(self, work: Execute, bound: list[BoundOperation]) -> None:
        branch = LogBranch(work.transaction_id, work.keys)
        done = record_pb2.BranchWork()
        for one in bound:
            if not self._add(work, branch, done, called(one, branch), one.spec.name):
                return
        self._executed(work, bound, branch, done)

    async def _execute_async(self, work: Execute, bound: list[BoundOperation]) -> None:
        branch = LogBranch(work.transaction_id, work.keys)
        done = record_pb2.BranchWork()
        for one in bound:
            value = await awaited(one(branch)) if one.spec.is_async else called(one, branch)
            if not self._add(work, branch, done, value, one.spec.name):
                return
        self._executed(work, bound, branch, done)

    def _add(self, work: Execute, branch: LogBranch, done: record_pb2.BranchWork, value: Any, operation: str) -> bool:
        """Add what an operation returned; when it cannot be, the branch is refused, or must wait for locks, and this says no."""
        if branch._wanted != NO_KEYS:
            self._submit(Wanted(work.transaction_id, work.call_id, branch._wanted))
            return False
        if type(value) is not Raised:
            try:
                add_result(done.results, value, operation)
                return True
            except RequestError as error:
                value = Raised(error)
        self._refuse(work, value.error, operation)
        return False

    def _executed(
        self, work: Execute, bound: list[BoundOperation], branch: LogBranch, done: record_pb2.BranchWork
    ) -> None:
        done.resource_branch = work.transaction_id
        work.keys.into(done)
        for one in bound:
            operation = done.operations.add()
            operation.name, operation.arguments = one.spec.name, one.encoded
        self._submit(Executed(work.transaction_id, work.call_id, done, not branch._read_only))

    def _refuse(self, work: Execute, error: BaseException, operation: str) -> None:
        cause = cause_of_operation(error, self._participant, operation)
        self._submit(ExecuteRefused(work.transaction_id, work.call_id, cause))

    # ---- outcomes

    def _finish(self, work: CommitBranch | Undo, hook: Hook | None, answer: Committed | Undone) -> None:
        if hook is None:
            self._submit(answer)
        else:
            self._jobs.start(self._finish_with_hook(work, hook, answer))

    async def _finish_with_hook(self, work: CommitBranch | Undo, hook: Hook, answer: Committed | Undone) -> None:
        await self._call_hook(hook, work.transaction_id, work.works)
        self._submit(answer)

    async def _call_hook(self, hook: Hook, transaction_id: str, works: Sequence[record_pb2.BranchWork]) -> None:
        decoded, name = self._operations.arguments, getattr(hook, "__name__", "hook")

        async def attempt() -> str:
            try:
                logged = [one for work in works for one in work.operations]
                operations = [LoggedOperation(one.name, decoded(one.name, one.arguments)) for one in logged]
            except RequestError as error:
                return f"{error.reason.name}: {error.message}"
            result = await finished(hook, transaction_id, operations)
            return raised(f"{name} {transaction_id}", result.error) if type(result) is Raised else ""

        await until_done(f"{self._participant} {name} {transaction_id}", attempt)

    # ---- local work

    def _local(self, work: LocalRun) -> None:
        if inspect.iscoroutinefunction(work.function):
            self._jobs.start(self._local_async(work))
        else:
            self._local_done(work, called(work.function, LogBranch("")))

    async def _local_async(self, work: LocalRun) -> None:
        self._local_done(work, await finished(work.function, LogBranch("")))

    def _local_done(self, work: LocalRun, value: Any) -> None:
        failed = type(value) is Raised
        self._submit(LocalDone(work.ticket, error=value.error) if failed else LocalDone(work.ticket, value))
