"""What the participant's core asks of its resource, and what it hears back.

There are three kinds of resource, and one vocabulary for all of them. For an ATOMIC one the work hangs on an append as its
`apply`: the log that is asked to write the record is the resource itself, and carries the work out in the same local
transaction. For the others the same work comes out as an effect, and the core appends the record afterwards. The
answers are the same events either way; the core is stepped with them once they are durable (or written, for unforced work).

Work of one branch is never asked for twice at the same time, and `Undo`, `CommitBranch` and `Release` never while something
else runs for that branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from troth.ready import frozen
from troth.v1 import common_pb2, record_pb2

WHOLE_RESOURCE = "*"
"""The lock key that conflicts with every other branch and all local work, whatever keys they have, even none."""


class Keys(NamedTuple):
    """Lock keys, of a request or of what is held."""

    exclusive: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    """Keys that others may share."""

    @property
    def only_read(self) -> bool:
        """Whether they are keys of somebody who changes nothing: others share all of them."""
        return bool(self.shared) and not self.exclusive

    def joined(self, other: Keys) -> Keys:
        """Both, each key once."""
        return keys_of({*self.exclusive, *other.exclusive}, {*self.shared, *other.shared}) if other != NO_KEYS else self

    def lacks(self, other: Keys) -> bool:
        """Whether who holds these does not hold all of the others."""
        if WHOLE_RESOURCE in self.exclusive:
            return False
        if WHOLE_RESOURCE in self.shared:
            return bool(other.exclusive)
        return any(key not in self.exclusive for key in other.exclusive) or any(
            key not in self.exclusive and key not in self.shared for key in other.shared
        )

    def into(self, work: record_pb2.BranchWork) -> None:
        """Write them down."""
        if self.exclusive:
            work.keys.extend(self.exclusive)
        if self.shared:
            work.shared_keys.extend(self.shared)


def keys_of(exclusive: set[str], shared: set[str]) -> Keys:
    """Lock keys, each once, sorted. The whole resource stands for all others; whoever reads it all and changes something needs it
    alone."""
    if WHOLE_RESOURCE in exclusive or (exclusive and WHOLE_RESOURCE in shared):
        return WHOLE
    if WHOLE_RESOURCE in shared:
        return SHARED_WHOLE
    return Keys(tuple(sorted(exclusive)), tuple(sorted(shared - exclusive)))


NO_KEYS = Keys()
WHOLE = Keys((WHOLE_RESOURCE,))
SHARED_WHOLE = Keys((), (WHOLE_RESOURCE,))


class ResourceKind(Enum):
    """Where the work of a branch and its outcome live."""

    ATOMIC = "atomic"
    """The resource is the log (SQLite): work and record are one local transaction. Work comes as `Append.apply`."""
    LOGGED = "logged"
    """There is nothing beside the log: an operation computes, and its record is all. Execute, Undo and LocalRun come as
    effects; a commit is its record and no more. A branch that changed nothing is over without a word."""
    EXTERNAL = "external"
    """The resource holds prepared branches durably (PostgreSQL, MariaDB, a resource of the contract). A one-phase commit is
    prepared, logged, committed and logged, so that absence from the log proves that nothing was committed."""


class Mode(Enum):
    """What becomes of a branch whose operations have succeeded."""

    ACTIVE = "active"
    """An interactive call: more may follow. The record is BranchActive, unforced."""
    PREPARE = "prepare"
    """Operations inside Prepare: the branch can then be finished either way. The record is BranchPrepared."""
    ONE_PHASE = "one_phase"
    """The branch is committed with this. The record is BranchFinished with one_phase set. Never asked of EXTERNAL."""


# ---- requests


@frozen
class Execute:
    """Run operations for a branch, in order, all or none. Answered by `Executed`, `ExecuteRefused` or `Wanted`.

    ATOMIC: the operations run in a savepoint of their own with a session attached. On success the log fills the record of
    the same append: `branch_active.work` or `branch_prepared.work` (undo, rows, keys, results), or
    `branch_finished.results`. In mode ACTIVE or PREPARE the rows are locked for the branch; in mode ONE_PHASE rows locked
    by *other* branches are a CONFLICT all the same, and the locks of this branch are dropped. If this call changed
    nothing, the record is dropped (seq 0) in mode ACTIVE, and in the other modes unless `earlier_changed` or `hold`; the
    answer is still `Executed`, with `changed=False`. On failure the savepoint is undone and nothing is left; so it is when an
    operation asks for keys that are not among these, which is answered by `Wanted`.
    """

    transaction_id: str
    call_id: str
    """Comes back in the answer; empty for operations of a Prepare."""
    operations: Sequence[common_pb2.Operation]
    keys: Keys
    """What the core has locked for this work: to be copied into `work.keys` and `work.shared_keys`."""
    first_attempt_ms: int
    mode: Mode
    hold: bool = False
    """Whether a branch that changed nothing votes YES all the same, to keep its read locks: keep the record."""
    earlier_changed: bool = False
    """Whether an earlier call of the branch changed something: keep the record."""


@dataclass(frozen=True, slots=True)
class PrepareBranch:
    """EXTERNAL only: make the work of earlier calls durable. Answered by `Executed` (with an empty call_id) or
    `ExecuteRefused` (nothing of the branch is left then).

    The undo and rows of the answer are added to those of the calls. If it says `changed=False` the branch is over at the
    resource."""

    transaction_id: str
    works: tuple[record_pb2.BranchWork, ...]
    """Oldest first."""


@frozen
class CommitBranch:
    """EXTERNAL only: commit a prepared branch; repeated after a crash.

    Retried inside the resource for as long as it may help; answered by `Committed` or `CommitFailed`.
    """

    transaction_id: str
    works: tuple[record_pb2.BranchWork, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class Undo:
    """Roll a branch back, newest work first, and drop its row locks; repeated after a crash. Answered by `Undone` or `UndoFailed`.

    ATOMIC: the inverses are applied in a savepoint, together with the record. `works` may be empty, and what is unknown to
    an external resource was never prepared: both succeed.
    """

    transaction_id: str
    works: tuple[record_pb2.BranchWork, ...]
    """Oldest first."""


@frozen
class Release:
    """ATOMIC only: the branch is committed, drop its row locks. Cannot fail; no event (`None`)."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class ForgetBranch:
    """EXTERNAL only: nobody will ask about the branch again; a proof of its outcome may be dropped. Not answered."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class LocalRun:
    """Run a function of the service on the resource, outside any transaction of the coordinator. Answered by `LocalDone`."""

    ticket: Any
    function: Callable[..., Any]
    write: bool
    """Whether it may write. Without it the resource refuses writes, or rolls them back."""
    schema: bool = False
    """Whether it may change the schema; nothing is undecided then, and nothing else runs."""


Work = Execute | PrepareBranch | CommitBranch | Undo | Release | ForgetBranch | LocalRun


# ---- answers (events of the core)


@frozen
class Executed:
    """Execute or PrepareBranch succeeded."""

    transaction_id: str
    call_id: str
    work: record_pb2.BranchWork
    """What was done: undo, rows, results, operations, resource_branch. `work.results` has one value an operation."""
    changed: bool
    """Whether this call changed anything."""


@dataclass(frozen=True, slots=True)
class ExecuteRefused:
    """Execute or PrepareBranch failed, and this call left nothing behind. After a lost group the reason is GROUP_LOST."""

    transaction_id: str
    call_id: str
    cause: common_pb2.Cause
    branch_lost: bool = False
    """Whether the unprepared work of *earlier* calls is gone as well (a lost connection): the branch must end."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An operation of an Execute has found out that it needs more keys. This call left nothing behind: it is to run again."""

    transaction_id: str
    call_id: str
    keys: Keys
    """What it asked for and does not hold."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An EXTERNAL resource has committed the branch, durably."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """An EXTERNAL resource can never commit the branch (somebody rolled it back): an operator is needed."""

    transaction_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Undone:
    """The branch is rolled back."""

    transaction_id: str


@dataclass(frozen=True, slots=True)
class UndoFailed:
    """The branch cannot be rolled back; nothing of it has changed, and its row locks stay: an operator is needed."""

    transaction_id: str
    why: str


@dataclass(frozen=True, slots=True)
class LocalDone:
    """The local function has run. With an error nothing of it was kept."""

    ticket: Any
    value: Any = None
    error: BaseException | None = None
