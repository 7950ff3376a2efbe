"""What the coordinator knows: transactions, branches, participants, sessions, keys."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from coordinator.core.dropped import Behind
from coordinator.core.events import Get, Run
from coordinator.core.verdict import heuristic_outcome
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2


class State(Enum):
    """Where a transaction is. `coordinator.core.transitions` tells how it moves."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python function, called at each look into the table

    ACTIVE = "ACTIVE"
    """Begun by an interactive client; branches may enlist."""
    PREPARING = "PREPARING"
    """Prepare is sent; votes are awaited."""
    DECIDING = "DECIDING"
    """All voted YES, or nothing was changed and there is a result to be kept; the record of it is not durable yet."""
    COMMITTING = "COMMITTING"
    """COMMIT is decided and durable; acknowledgements are awaited."""
    OPENING = "OPENING"
    """One participant, with a key: the key's record is not durable yet."""
    HANDED_OVER = "HANDED_OVER"
    """One participant: it decides; nobody else may."""
    SETTLING = "SETTLING"
    """Participants are asked, by rollback-if-unseen, what became of it."""
    PROVING = "PROVING"
    """The log has lost what was decided of it: its participants are asked, and what they say decides, if it proves anything."""
    COMMITTED = "COMMITTED"
    """Finished; its Ended record may not be durable yet."""
    ABORTED = "ABORTED"
    """Finished; there is no record of it."""
    HEURISTIC = "HEURISTIC"
    """Finished in different ways in different places, or by hand where no decision is known; kept until an operator forgets it."""
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
SETTLING: Final = State.SETTLING

FINISHED = frozenset({State.COMMITTED, State.ABORTED, State.HEURISTIC, State.EXPIRED})
UNDECIDED = frozenset({State.ACTIVE, State.PREPARING})

OUTCOMES = {
    State.COMMITTING: common_pb2.OUTCOME_COMMITTED,
    State.COMMITTED: common_pb2.OUTCOME_COMMITTED,
    State.ABORTED: common_pb2.OUTCOME_ABORTED,
    State.EXPIRED: common_pb2.OUTCOME_EXPIRED,
}
"""What is told of each state; HEURISTIC has its own rule, and in all others the outcome is in doubt."""


class Beginning(Enum):
    """Whether the present life has begun; `coordinator.core.hearing` tells how it does."""

    HEARING = "HEARING"
    """Those whom the log has bound are heard first."""
    REFUSED = "REFUSED"
    """One of them has heard what the log does not say."""
    BEGUN = "BEGUN"


class BranchStep(Enum):
    """Where a branch is, as far as the coordinator knows."""

    __hash__ = object.__hash__

    ENLISTED = "ENLISTED"
    """Known; nothing has been asked of it."""
    READY = "PREPARED_EARLY"
    """Known; its participant has said that it is prepared, before it was asked (see `early`)."""
    VOTE_OWED = "VOTE_OWED"
    """Prepare was sent, or waits for the participant to come back."""
    YES = "PREPARED"
    """Voted YES."""
    COMMIT_OWED = "COMMIT_OWED"
    """COMMIT was sent, or waits for the participant to come back; no acknowledgement yet."""
    SETTLE_OWED = "SETTLE_OWED"
    """Rollback-if-unseen was sent, or waits for the participant to come back."""
    DISPROVES = "DISPROVES"
    """Rolled back, in a way that proves that no COMMIT was decided; of a transaction that is being proven."""
    GONE = "GONE"
    """Only the log that its participant had before could tell how it ended (see `replaced`)."""
    OVER = "OVER"
    """Nothing more is owed: read-only, acknowledged, or rolled back."""
    HEURISTIC = "HEURISTIC"
    """It ended, or may have ended, differently from the decision."""


ENLISTED: Final = BranchStep.ENLISTED
READY: Final = BranchStep.READY
VOTE_OWED: Final = BranchStep.VOTE_OWED
YES: Final = BranchStep.YES
COMMIT_OWED: Final = BranchStep.COMMIT_OWED
SETTLE_OWED: Final = BranchStep.SETTLE_OWED
OVER: Final = BranchStep.OVER
BRANCH_HEURISTIC: Final = BranchStep.HEURISTIC

