"""The driver of resources of the contract (`participant_sdk.resources.contract.Resource`): server databases, and anything else
that can be asked to begin, prepare, commit and roll back.

A one-phase commit is never asked of such a resource: it is prepared, logged, committed, logged, so that what the log does
not have was certainly not committed. A branch that the resource holds prepared and the log does not know voted nothing:
it is rolled back before the participant serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from participant_sdk.backlog import Backlog
from participant_sdk.blocked import Blocked
from participant_sdk.border import Raised, answered, finished
from participant_sdk.causes import cause_of, cause_of_operation
from participant_sdk.core.work import (
    CommitBranch,
    CommitFailed,
    Committed,
    Execute,
    Executed,
    ExecuteRefused,
    ForgetBranch,
    LocalDone,
    Mode,
    PrepareBranch,
    Undo,
    UndoFailed,
    Undone,
)
from participant_sdk.drivers import Invoked, Jobs, Submit, merged_work, raised, until_done
from participant_sdk.resources.contract import (
    Begun,
    Broken,
    Done,
    InDoubt,
    Performed,
    Prepared,
    Refused,
    Resource,
    Unreachable,
)
from participant_sdk.tracing import inside
from troth import tracing
from troth.backoff import Backoff
from troth.errors import LogFailed, Reason, RequestError, TrothError
from troth.logs import get_logger
from troth.tasks import all_of, is_cancelling
from troth.v1 import common_pb2, record_pb2
from troth.values import encode_result

SWEEP = Backoff(first_seconds=30.0, cap_seconds=30.0)
"""The wait between two looks for branches that nobody knows."""

_log = get_logger("participant_sdk.external")

Finish = Callable[[str, record_pb2.BranchWork], Awaitable[Done | Refused | Unreachable | Broken]]
"""`commit` or `rollback` of one branch."""


class _NotDone(Exception):
    """A step of a branch did not happen; the branch is lost."""

    def __init__(self, cause: common_pb2.Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class ExternalDriver:
    """Drives one resource. Branches are independent: each piece of work is a task of its own."""

    def __init__(self, participant: str, resource: Resource, submit: Submit) -> None:
        self._participant = participant
        self._resource = resource
        self._submit = submit
        self._jobs = Jobs()
        self._begun: dict[str, str] = {}
        """The resource's names of branches with unprepared work."""
        self._named: dict[str, str] = {}
        """The resource's names of prepared branches, until they are forgotten."""
        self._blocked = Blocked(resource, self._jobs, self._named)
        self._backlog = Backlog()
        self._answer = answered if getattr(resource, "answers_for_itself", False) else finished
        self._losing: dict[str, asyncio.Task[None]] = {}
        """Rollbacks of work that failed. Whoever goes on in the same transaction begins a branch of the same name: not before."""

    # ---- life

    async def open(self, names: Mapping[str, str]) -> None:
        """Open the resource; roll back what it holds prepared beside `names`. Waits for a resource that is away."""
        self._named.update(names)
        known = set(names.values())
        strangers: list[str] = []

        async def list_in_doubt() -> InDoubt | Unreachable:
            answer = await self._resource.in_doubt()
            if isinstance(answer, InDoubt):
                strangers[:] = [one for one in answer.resource_branches if one not in known]
            return answer

        await self._until_reachable("open", self._resource.open)
        await self._until_reachable("in_doubt", list_in_doubt)
        for stranger in strangers:
            self._jobs.start(self._roll_back(stranger))
        self._jobs.start(self._sweep())

    async def _sweep(self) -> None:
        """Look now and then for branches that nobody here knows: a process that owned this log before may have been stopped in
        the middle of a prepare, and have gone on with it when it was looked for. It voted nothing."""
        while not is_cancelling():
            await asyncio.sleep(SWEEP.delay_seconds(0, self._participant))
            before = self._known()
            answer = await self._asked("in_doubt", self._resource.in_doubt)
            if isinstance(answer, InDoubt):
                for name in set(answer.resource_branches) - before - self._known():
                    _log.warning("rolling back a branch that was left behind", participant=self._participant, branch=name)
                    await self._roll_back(name)

    def _known(self) -> set[str]:
        return {*self._begun.values(), *self._named.values()}

    async def close(self) -> None:
        """Drop what runs, and close the resource."""
        await all_of(self._jobs.close, self._resource.close)

    async def _until_reachable(self, what: str, ask: Callable[[], Awaitable[object]]) -> None:
        async def attempt() -> str:
            answer = await ask()
            if isinstance(answer, Broken):
                raise LogFailed(Reason.LOG_FAILED, answer.why, hint="Mend the resource, then start again.")
            return (answer.why or "it is away") if isinstance(answer, Unreachable) else ""

        await until_done(f"{self._participant} resource {what}", attempt)

    async def _roll_back(self, resource_branch: str) -> None:
        await self._finish(self._resource.rollback, resource_branch, record_pb2.BranchWork())

    def asking(self, inquiry: Any) -> None:
        """A question about a branch is sent: put into it whom the branch holds up at the resource."""
        self._blocked.tell(inquiry)

    # ---- work

    def invoke(self, work: Invoked) -> None:
        """Begin with a piece of work."""
        if isinstance(work, Execute):
            self._jobs.start(self._execute(work))
        elif isinstance(work, PrepareBranch):
            self._jobs.start(self._prepare_branch(work))
        elif isinstance(work, CommitBranch):
            self._jobs.start(self._commit(work))
        elif isinstance(work, Undo):
            self._jobs.start(self._undo(work))
        elif isinstance(work, ForgetBranch):
            self._jobs.start(self._forget(work))
        else:
            self._submit(LocalDone(work.ticket, error=self._no_local()))

    async def _execute(self, work: Execute) -> None:
        earlier = work.transaction_id in self._begun
        try:
            if tracing.spans is None:
                done, changed = await self._run(work)
            else:
                with inside(self._participant, work.transaction_id, work.call_id):
                    done, changed = await self._run(work)
        except Exception as error:  # a resource that answers what it must not would leave its branch without an answer
            self._lose(work.transaction_id)
            refused = ExecuteRefused(work.transaction_id, work.call_id, self._cause(error), branch_lost=earlier)
            self._submit(refused)
        else:
            self._submit(Executed(work.transaction_id, work.call_id, done, changed))

    async def _run(self, work: Execute) -> tuple[record_pb2.BranchWork, bool]:
        name = await self._begin(work.transaction_id)
        done = record_pb2.BranchWork(resource_branch=name, operations=work.operations)
        work.keys.into(done)
        for operation in work.operations:
            done.results.values.append(await self._perform(name, operation))
        if work.mode is Mode.ACTIVE:
            return done, True
        return await self._prepare(work.transaction_id, done)

    async def _begin(self, transaction_id: str) -> str:
        if losing := self._losing.get(transaction_id):
            await asyncio.wait((losing,))
        if transaction_id not in self._begun:
            await self._backlog.give_way()
            answer = await self._asked("begin", self._resource.begin, transaction_id)
            if not isinstance(answer, Begun):
                raise self._not_done(answer)
            self._begun[transaction_id] = answer.resource_branch
        return self._begun[transaction_id]

    async def _perform(self, name: str, operation: common_pb2.Operation) -> common_pb2.Value:
        answer = await self._answer(self._resource.execute, name, operation)
        if type(answer) is Raised:
            raise _NotDone(cause_of_operation(answer.error, self._participant, operation.name))
        if not isinstance(answer, Performed):
            raise self._not_done(answer)
        try:
            return encode_result(answer.value, operation.name)
        except RequestError as error:
            raise _NotDone(cause_of(error, self._participant)) from None

    async def _prepare(self, transaction_id: str, done: record_pb2.BranchWork) -> tuple[record_pb2.BranchWork, bool]:
        """Prepare; a branch that changed nothing is over at the resource, and has no name any more."""
        answer = await self._asked("prepare", self._resource.prepare, done.resource_branch)
        if not isinstance(answer, Prepared):
            raise self._not_done(answer)
        done.undo.extend(answer.undo)
        done.rows.extend(answer.rows)
        self._begun.pop(transaction_id, None)
        if answer.changed:
            self._named[transaction_id] = done.resource_branch
        else:
            done.resource_branch = ""
        return done, answer.changed

    async def _prepare_branch(self, work: PrepareBranch) -> None:
        try:
            done, changed = await self._prepare(work.transaction_id, merged_work(work.works))
        except Exception as error:  # as above
            self._lose(work.transaction_id)
            self._submit(ExecuteRefused(work.transaction_id, "", self._cause(error), branch_lost=True))
        else:
            self._submit(Executed(work.transaction_id, "", done, changed))

    def _cause(self, error: Exception) -> common_pb2.Cause:
        return error.cause if isinstance(error, _NotDone) else cause_of_operation(error, self._participant, "the resource")

    def _not_done(self, answer: object) -> _NotDone:
        """Why a step did not happen. Nobody knows what an unreachable resource did: the branch is rolled back."""
        if isinstance(answer, Refused):
            return _NotDone(answer.cause)
        why = answer.why if isinstance(answer, Unreachable) else f"the resource answered {type(answer).__name__}"
        return _NotDone(
            common_pb2.Cause(
                reason=Reason.PARTICIPANT_AWAY.name, participant=self._participant, message=why, retryable=True
            )
        )

    def _lose(self, transaction_id: str) -> None:
        """Roll back what is left of a branch whose work failed. The vote does not wait for it; `open` would do it too."""
        name = self._begun.pop(transaction_id, None)
        if name is not None:
            losing = self._losing[transaction_id] = self._jobs.start(self._roll_back(name))
            losing.add_done_callback(lambda _: self._losing.pop(transaction_id, None))

    # ---- outcomes

    async def _commit(self, work: CommitBranch) -> None:
        def commit(name: str, merged: record_pb2.BranchWork) -> Awaitable[Done | Refused | Unreachable | Broken]:
            return self._resource.commit(name, merged, one_phase=False)

        merged = merged_work(work.works)
        why = await self._finish(commit, merged.resource_branch, merged)
        self._submit(CommitFailed(work.transaction_id, why) if why else Committed(work.transaction_id))

    async def _undo(self, work: Undo) -> None:
        merged = merged_work(work.works)
        name = self._begun.pop(work.transaction_id, merged.resource_branch)
        self._named.pop(work.transaction_id, None)
        why = await self._finish(self._resource.rollback, name, merged)
        self._submit(UndoFailed(work.transaction_id, why) if why else Undone(work.transaction_id))

    async def _forget(self, work: ForgetBranch) -> None:
        name = self._named.pop(work.transaction_id, "")

        async def attempt() -> str:
            return _complaint(await self._asked("forget", self._resource.forget, name))

        if name:
            await until_done(f"{self._participant} forget {name}", attempt)

    async def _finish(self, finish: Finish, name: str, work: record_pb2.BranchWork) -> str:
        """Finish a branch, for as long as it takes; returns why it can never be finished."""
        failed: list[str] = []

        async def attempt() -> str:
            with self._backlog.finishing():
                answer = await self._asked(finish.__name__, finish, name, work)
            if isinstance(answer, Broken | Refused):
                failed.append(answer.why if isinstance(answer, Broken) else answer.cause.message)
                return ""
            return _complaint(answer)

        if name:
            await until_done(f"{self._participant} {finish.__name__} {name}", attempt)
        return failed[0] if failed else ""

    async def _asked(self, what: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """The resource's answer. What raised instead may have happened or not, like what was asked of one that is away."""
        answer = await self._answer(method, *arguments)
        if type(answer) is Raised:
            return Unreachable(raised(f"{self._participant} resource {what}", answer.error))
        return answer

    def _no_local(self) -> TrothError:
        return RequestError(
            Reason.INVALID_ARGUMENT,
            "this resource has no participant.local and participant.read",
            hint="Use the database directly: it isolates prepared branches itself.",
        )


def _complaint(answer: object) -> str:
    """Why a step has to be tried again; empty when it is done. Only `Done` says that: a resource that returns nothing has not."""
    if isinstance(answer, Done):
        return ""
    return (isinstance(answer, Unreachable) and answer.why) or f"the resource answered {type(answer).__name__}"
