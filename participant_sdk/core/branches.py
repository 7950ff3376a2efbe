"""What the core remembers: states, the kinds of events that move them, and the branch itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from participant_sdk.core.events import Call, PrepareReceived
from participant_sdk.core.work import NO_KEYS, Keys, ResourceKind
from troth.backoff import Backoff
from troth.moments import utc
from troth.v1 import common_pb2, record_pb2

# The members of an enum that each branch needs are read once, into names of each module: in CPython 3.11 to read one from its
# class costs more than a call.


class State(IntEnum):
    """Where a branch is. Every branch that nobody ever heard of is UNSEEN."""

    UNSEEN = 0
    """Nothing is known of it, and it is not below the watermark."""
    EXPIRED = 1
    """Nothing is known of it, because it lies below the watermark."""
    ENLISTING = 2
    """Calls wait until the coordinator has answered Enlist."""
    WAITING = 3
    """A call, or a Prepare with operations, waits for locks."""
    EXECUTING = 4
    """An interactive call runs."""
    ACTIVE = 5
    """Unprepared interactive work, and nothing runs."""
    PREPARING = 6
    """The operations of Prepare run, or the PREPARED record is not durable yet."""
    ONE_PHASE = 7
    """A one-phase commit runs, or its record is not durable yet. The decision is the participant's."""
    PREPARED = 8
    """Voted YES; in doubt."""
    COMMITTING = 9
    """The decision is COMMIT; it is not durable here yet."""
    ABORTING = 10
    """It is being rolled back."""
    COMMITTED = 11
    """Finished; remembered until the watermark."""
    ABORTED = 12
    """Finished; refuses late work."""
    READ_ONLY = 13
    """Finished without a change; it takes no part in phase two."""
    FORCED_COMMIT = 14
    """An operator committed it while in doubt; kept until the decision agrees or an operator forgets it."""
    FORCED_ABORT = 15
    """An operator rolled it back while in doubt; kept likewise."""
    PARKED = 16
    """It could not be finished (HAZARD); kept with its locks until an operator has dealt with it."""


UNPREPARED = frozenset((State.ENLISTING, State.WAITING, State.EXECUTING, State.ACTIVE, State.PREPARING, State.ONE_PHASE))
FINISHED = frozenset((State.COMMITTED, State.ABORTED, State.READ_ONLY))


class Kind(IntEnum):
    """What moves a branch: the columns of the table."""

    CALL = 0
    """An interactive call of the service."""
    ENLISTED = 1
    PREPARE = 2
    COMMIT = 3
    """Decision COMMIT."""
    ABORT = 4
    """Decision ABORT."""
    SETTLE = 5
    """RollbackIfUnseen."""
    LOST = 6
    """A newer epoch of its coordinator: whatever is unprepared was aborted there."""
    FORCE_COMMIT = 7
    FORCE_ABORT = 8
    FORCE_FORGET = 9
    LOCKED = 10
    """The lock request that it waited for is granted."""
    LOCK_TIMEOUT = 11
    ENLIST_TIMEOUT = 12
    """Time to announce the branch; in ENLISTING, to wait no longer."""
    ASK = 13
    """Time to ask the coordinator (again)."""
    EXECUTED = 14
    EXECUTE_REFUSED = 15
    RESOURCE_COMMITTED = 16
    COMMIT_FAILED = 17
    UNDONE = 18
    UNDO_FAILED = 19
    DURABLE_PREPARED = 20
    DURABLE_COMMITTED = 21
    DURABLE_ABORTED = 22
    DURABLE_PARKED = 23
    WANTED = 24
    """An operation has found out that it needs more keys."""
    LAST_CALL = 25
    """The caller's last call has ended: prepare at once."""


INQUIRY = Backoff(5.0, 30.0)


@dataclass(frozen=True, slots=True)
class Config:
    """What the core may use, and how long things wait."""

    participant: str
    """Its name; stamped into causes."""
    resource: ResourceKind
    """Where work and outcomes live."""
    keeps_identity: bool = False
    """Whether incarnations and epochs are kept in the engine's log; otherwise the shell keeps them in a log of its own."""
    open_branches_max: int = 100_000
    """Branches that are not finished; a further one is OVERLOADED."""
    tombstones_max: int = 1_000_000
    """Finished branches that the watermark has not covered; above that new branches are OVERLOADED."""
    refused_max: int = 100_000
    """Rolled-back branches that are remembered to refuse late work; the oldest go first."""
    calls_waiting_max: int = 10_000
    """Interactive calls that have not been answered; a further one is OVERLOADED."""
    calls_bytes_max: int = 64 * 1024 * 1024
    """Bytes of the arguments, results and undo of the interactive calls of all branches that are not finished; a further call is
    OVERLOADED, and one that brings more than there is room for ends its branch."""
    operations_max: int = 10_000
    """Calls of one branch."""
    lock_waiters_max: int = 10_000
    """Requests in line for locks; a further one is OVERLOADED."""
    lock_wait_seconds: float = 2.0
    """Longest wait of a branch for locks; then it is a CONFLICT."""
    local_wait_seconds: float = 10.0
    """Longest wait of local work for locks; then it is a TIMEOUT."""
    local_bar_seconds: float = 0.1
    """How long local work that waits lets others wait behind it."""
    local_pass_seconds: float = 1.0
    """How long it then lets them pass, before it bars them again."""
    finds_max: int = 16
    """How often an operation may find that it needs more keys, one after the other."""
    found_max: int = 4096
    """Attempts whose found keys are kept for the next one."""
    found_bytes_max: int = 1024 * 1024
    """Bytes of these keys."""
    enlist_after_seconds: float = 0.02
    """How long a branch may stay unprepared before it is announced to the coordinator."""
    enlist_wait_seconds: float = 5.0
    """Longest wait of a call for the coordinator's acceptance, where it must be awaited; then it is COORDINATOR_AWAY."""
    inquiry: Backoff = INQUIRY
    """How often an unfinished branch asks the coordinator: for ever."""