Operations = Sequence[tuple[str, bytes]]
"""The name and the arguments of each operation, in order."""


class Branch:
    """One participant's part of a transaction."""

    __slots__ = (
        "changed", "incarnation", "operation_count", "operations", "order", "over_at", "participant", "results", "step", "voted_at",
    )  # fmt: skip

    def __init__(self, participant: Participant, order: int, incarnation: int) -> None:
        self.participant = participant
        self.order = order
        self.incarnation = incarnation
        self.step: BranchStep = ENLISTED
        self.operations: Operations = ()
        """Of a one-shot transaction; not the request's own messages, which would keep the whole frame that they came in."""
        self.operation_count = 0
        self.results = b""
        self.voted_at = self.over_at = 0.0
        """When its vote came, and when it had acknowledged the decision, in monotonic seconds; 0 for never."""
        self.changed = False
        """Whether it voted YES, or committed in one phase, as far as it is decided: its log has it until the watermark."""


class Transaction:
    """One transaction that is not finished, or is finished and has still something owed."""

    __slots__ = (
        "argument_bytes", "asked", "attempt", "began", "branches", "cause", "claim", "deadline", "eldest_ms", "first_attempt_ms",
        "held_bytes", "heuristic", "hold_read_locks", "id", "interactive", "joined", "late", "missing", "number", "owner", "peers",
        "repeated_at", "results_lost", "session", "state", "steps", "tickets", "trace", "traceparent",
        "wait_complete",
    )  # fmt: skip

    def __init__(self, transaction_id: str, session: Session | None, number: int, state: State) -> None:
        self.id = transaction_id
        self.session = session
        self.number = number
        self.state = state
        self.interactive = False
        self.claim: record_pb2.KeyClaim | None = None
        self.first_attempt_ms = 0
        self.eldest_ms = 0
        """Of one-shot work: the first attempt of the eldest one-shot that was undecided when it began, itself included."""
        self.began = 0.0
        self.deadline = 0.0
        self.attempt = 0
        self.wait_complete = False
        self.hold_read_locks = False
        self.branches: dict[str, Branch] = {}
        self.owner = ""
        """The identity that began it; empty for anybody's."""
        self.missing = 0
        """Votes, acknowledgements or settlements that are awaited."""
        self.cause: common_pb2.Cause | None = None
        self.peers = b""
        self.trace: common_pb2.TraceContext | None = None
        self.traceparent = ""
        """What of it is written down."""
        self.asked = False
        """Whether its own client is to be answered, under its own number."""
        self.joined: dict[tuple[str, int], Session] | None = None
        """Who else is to be answered, by the session's name and the number."""
        self.tickets: tuple[Get, ...] = ()
        """Get requests that wait."""
        self.heuristic: tuple[record_pb2.Heuristic, ...] = ()
        self.results_lost = False
        self.held_bytes = 0
        """Its share of `Book.open_bytes`."""
        self.argument_bytes = 0
        """What of it are arguments."""
        self.steps: list[tuple[State, float]] = []
        """Each state that it came to, and when, in monotonic seconds."""
        self.repeated_at: tuple[float, ...] = ()
        """When messages were repeated: the first times."""
        self.late = False
        """Whether it was over, and is kept only because a participant contradicted it since."""

    def __repr__(self) -> str:
        return f"<{self.id} {self.state.value}>"

    @property
    def has_result(self) -> bool:
        """Whether its caller has left a result under its key; see `kept`."""
        return self.claim is not None and bool(self.claim.result)

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


def outcome_name(outcome: common_pb2.Outcome.ValueType) -> str:
    """The outcome without the prefix of its enum. Raises `ValueError` for a number that has no name."""
    return _OUTCOMES.get(outcome) or common_pb2.Outcome.Name(outcome)


_OUTCOMES = {number: name.removeprefix("OUTCOME_") for name, number in common_pb2.Outcome.items()}


class ToldBlocks(NamedTuple):
    """Whom a branch in doubt holds up, as its participant has told last; see `blocking`."""

    blocks: common_pb2.Blocks
    since_ms: int
    """When it was first told to hold somebody up, by the coordinator's clock; 0 while it holds nobody up."""
    at: float
    """When it was told, in monotonic seconds."""


Identity = tuple[str, int, str]
"""Log id, incarnation and nonce."""


