"""A database as a participant's resource: a branch is one local transaction, prepared natively, with a row that proves its outcome.

    resource.py      this file: the contract of resources
    branch.py        a branch at work: its connection, its vote
    finishing.py     phase two, and what became of a branch
    guard.py         what operations may not do; reading.py reads their SQL
    engines.py       connections of the service's SQLAlchemy engine
    slot_logs.py     the logs of a service's slots

`postgres/` and `mariadb/` say the same in the words of their servers.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from participant_sdk.border import Raised
from participant_sdk.causes import cause_of
from participant_sdk.registry import BoundOperation, OperationSpec, Registry
from participant_sdk.resources.contract import (
    Begun,
    BranchOutcome,
    Broken,
    Done,
    InDoubt,
    Known,
    Performed,
    Prepared,
    Refused,
    Unreachable,
)
from participant_sdk.resources.relational.branch import NotDone, RelationalBranch
from participant_sdk.resources.relational.finishing import BranchFinishers, Fate
from troth.errors import Aborted, ConfigError, Reason, RequestError
from troth.tasks import all_of, side_by_side
from troth.v1 import common_pb2, record_pb2

CLOSE_SECONDS = 5.0
"""How long a resource that is closed waits for the server's answers."""
ISOLATION_LEVELS = ("read committed", "repeatable read", "serializable")


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """What branches may use of the database."""

    connections_max: int = 20
    """Of the pool that the SDK makes for a DSN: branches that are at work at the same time, and threads for plain functions."""
    connect_wait_seconds: float = 5.0
    """Longest wait of a branch for a connection; then it is OVERLOADED."""
    lock_wait_seconds: float = 2.0
    """Longest wait of a statement for a lock (MariaDB: whole seconds); then it is a CONFLICT, and the client tries again."""
    statement_seconds_max: float = 5.0
    """Longest run of a statement; then it is a TIMEOUT."""
    idle_seconds_max: float = 60.0
    """How long a branch may keep its connection and say nothing, between calls or inside of one; then it is lost."""
    pinned_max: int = 10
    """Blocks (`async with participant.branch() as db`) that are open at the same time; a further one is OVERLOADED."""
    pinned_seconds_max: float = 30.0
    """Longest time that a block may take; then its connection is closed, and its branch lost (TIMEOUT)."""