@dataclass(slots=True)
class CallEntry:
    """One call_id of a branch, running, waiting or answered."""

    call: Call
    tickets: list[Any]
    """Everybody who waits for the answer."""
    done: bool = False
    result: common_pb2.Value | None = None
    cause: common_pb2.Cause | None = None
    found: Keys = NO_KEYS
    """Keys that it was found to need besides the declared ones."""
    finds: int = 0


@dataclass(slots=True)
class Calls:
    """The interactive work of a branch: one call runs at a time, the others stand in line."""

    known: dict[str, CallEntry] = field(default_factory=dict)
    line: deque[CallEntry] = field(default_factory=deque)
    current: CallEntry | None = None
    """The one that runs, or waits for locks."""
    bytes: int = 0
    """What its calls hold; see `line`."""
    succeeded: int = 0
    """To be compared with `Prepare.operation_count` (rule 4)."""


class Forced(NamedTuple):
    """An operator's order (rule 18)."""

    who: str
    why: str
    at_ms: int
    """Milliseconds since the Unix epoch."""

    def __str__(self) -> str:
        return f"forced by {self.who} at {utc(self.at_ms)}: {self.why}"


@dataclass(slots=True, eq=False, repr=False)
class Branch:
    """One participant's part of a transaction."""

    transaction_id: str
    coordinator: str
    epoch: int
    """The coordinator's epoch in which the transaction began."""
    state: State = State.UNSEEN
    order: int = 0
    """0 until it is known."""
    first_attempt_ms: int = 0
    works: tuple[tuple[str, record_pb2.BranchWork], ...] = ()
    """Calls and what they did, oldest first; the call of Prepare is empty."""
    begun: bool = False
    """Whether a resource that is not ATOMIC holds something of it."""
    changed: bool = False
    calls: Calls | None = None
    prepare: PrepareReceived | None = None
    """The Prepare whose operations wait for locks, run, or are not durable."""
    stream: int = 0
    """The stream on which Prepare came."""
    peers: bytes = b""
    found: Keys = NO_KEYS
    """Keys that the operations of Prepare were found to need besides the declared ones."""
    finds: int = 0
    undeclared: tuple[str, ...] = ()
    """Its operations that declare no lock keys."""
    incarnation: int = 0
    """The incarnation that prepared it."""
    deferred: tuple[tuple[Kind, Any], ...] = ()
    """Events that wait until what runs has ended."""
    attempts: int = 0
    """Inquiries sent since its state last changed."""
    one_phase: bool = False
    results: bytes = b""
    """A serialised Results message."""
    cause: common_pb2.Cause | None = None
    """Why it was rolled back."""
    resource_branch: str = ""
    """What an EXTERNAL resource calls it, from PREPARED on."""
    forced: Forced | None = None
    """Who forced it, when and why."""
    by_hand: str = ""
    """Of a commit that people made, and have forgotten since: who, when and why. It proves nothing (`transitions`)."""
    decided: common_pb2.Outcome.ValueType = common_pb2.OUTCOME_UNSPECIFIED
    """Of a parked branch: how it should have ended."""
    detail: str = ""
    """Of a parked branch: why it could not be finished."""
    durable: bool = False
    """Whether its present outcome is known to be durable."""
    logged: bool = False
    """Whether the log must hold records of it."""
    proves_abort: bool = False
    """Whether its rollback proves that no COMMIT was decided; see `troth.v1.Settlement`."""
    patient: bool = False
    """Whether nobody waits for the acknowledgement of its commit."""
    early: bool = False
    """Whether it is prepared, or being prepared, before anybody has asked (`early`)."""
    operation_count: int = 0
    """Of such a branch: how many operations succeeded."""
    early_tickets: tuple[Any, ...] = ()
    """Who waits for its early vote."""

    def __repr__(self) -> str:
        return f"<{self.transaction_id} {self.state.name}>"