@dataclass(slots=True)
class Participant:
    """One participant, by name."""

    name: str
    log_id: str = ""
    incarnation: int = 0
    nonce: str = ""
    """What the process of this incarnation drew at random: another process of the same incarnation has another one."""
    awaited: str = ""
    """The log that an operator has named to take the name over; none but this one may, while nobody has the name."""
    refused_log_id: str = ""
    """The log that was refused last under the name."""
    heard: int = 0
    """The highest position of its log that it has told: what it knew there it must know for ever."""
    went_back: str = ""
    """Why its log was refused last, as one that was put back."""
    bound: Identity | None = None
    """The binding that is durable. Nobody is welcomed, and nothing is heard, under another one."""
    stream: int = 0
    """The stream that speaks for it; 0 while it is away."""
    welcomed: bool = False
    """Whether the stream was welcomed."""
    listed: bool = False
    """Whether its Hello has listed everything."""
    ready: bool = False
    """Whether it is welcomed and its Hello is complete: only then is anything sent to it."""
    software: str = ""
    loosely_coupled: bool = False
    """Whether one transaction may have branches in several slots of its service."""
    operations: frozenset[str] = frozenset()
    """What it offers, while a stream speaks for it; empty when it does not tell, or when there is no room to keep it."""
    names_bytes: int = 0
    """How much that is."""
    undeclared: dict[str, None] = field(default_factory=dict)
    """Its operations without lock keys for which somebody has waited, while a stream speaks for it."""
    invariants: dict[str, participant_pb2.InvariantReport] = field(default_factory=dict)
    """What it has told last of its own invariants (`invariants`), also while it is away."""
    blocking: dict[str, ToldBlocks] = field(default_factory=dict)
    """Whom its branches in doubt hold up (`blocking`), while a stream speaks for it."""
    next_order: int = 1
    unended: dict[int, Transaction] = field(default_factory=dict)
    """Unfinished branches of this epoch by order. Insertion order is numeric order: the first one is the watermark."""
    recovered: dict[str, Transaction] = field(default_factory=dict)
    """Unfinished branches of earlier epochs by transaction; while there are any, no watermark goes out."""
    questions: dict[str, int] = field(default_factory=dict)
    """Unprepared branches, with their orders, that Hello listed of transactions that are not live. Each is asked about by
    rollback-if-unseen, because it may be a one-phase commit that still runs; until it has answered no watermark goes out."""
    ordered: set[str] = field(default_factory=set)
    """Transactions whose branch an operator has ordered it to end, until it has answered; a new stream is owed nothing."""
    told_abort: set[str] = field(default_factory=set)
    """Transactions of which it asked and was told ABORT, until it has acknowledged that."""
    in_doubt: set[str] = field(default_factory=set)
    """Transactions that ended heuristically, and of which it was told the decision because it was in doubt, until it has
    acknowledged that: none of them is forgotten before (rule 18)."""
    given_up: set[str] = field(default_factory=set)
    """Transactions of which an operator has given up its acknowledgement, until a Hello is complete that does not list them as in
    doubt, or it acknowledges after all. Until then it may hold the branch: while it is away nobody may forget them (rule 18)."""
    stranded: dict[str, bytes] = field(default_factory=dict)
    """Branches that it is in doubt about, and of which this log can say nothing: another one began them, or it was put back. With
    the Peers of each, as far as they are known."""
    by_hand: dict[str, participant_pb2.Acknowledgement] = field(default_factory=dict)
    """How people have ended its branches of what is being proven; said again when that is over."""
    watermark_sent: int = 0
    before: tuple[int, int] = (0, 0)
    """The epoch and order behind the last branch of the log that had the name before the present one; see `recalling`."""
    recalling: bool = False
    """Whether the log that took the name over is still to be asked which commits before that it has. Until then no watermark."""
    recall_unsaid: bool = False
    """Whether it has been asked, and the log does not say so yet: until then no watermark, for a restart asks once more."""
    to_recall: deque[tuple[str, int]] = field(default_factory=deque)
    """Commits that it is to be asked about, with the orders of its branches, while a stream speaks for it."""
    recalled: dict[str, int] = field(default_factory=dict)
    """Those that it has been asked about, and has not answered yet."""
    forgotten_below: tuple[int, int] = (0, 0)
    """The epoch and order behind the newest commit that it has had and forgotten, by its answers: it had all that were before."""
    unlisted: Behind = (0, 0, 0)
    """How far commits were dropped before it could be asked about them, when nothing showed that it has them; zeros for none."""
    reports: dict[str, participant_pb2.BranchReport] = field(default_factory=dict)
    """What an incomplete Hello has listed so far."""
    report_bytes: int = 0
    """How much that is."""

    @property
    def identity(self) -> Identity:
        """Who its name belongs to, durably or not yet."""
        return self.log_id, self.incarnation, self.nonce

    def hang_up(self) -> None:
        """No stream speaks for it any more, and what an incomplete Hello has listed was never said: it must not count later."""
        self.stream = 0
        self.welcomed = self.listed = self.ready = False
        self.reports, self.report_bytes = {}, 0
        self.questions = {}
        self.operations, self.names_bytes = frozenset(), 0
        self.ordered, self.told_abort = set(), set()
        self.stranded, self.undeclared, self.blocking = {}, {}, {}
        self.to_recall, self.recalled, self.forgotten_below = deque(), {}, (0, 0)

    def was_before(self, epoch: int, order: int) -> bool:
        """Whether a branch is of the log that had the name before the present one: of it the present one may have lost anything."""
        return (epoch, order) < self.before

    def watermark(self) -> int:
        """The lowest order that is not finished."""
        return next(iter(self.unended), self.next_order)


