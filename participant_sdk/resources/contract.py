"""What a participant changes: the contract of resources.

There are two kinds, told apart by `atomic`.

*Atomic* resources (`AtomicResource`; the SQLite file) are the log of their own branches. The engine writes its records
into them, and the work of a record (`participant_sdk.core.work`) runs in the same local transaction as the record
itself. Record and work are durable together or not at all, so there is nothing to ask afterwards.

All others (`Resource`; a server database, or anything that can be undone) are asked step by step, and what they answer
goes into the SDK's log. Each step may be cut off by a crash, so each can be repeated, and `in_doubt` and `outcome` tell
what became of it. This is the X/Open XA contract (xa_prepare, xa_commit, xa_recover ...) with two differences: errors
are values, because most of them are decisions and not accidents; and "I do not know" is an answer of its own
(`Unreachable`), because a resource manager that cannot be reached has neither done nor refused anything.

    begin ── execute* ── prepare ──┬─ commit ──── forget
                 │          │      └─ rollback ── forget
                 └──────────┴── rollback (a branch that was never prepared needs no forget)

`participant_sdk.testing` holds the contract's tests; a resource that passes them is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from troth.log.contract import Log
from troth.v1 import common_pb2, record_pb2

# ---- operations, as a resource sees them


class OperationRegistry(Protocol):
    """The operations of one participant (`participant_sdk.registry.Registry`)."""

    def bind(self, operation: common_pb2.Operation) -> Callable[[Any], Any]:
        """The named function with its checked arguments, to be called with what the resource gives to operations.

        It has a true `reads_only` when its lock keys are all shared: it must change nothing then. Raises `RequestError`
        (UNKNOWN_OPERATION, BAD_ARGUMENTS, OPERATION_FAILED).
        """


# ---- answers


@dataclass(frozen=True, slots=True)
class Done:
    """It is done, and durable."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A branch was begun. It is named so from here on; the name is kept verbatim in the log."""

    resource_branch: str


@dataclass(frozen=True, slots=True)
class Performed:
    """An operation ran; this is what it returned."""

    value: Any


@dataclass(frozen=True, slots=True)
class Prepared:
    """The branch can be finished either way, even after a crash of both sides.

    `changed` is false when nothing was changed: the branch is then over and must not be finished.
    `rows`    identities of changed things that must not be changed by another branch until this one is finished; empty
              when the resource locks them itself.
    `undo`    what `rollback` will need and the resource cannot keep itself; goes into the log.
    """

    changed: bool
    rows: Sequence[bytes] = ()
    undo: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not happen. The caller rolls the branch back, and its participant votes NO with this cause."""

    cause: common_pb2.Cause


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody knows whether it was done. Ask `outcome`, or repeat, for ever, with back-off."""

    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """It cannot be done, now or later: an operator must look (HAZARD). Locks are kept."""

    why: str


class BranchOutcome(Enum):
    """What became of a branch, as far as the resource can prove it."""

    PREPARED = "prepared"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    NEVER_SEEN = "never seen, and cannot arrive any more"


@dataclass(frozen=True, slots=True)
class Known:
    """The proven outcome of a branch."""

    outcome: BranchOutcome


@dataclass(frozen=True, slots=True)
class InDoubt:
    """Every branch of this participant that the resource holds prepared."""

    resource_branches: Sequence[str]


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Who waits for a prepared branch, for people."""

    sessions: int
    seconds: float = 0.0
    """How long the first of them has waited, as far as that is known."""
    tables: Sequence[str] = ()
    """Where the branch holds locks."""


# ---- resources


class BoundResource(Protocol):
    """What both kinds have in common."""

    atomic: bool
    """Whether work and record go into one local transaction: then the resource is an `AtomicResource`."""

    async_reason: str
    """Why an `async def` cannot be an operation here; empty when it can."""

    def bind(self, participant: str, operations: OperationRegistry) -> None:
        """Learn the participant's name and operations; called once, before `open`."""


class AtomicResource(BoundResource, Log, Protocol):
    """A resource whose file is the log of its own branches. `write` carries out `Append.apply`."""

    def recover_locks(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        """Lock again the rows of an unfinished branch; called for each after `open` and before the first `write`."""


class Resource(BoundResource, Protocol):
    """A resource that is asked step by step.

    One that keeps its branches apart by itself says `isolates = True`: operations that declare no lock keys then take none.

    One that can tell who waits for its prepared branches has `async def blocked(self) -> Mapping[str, HeldUp] | Unreachable`, by
    their names. It is asked every few seconds while branches are in doubt, and must hold up none of what is below.

    Every method returns one of the answers that its docstring names and raises nothing but cancellation. Every method
    may be repeated with the same arguments, and then says the same or `Unreachable`. After a crash of the participant
    the branches that were not prepared are gone, or are rolled back by `open`.
    """

    async def open(self) -> Done | Unreachable | Broken:
        """Connect, check that the resource can do what is asked of it, and roll back what an earlier process of this
        participant left behind unprepared. `Broken` stops the process: something must be mended first."""

    async def close(self) -> None:
        """Let go of every connection. Prepared branches stay prepared."""

    async def begin(self, transaction_id: str) -> Begun | Refused | Unreachable:
        """Begin the branch of a transaction. The name must be derived from the id without loss, so that
        no id that is a prefix of another is taken for it."""

    async def execute(self, resource_branch: str, operation: common_pb2.Operation) -> Performed | Refused | Unreachable:
        """Run one operation in the branch. After anything but `Performed` the branch can only be rolled back."""

    async def prepare(self, resource_branch: str) -> Prepared | Refused | Unreachable:
        """Make the branch durable without finishing it. Deferred constraints are checked here at the latest. What proves its
        outcome (a marker row) goes in with it, if it has changed something; the proof itself is no change.
        After `Refused` the resource holds nothing of the branch."""

    async def commit(
        self, resource_branch: str, work: record_pb2.BranchWork, *, one_phase: bool
    ) -> Done | Refused | Unreachable | Broken:
        """Finish the branch; `work` is what the log kept. `Refused` only with `one_phase`, which commits a branch that
        was not prepared. A repeat finds its proof (a marker row in the branch's own transaction), and is `Done`."""

    async def rollback(self, resource_branch: str, work: record_pb2.BranchWork) -> Done | Unreachable | Broken:
        """Undo the branch in any state; `Done` also for a branch that does not exist."""

    async def in_doubt(self) -> InDoubt | Unreachable:
        """List the prepared branches; those of other participants on the same server are not among them."""

    async def outcome(self, resource_branch: str) -> Known | Unreachable:
        """Prove what became of a branch. Absence alone is no proof: see `BranchOutcome.NEVER_SEEN`."""

    async def forget(self, resource_branch: str) -> Done | Unreachable:
        """Drop the proof of a finished branch; `outcome` is not asked again."""