class RelationalResource(ABC):
    """The resource (`resources.contract.Resource`). `source` gives connections to branches."""

    atomic = False
    answers_for_itself = True
    """What authors wrote runs behind a border in here: the driver needs none around each question."""
    isolates = True
    """Nobody sees or changes what a branch has changed before its outcome: operations need no keys."""
    busy: type[Exception]
    """What is raised when all connections are taken."""

    def __init__(self, source: Any, isolation: str, limits: DatabaseLimits | None) -> None:
        if isolation not in ISOLATION_LEVELS:
            raise ConfigError(f"isolation {isolation!r} is none of {', '.join(ISOLATION_LEVELS)}")
        self._limits = limits or DatabaseLimits()
        self.pinned_max, self.pinned_seconds_max = self._limits.pinned_max, self._limits.pinned_seconds_max
        self._source = source
        self.async_reason, self.plain_reason = source.reasons
        self._isolation = isolation
        self._nonce = ""
        self._participant = ""
        self._operations = Registry()
        self._branches: dict[str, Any] = {}
        self._gone: set[str] = set()
        """Branches of which the server said that it holds nothing: not even asked to roll them back."""
        self._looks = itertools.count(1)
        """Of `look`: one that hangs keeps its name."""
        self._finishers: Any = None
        self._executor: ThreadPoolExecutor | None = None
        self._forgetting: list[str] = []
        self._forget: asyncio.Task[Done | Unreachable] | None = None
        """The one that takes more names."""
        self._forgets: set[asyncio.Task[Done | Unreachable]] = set()
        """That one, and those that are asking the database."""

    # ---- what each server does in its own words

    @abstractmethod
    def _kinds(self) -> tuple[type[Exception], ...]:
        """What the driver raises."""

    @abstractmethod
    def _is_lost(self, error: Exception) -> bool:
        """Whether the connection is gone."""

    @abstractmethod
    def _why(self, error: Exception) -> str:
        """The server's words in one line."""

    @abstractmethod
    def _cause(self, error: BaseException, step: str) -> common_pb2.Cause:
        """Why an operation, or a vote, did not happen."""

    @abstractmethod
    def _new_finishers(self) -> BranchFinishers:
        """Connections that finish branches, not opened yet."""

    @abstractmethod
    async def _unfit(self) -> Broken | None:
        """What is wrong with the server or the database."""

    @abstractmethod
    async def _clear(self) -> Sequence[int]:
        """Drop old tombstones, and end what earlier processes of this participant still do: the sessions that did something."""

    @abstractmethod
    def _name(self, transaction_id: str) -> str:
        """What the branch of a transaction is called."""

    @abstractmethod
    async def _begun(self, name: str, *, look_seconds: float = 0.0) -> RelationalBranch:
        """A branch on a connection of its own, begun; with `look_seconds` it only reads, sees one state, and no statement may take
        longer than that."""

    @abstractmethod
    def _again(self) -> Self:
        """Another one, on the same connections."""

    # ---- life

    def bind(self, participant: str, operations: Any) -> None:
        """See the contract; the name may be that of a slot."""
        self._participant = participant
        self._operations = operations

    def slot(self, name: str, operations: Any) -> Self:
        """The same for one slot of the service (see `participant_sdk.slots`), on the same connections."""
        resource = self._again()
        resource.bind(name, operations)
        return resource

    async def open(self) -> Done | Unreachable | Broken:
        """See the contract. What an earlier process of this participant still does on the server is ended."""
        try:
            if self._finishers is None:
                await self._source.open()
                self._nonce = secrets.token_hex(4)
                self._finishers = self._new_finishers()
                self._executor = ThreadPoolExecutor(self._limits.connections_max, thread_name_prefix="troth-database")
                await self._finishers.open()
            if broken := await self._unfit():
                return broken
            left = await self._clear()
        except self._kinds() as error:
            return Unreachable(self._why(error))
        return Unreachable(f"sessions of an earlier process are still being ended: {list(left)}") if left else Done()

    async def close(self) -> None:
        """See the contract."""
        held, self._branches = list(self._branches.values()), {}
        await all_of(partial(self._end, held), self._forgotten, self._disconnect)

    async def _end(self, branches: Sequence[RelationalBranch]) -> None:
        """End branches that are at work; one whose server does not answer loses its connection."""
        ending = {asyncio.ensure_future(branch.end()): branch for branch in branches}
        if ending:
            _, silent = await asyncio.wait(ending, timeout=CLOSE_SECONDS)
            for one in silent:
                ending[one].cut()
        await side_by_side(ending)

    async def _forgotten(self) -> None:
        if self._forgets:
            _, silent = await asyncio.wait(self._forgets, timeout=CLOSE_SECONDS)
            for one in silent:
                one.cancel()
            await asyncio.gather(*silent, return_exceptions=True)

    async def _disconnect(self) -> None:
        finishers, self._finishers = self._finishers, None
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        if finishers is not None:
            await all_of(finishers.close, self._source.close)

    # ---- work

    async def begin(self, transaction_id: str) -> Begun | Refused | Unreachable:
        """See the contract."""
        name = self._name(transaction_id)
        if name in self._branches:
            return Begun(name)
        kinds = self._kinds()
        refusing: tuple[type[Exception], ...] = (Aborted, *kinds)
        try:
            try:
                self._branches[name] = await self._begun(name)
            except kinds as error:
                if isinstance(error, self.busy) or not self._is_lost(error):
                    raise
                await self._source.refresh()  # the pool had kept what a server that restarted has closed
                self._branches[name] = await self._begun(name)
        except self.busy as error:
            busy = Aborted(Reason.OVERLOADED, f"no connection to the database is free: {error}")
            return Refused(cause_of(busy, self._participant))
        except refusing as error:
            return Refused(self._cause(error, "the begin"))
        self._gone.discard(name)
        return Begun(name)

    async def execute(self, resource_branch: str, operation: common_pb2.Operation) -> Performed | Refused | Unreachable:
        """See the contract."""
        branch = self._branches.get(resource_branch)
        if branch is None:
            return self._no_branch(resource_branch)
        assert self._executor is not None
        try:
            bound = self._operations.bind(operation)
        except RequestError as error:
            return Refused(cause_of(error, self._participant))
        result = await branch.run(bound, self._executor)
        if type(result) is Raised:
            return Refused(self._cause(result.error, operation.name))
        return Performed(result)

    async def prepare(self, resource_branch: str) -> Prepared | Refused | Unreachable:
        """See the contract. Deferred constraints and serialization failures are found here, and are a NO."""
        branch = self._branches.pop(resource_branch, None)
        if branch is None:
            return self._no_branch(resource_branch)
        try:
            return Prepared(await branch.vote())
        except NotDone as failed:
            return self._failed(resource_branch, failed, "the prepare")

    def _failed(self, name: str, failed: NotDone, step: str) -> Refused | Unreachable:
        if failed.lost:
            return Unreachable(f"the connection was lost during {step}: {failed}")
        self._gone.add(name)
        return Refused(self._cause(failed.error, step))

    def _no_branch(self, name: str) -> Refused:
        return Refused(cause_of(Aborted(Reason.ROLLED_BACK, f"the branch {name} is not at work here"), self._participant))

    async def look(self, function: Callable[[Any], Any], executor: Executor, seconds_max: float) -> Any:
        """Run a function that only reads (a plain one in `executor`) on what is committed, and return what it returned, or
        `Raised`. All of it sees one state; whatever it does is undone, and a statement that takes longer than `seconds_max` fails.
        Raises what the driver raises, and `Aborted`."""
        spec = OperationSpec("look", function, inspect.iscoroutinefunction(function), {}, {}, lambda bound: ())
        try:
            branch = await self._begun(self._name(f"look-{next(self._looks)}"), look_seconds=seconds_max)
        except self._kinds() as error:
            if self._is_lost(error) and not isinstance(error, self.busy):
                await self._source.refresh()
            raise
        try:
            return await branch.run(BoundOperation(spec, {}, b"", ()), executor)
        finally:
            await branch.end()

    # ---- outcomes

    async def commit(
        self, resource_branch: str, work: record_pb2.BranchWork, *, one_phase: bool
    ) -> Done | Refused | Unreachable | Broken:
        """See the contract."""
        if not one_phase:
            return await self._finishing().commit(resource_branch)
        branch = self._branches.pop(resource_branch, None)
        if branch is None:
            return await self._committed_before(resource_branch)
        try:
            await branch.commit()
        except NotDone as failed:
            return self._failed(resource_branch, failed, "the commit")
        return Done()

    async def _committed_before(self, name: str) -> Done | Refused | Unreachable:
        """A one-phase commit is repeated: its marker says that it happened, and its tombstone that it never will."""
        known = await self.outcome(name)
        if isinstance(known, Unreachable):
            return known
        return Done() if known.outcome is BranchOutcome.COMMITTED else self._no_branch(name)

    async def rollback(self, resource_branch: str, work: record_pb2.BranchWork) -> Done | Unreachable | Broken:
        """See the contract."""
        branch = self._branches.pop(resource_branch, None)
        if branch is not None:
            await branch.end()
            return Done()
        if resource_branch in self._gone:
            # Its prepare was refused: what has this name now, if anything, is somebody else's.
            self._gone.discard(resource_branch)
            return Done()
        return await self._finishing().roll_back(resource_branch)

    async def in_doubt(self) -> InDoubt | Unreachable:
        """See the contract: those of this database, of this participant, and of this slot."""
        return await self._finishing().in_doubt(self._participant)

    async def outcome(self, resource_branch: str) -> Known | Unreachable:
        """See the contract. A branch that is neither prepared nor committed never will be: a tombstone is left."""
        if resource_branch in self._branches:
            return Unreachable("it is at work")
        finishers = self._finishing()
        listed = await finishers.in_doubt(self._participant)
        if isinstance(listed, Unreachable):
            return listed
        if resource_branch in listed.resource_branches:
            return Known(BranchOutcome.PREPARED)
        try:
            fate = await finishers.fate(resource_branch)
        except self._kinds() as error:
            return Unreachable(self._why(error))
        return Known(BranchOutcome.COMMITTED if fate is Fate.COMMITTED else BranchOutcome.NEVER_SEEN)

    async def forget(self, resource_branch: str) -> Done | Unreachable:
        """See the contract. What is forgotten at the same time is one statement."""
        self._forgetting.append(resource_branch)
        if self._forget is None or self._forget.done():
            self._forget = asyncio.create_task(self._forget_all())
            self._forgets.add(self._forget)
            self._forget.add_done_callback(self._forgets.discard)
        return await asyncio.shield(self._forget)

    async def _forget_all(self) -> Done | Unreachable:
        await asyncio.sleep(0)
        names, self._forgetting = self._forgetting, []
        self._forget = None
        try:
            await self._finishing().forget(names)
        except self._kinds() as error:
            return Unreachable(self._why(error))
        return Done()

    def _finishing(self) -> BranchFinishers:
        assert self._finishers is not None, "the resource is not open"
        finishers: BranchFinishers = self._finishers
        return finishers
