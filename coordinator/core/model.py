"""What the coordinator knows: transactions, branches, participants, sessions, keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2


class State(Enum):
    """Where a transaction is. `coordinator.core.transitions` tells how it moves."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python function, called at each look into the table

    ACTIVE = "ACTIVE"
    """Begun by an interactive client; branches may enlist."""
    PREPARING = "PREPARING"
    """Prepare is sent; votes are awaited."""
    DECIDING = "DECIDING"
    """All voted YES; the COMMIT record is not durable yet."""
    COMMITTING = "COMMITTING"
    """COMMIT is decided and durable; acknowledgements are awaited."""
    OPENING = "OPENING"
    """One participant, with a key: the key's record is not durable yet."""
    HANDED_OVER = "HANDED_OVER"
    """One participant: it decides; nobody else may."""
    SETTLING = "SETTLING"
    """Participants are asked, by rollback-if-unseen, what became of it."""
    COMMITTED = "COMMITTED"
    """Finished; its Ended record may not be durable yet."""
    ABORTED = "ABORTED"
    """Finished; there is no record of it."""
    HEURISTIC = "HEURISTIC"
    """Finished in different ways in different places; kept until an operator forgets it."""
    EXPIRED = "EXPIRED"
    """Participants have forgotten what became of it."""


# The members that every transaction meets. Until Python 3.12 an enum's class looks its members up at each use by a hook, which
# takes ten times as long as a name.
ACTIVE: Final = State.ACTIVE
PREPARING: Final = State.PREPARING
DECIDING: Final = State.DECIDING
COMMITTING: Final = State.COMMITTING
COMMITTED: Final = State.COMMITTED
HEURISTIC: Final = State.HEURISTIC

FINISHED = frozenset({State.COMMITTED, State.ABORTED, State.HEURISTIC, State.EXPIRED})
UNDECIDED = frozenset({State.ACTIVE, State.PREPARING})

OUTCOMES = {
    State.COMMITTING: common_pb2.OUTCOME_COMMITTED,
    State.COMMITTED: common_pb2.OUTCOME_COMMITTED,
    State.ABORTED: common_pb2.OUTCOME_ABORTED,
    State.EXPIRED: common_pb2.OUTCOME_EXPIRED,
}
"""What is told of each state; HEURISTIC has its own rule, and in all others the outcome is in doubt."""


class BranchStep(Enum):
    """Where a branch is, as far as the coordinator knows."""

    __hash__ = object.__hash__

    ENLISTED = "ENLISTED"
    """Known; nothing has been asked of it."""
    VOTE_OWED = "VOTE_OWED"
    """Prepare was sent, or waits for the participant to come back."""
    YES = "PREPARED"
    """Voted YES."""
    COMMIT_OWED = "COMMIT_OWED"
    """COMMIT was sent, or waits for the participant to come back; no acknowledgement yet."""
    SETTLE_OWED = "SETTLE_OWED"
    """Rollback-if-unseen was sent, or waits for the participant to come back."""
    OVER = "OVER"
    """Nothing more is owed: read-only, acknowledged, or rolled back."""
    HEURISTIC = "HEURISTIC"
    """It ended, or may have ended, differently from the decision."""


ENLISTED: Final = BranchStep.ENLISTED
VOTE_OWED: Final = BranchStep.VOTE_OWED
YES: Final = BranchStep.YES
COMMIT_OWED: Final = BranchStep.COMMIT_OWED
OVER: Final = BranchStep.OVER
BRANCH_HEURISTIC: Final = BranchStep.HEURISTIC

Operations = Sequence[tuple[str, bytes]]
"""The name and the arguments of each operation, in order."""


class Branch:
    """One participant's part of a transaction."""

    __slots__ = ("incarnation", "operation_count", "operations", "order", "participant", "results", "step")

    def __init__(self, participant: Participant, order: int, incarnation: int) -> None:
        self.participant = participant
        self.order = order
        self.incarnation = incarnation
        self.step: BranchStep = ENLISTED
        self.operations: Operations = ()
        """Of a one-shot transaction; not the request's own messages, which would keep the whole frame that they came in."""
        self.operation_count = 0
        self.results = b""