@dataclass(slots=True)
class Session:
    """One client session. `answers` holds what the client has not acknowledged yet."""

    name: str
    client: str = ""
    """Who it is, for people; empty where nobody says."""
    owner: str = ""
    """The identity whose session it is; empty for anybody's."""
    keeps_answers: bool = True
    """False for the session of unary calls, whose answers are not acknowledged."""
    connected: bool = True
    live: dict[int, Transaction] = field(default_factory=dict)
    answers: dict[int, client_pb2.Answer] = field(default_factory=dict)
    unseen_bytes: int = 0
    """How large the answers are together."""
    answered_below: int = 1
    announced: set[int] = field(default_factory=set)
    """Transactions that participants have announced, and of which the client has said nothing yet."""
    shed_through: int = 0
    """The highest number that was refused when there was no room to keep the answer: what has not begun up to here never will."""

    def has_room(self, unseen_answers_max: int) -> bool:
        """Whether the client leaves fewer answers unacknowledged than it may."""
        return self.owed < unseen_answers_max

    @property
    def owed(self) -> int:
        """Answers that are unacknowledged, or will be."""
        return len(self.answers) + len(self.live)


class Joiner(NamedTuple):
    """A retry with the key of a transaction that is being settled."""

    event: Run
    until: float
    """When its own timeout ends, in monotonic seconds: from then on it is not run."""


def scoped(claim: record_pb2.KeyClaim) -> str:
    """Under what a key is held: its owner's keys are nobody else's."""
    return f"{claim.owner}\n{claim.key}" if claim.owner else claim.key


@dataclass(slots=True)
class KeyEntry:
    """Who holds an idempotency key."""

    claim: record_pb2.KeyClaim
    transaction_id: str
    live: Transaction | None
    """The holder while it is not finished; then `None`, and `transaction_id` is a committed transaction."""
    finished_ms: int = 0


@dataclass(frozen=True, slots=True)
class DealtWith:
    """A heuristic outcome that an operator has forgotten."""

    reports: tuple[record_pb2.Heuristic, ...]
    forgotten: record_pb2.Forgotten


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
    dealt_with: DealtWith | None = None
    """How it ended, when that was not as decided. `outcome` is what was decided, and counts for the protocol; IN_DOUBT: unknown."""
    orders: tuple[int, ...] = ()
    """The order of each participant's branch; 0 for who has only read. Of a commit; empty where it is not known."""
    owner: str = ""
    """The identity that began it; empty for anybody's."""

    @property
    def told(self) -> common_pb2.Outcome.ValueType:
        """What people and clients are told: forgetting a MIXED makes no plain COMMITTED of it."""
        return self.outcome if self.dealt_with is None else heuristic_outcome(self.dealt_with.reports)


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