class Transaction:
    """One transaction that is not finished, or is finished and has still something owed."""

    __slots__ = (
        "asked", "attempt", "began", "branches", "cause", "claim", "deadline", "first_attempt_ms", "heuristic",
        "hold_read_locks", "id", "interactive", "joined", "late", "missing", "number", "peers", "results_lost",
        "session", "state", "tickets", "trace", "wait_complete",
    )  # fmt: skip

    def __init__(self, transaction_id: str, session: Session | None, number: int, state: State) -> None:
        self.id = transaction_id
        self.session = session
        self.number = number
        self.state = state
        self.interactive = False
        self.claim: record_pb2.KeyClaim | None = None
        self.first_attempt_ms = 0
        self.began = 0.0
        self.deadline = 0.0
        self.attempt = 0
        self.wait_complete = False
        self.hold_read_locks = False
        self.branches: dict[str, Branch] = {}
        self.missing = 0
        """Votes, acknowledgements or settlements that are awaited."""
        self.cause: common_pb2.Cause | None = None
        self.peers = b""
        self.trace: common_pb2.TraceContext | None = None
        self.asked = False
        """Whether its own client is to be answered, under its own number."""
        self.joined: dict[tuple[str, int], Session] | None = None
        """Who else is to be answered, by the session's name and the number."""
        self.tickets: tuple[Any, ...] = ()
        """Get requests that wait."""
        self.heuristic: tuple[record_pb2.Heuristic, ...] = ()
        self.results_lost = False
        self.late = False
        """Whether it was over, and is kept only because a participant contradicted it since."""

    def __repr__(self) -> str:
        return f"<{self.id} {self.state.value}>"

    @property
    def outcome(self) -> common_pb2.Outcome.ValueType:
        """What is told of it now."""
        if self.heuristic:
            return heuristic_outcome(self.heuristic)
        return OUTCOMES.get(self.state, common_pb2.OUTCOME_IN_DOUBT)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody is to be answered."""
        return self.asked or bool(self.joined)

    def wait_for(self, session: Session, number: int) -> None:
        """Let a number of a session be answered with it."""
        if session is self.session and number == self.number:
            self.asked = True
        elif self.joined is None:
            self.joined = {(session.name, number): session}
        else:
            self.joined[session.name, number] = session

    def forsake(self, session: Session) -> None:
        """Answer a session no longer."""
        self.asked = self.asked and self.session is not session
        self.joined = {key: waiting for key, waiting in (self.joined or {}).items() if waiting is not session} or None

    def owing(self) -> list[str]:
        """Participants that owe a vote, an acknowledgement or a settlement."""
        owed = (BranchStep.VOTE_OWED, BranchStep.COMMIT_OWED, BranchStep.SETTLE_OWED)
        return [name for name, branch in self.branches.items() if branch.step in owed]


def heuristic_outcome(reports: Sequence[record_pb2.Heuristic]) -> common_pb2.Outcome.ValueType:
    """MIXED when a branch is known to have ended against the decision; HAZARD when one may have; else as decided."""
    decided = common_pb2.OUTCOME_COMMITTED if reports[0].commit_decided else common_pb2.OUTCOME_ABORTED
    ends = {report.branch_outcome for report in reports}
    if common_pb2.OUTCOME_HAZARD in ends:
        return common_pb2.OUTCOME_HAZARD
    return decided if ends == {decided} else common_pb2.OUTCOME_MIXED


@dataclass(slots=True)
class Participant:
    """One participant, by name."""

    name: str
    log_id: str = ""
    incarnation: int = 0
    stream: int = 0
    """The stream that speaks for it; 0 while it is away."""
    ready: bool = False
    """Whether its Hello is complete: only then is anything sent to it."""
    software: str = ""
    operations: frozenset[str] = frozenset()
    next_order: int = 1
    unended: dict[int, Transaction] = field(default_factory=dict)
    """Unfinished branches of this epoch by order. Insertion order is numeric order: the first one is the watermark."""
    recovered: dict[str, Transaction] = field(default_factory=dict)
    """Unfinished branches of earlier epochs by transaction; while there are any, no watermark goes out."""
    questions: dict[str, int] = field(default_factory=dict)
    """Unprepared branches, with their orders, that Hello listed of transactions that are not live. Each is asked about by
    rollback-if-unseen, because it may be a one-phase commit that still runs; until it has answered no watermark goes out."""
    watermark_sent: int = 0
    reports: dict[str, participant_pb2.BranchReport] = field(default_factory=dict)
    """What an incomplete Hello has listed so far."""

    def watermark(self) -> int:
        """The lowest order that is not finished."""
        return next(iter(self.unended), self.next_order)


@dataclass(slots=True)
class Session:
    """One client session. `answers` holds what the client has not acknowledged yet."""

    name: str
    keeps_answers: bool = True
    """False for the session of unary calls, whose answers are not acknowledged."""
    connected: bool = True
    live: dict[int, Transaction] = field(default_factory=dict)
    answers: dict[int, client_pb2.Answer] = field(default_factory=dict)
    answer_bytes: dict[int, int] = field(default_factory=dict)
    """How large those of the answers are that have results."""
    answered_below: int = 1
    shed_through: int = 0
    """The highest number that was refused when there was no room to keep the answer: what has not begun up to here never will."""

    def has_room(self, unseen_answers_max: int) -> bool:
        """Whether the client leaves fewer answers unacknowledged than it may."""
        return len(self.answers) + len(self.live) < unseen_answers_max


@dataclass(slots=True)
class KeyEntry:
    """Who holds an idempotency key."""

    claim: record_pb2.KeyClaim
    transaction_id: str
    live: Transaction | None
    """The holder while it is not finished; then `None`, and `transaction_id` is a committed transaction."""
    finished_ms: int = 0


@dataclass(slots=True)
class Finished:
    """A finished transaction within the retention."""

    outcome: common_pb2.Outcome.ValueType
    first_attempt_ms: int
    at_ms: int
    participants: tuple[str, ...]
    cause: common_pb2.Cause | None = None
    claim: record_pb2.KeyClaim | None = None
    results: dict[str, bytes] | None = None
    """What the operations returned; `None` when it is no longer available."""
    recorded: bool = False
    """Whether the log holds it."""


FinishedTable = OrderedDict[str, Finished]

ToParticipant = (
    participant_pb2.Enlisted
    | participant_pb2.Prepare
    | participant_pb2.Decision
    | participant_pb2.RollbackIfUnseen
    | participant_pb2.Force
)


class Counters:
    """What the core did since it started. Messages are counted as DESIGN §4 counts them."""

    __slots__ = (
        "aborted", "acknowledgements", "committed", "decisions", "heuristic", "overloaded", "prepares", "refused",
        "reports_refused", "settlements", "started", "votes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started = self.committed = self.aborted = self.heuristic = self.refused = self.overloaded = 0
        self.reports_refused = 0
        self.prepares = self.votes = self.decisions = self.acknowledgements = self.settlements = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}
