"""The coordinator's book: everything it knows, and everything it wants from the world.

The book holds no rule of the protocol. It looks things up, makes messages, and collects effects and appends in `ready`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects
from coordinator.core.events import Durable, Run
from coordinator.core.model import (
    BRANCH_HEURISTIC,
    COMMITTING,
    FINISHED,
    OVER,
    Branch,
    BranchStep,
    Counters,
    Finished,
    KeyEntry,
    Participant,
    Session,
    State,
    ToParticipant,
    Transaction,
)
from coordinator.core.settings import CoreSettings
from troth.backoff import Backoff
from troth.clock import DurableClock
from troth.errors import Reason
from troth.ids import TransactionId
from troth.ready import Append, Event, Instant, Ready
from troth.timers import Timers
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2

COMMIT = participant_pb2.DECISION_KIND_COMMIT
ABORT = participant_pb2.DECISION_KIND_ABORT

_OWES_COMMIT = frozenset({BranchStep.YES, BranchStep.COMMIT_OWED, BranchStep.HEURISTIC})


UNSEEN_RESULT_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of answers with results that are kept until clients have acknowledged them, over all sessions."""


def cause_of(reason: Reason, message: str, *, participant: str = "") -> common_pb2.Cause:
    """A cause with a stable reason."""
    return common_pb2.Cause(
        reason=reason.name, participant=participant, message=f"{message} ({reason.hint})", retryable=reason.retryable
    )


@lru_cache(maxsize=1024)
def peers_of(names: tuple[str, ...]) -> bytes:
    """The serialised Peers of a transaction. Transactions of the same participants share it."""
    return participant_pb2.Peers(participants=names).SerializeToString()


def without_results(answer: client_pb2.Answer) -> client_pb2.Answer:
    """The outcome alone."""
    bare = client_pb2.Answer()
    bare.CopyFrom(answer)
    del bare.results[:]
    bare.results_available = False
    return bare


class Book:
    """What the coordinator knows and wants."""

    def __init__(self, settings: CoreSettings, coordinator: str, nonce: str) -> None:
        self.settings = settings
        self.coordinator = coordinator
        self.nonce = nonce
        self.epoch = 0
        self.now = Instant(0.0, 0)
        self.clock = DurableClock()
        self.clock_ms = 0
        self.ready = Ready()
        self.live: dict[str, Transaction] = {}
        self.finished: OrderedDict[str, Finished] = OrderedDict()
        self.recorded = 0
        """How many entries of `finished` the log holds."""
        self.result_bytes = 0
        self.unseen_bytes = 0
        """Bytes of answers with results that clients have not acknowledged."""
        self.dropped_through_ms = 0
        self.keys: dict[str, KeyEntry] = {}
        self.participants: dict[str, Participant] = {}
        self.sessions: dict[str, Session] = {}
        self.timers: Timers[str] = Timers()
        self.resend = Backoff(settings.resend_first_seconds, settings.resend_cap_seconds)
        self.counters = Counters()
        self.last_session = 0
        """The highest session of this epoch: what a later one will number has not begun."""
        self.ordered: set[tuple[str, str]] = set()
        """Participant and transaction of each order of an operator that has not been answered."""
        self.late_heuristics = 0
        """Transactions that are kept only because a participant contradicted them after they were over."""
        self.draining = False
        self.evicting = False
        """Whether a Horizon record is on its way."""
        self.joiners: dict[str, list[Run]] = {}
        """Retries with the key of a transaction that is being settled, by its id."""
        self.watchers: dict[str, list[Any]] = {}
        """Tickets of those who are told each state of a transaction, by its id."""
        self.serving = False
        """Whether the epoch is durable. Until then events wait in `again`."""
        self.again: deque[Event] = deque()
        """Events that are taken after the present one."""

    def read_clocks(self, now: Instant) -> None:
        """Take over a reading of the clocks. The events of one turn share one, so ask first whether it is another one."""
        self.now = now
        self.clock_ms = self.clock.read(now)

    def may_have_begun(self, parsed: TransactionId) -> bool:
        """Whether a transaction that is neither live nor retained may have been one of ours.

        Of this epoch only what a session numbered that is over, and the numbers that an open one has used: a client may still
        begin what its open session, or one that is yet to come, has not used.
        """
        if parsed.coordinator != self.coordinator or parsed.epoch > self.epoch:
            return False
        if parsed.epoch < self.epoch:
            return True
        if parsed.nonce != self.nonce or parsed.session > self.last_session:
            return False
        session = self.sessions.get(parsed.session_prefix)
        return session is None or parsed.number < session.answered_below or parsed.number in session.answers

    # ---- records

    def record(self) -> record_pb2.CoordinatorRecord:
        """A record of now, to be filled."""
        record = record_pb2.CoordinatorRecord()
        record.at_ms = self.clock_ms
        return record

    def record_of(self, **kind: Message) -> record_pb2.CoordinatorRecord:
        """A record of now; `kind` is the field with its message, which is copied."""
        return record_pb2.CoordinatorRecord(at_ms=self.clock_ms, **kind)  # type: ignore[arg-type]  # by field name

    def append(self, owner: str, record: record_pb2.CoordinatorRecord, *, force: bool, event: Durable | None = None) -> None:
        """Append one record."""
        self.ready.appends.append(Append(record, owner, force, (), event))

    def decided_record(self, txn: Transaction) -> record_pb2.CoordinatorRecord:
        """The COMMIT decision, with the branches that still owe something."""
        record = self.record()
        decided = record.decided
        decided.participants.extend(txn.branches)
        decided.transaction_id = txn.id
        decided.first_attempt_ms = txn.first_attempt_ms
        owing = {i: branch.order for i, branch in enumerate(txn.branches.values()) if branch.step in _OWES_COMMIT}
        decided.owing.extend(owing)
        decided.orders.extend(owing.values())
        if txn.claim is not None:
            decided.claim.CopyFrom(txn.claim)
        return record

    # ---- messages to participants

    def send(
        self, participant: Participant, field: str, message: ToParticipant, *, early: bool = False, patient: bool = False
    ) -> bool:
        """Send to a participant that is ready; otherwise Hello settles it. What Hello does not settle may be sent `early`."""
        if not (participant.ready or (early and participant.stream)):
            return False
        self.ready.effects.append(effects.Send(participant.name, participant.stream, field, message, patient))
        return True

    def send_prepare(self, txn: Transaction, branch: Branch, *, one_phase: bool = False) -> None:
        """Ask for a vote, or hand the decision over."""
        prepare = participant_pb2.Prepare()
        prepare.transaction_id = txn.id
        prepare.order = branch.order
        prepare.incarnation = branch.incarnation
        prepare.first_attempt_ms = txn.first_attempt_ms
        left_ms = int((txn.deadline - self.now.monotonic) * 1000)
        prepare.timeout_ms = left_ms if left_ms > 0 else 1
        prepare.peers = txn.peers
        if one_phase:
            prepare.one_phase = True
        if branch.operations:
            operations = prepare.operations
            for name, arguments in branch.operations:
                operation = operations.add()
                operation.name = name
                operation.arguments = arguments
        if txn.interactive:
            prepare.interactive = True
            prepare.operation_count = branch.operation_count
        if txn.hold_read_locks:
            prepare.hold_read_locks = True
        if txn.trace is not None:
            prepare.trace.CopyFrom(txn.trace)
        if txn.claim is not None:
            prepare.key = txn.claim.key
        self.counters.prepares += self.send(branch.participant, "prepares", prepare)

    def send_decision(
        self, participant: Participant, transaction_id: str, order: int, kind: participant_pb2.DecisionKind.ValueType,
        *, acknowledge: bool = False, urgent: bool = False,
    ) -> None:  # fmt: skip
        """Tell how a branch ends; `urgent` when somebody waits for the acknowledgement."""
        message = participant_pb2.Decision()
        message.transaction_id = transaction_id
        message.order = order
        message.kind = kind
        if acknowledge:
            message.acknowledge = True
        if urgent:
            message.urgent = True
        self.counters.decisions += self.send(participant, "decisions", message, patient=not urgent)

    def send_settle(self, txn: Transaction, branch: Branch) -> None:
        """Ask, by rollback-if-unseen, what became of a branch."""
        message = participant_pb2.RollbackIfUnseen(transaction_id=txn.id, order=branch.order)
        self.counters.settlements += self.send(branch.participant, "settles", message)

    # ---- participants, branches and transactions

    def participant(self, name: str) -> Participant:
        """The participant of a name; from now on it is known."""
        known = self.participants.get(name)
        if known is None:
            known = self.participants[name] = Participant(name)
        return known

    def add_branch(self, txn: Transaction, participant: Participant) -> Branch:
        """A new branch with an order of its own; it belongs to the participant's present incarnation."""
        order = participant.next_order
        participant.next_order = order + 1
        participant.unended[order] = txn
        branch = txn.branches[participant.name] = Branch(participant, order, participant.incarnation)
        return branch

    def add_recovered_branch(self, txn: Transaction, name: str, order: int, step: BranchStep) -> Branch:
        """A branch of an earlier epoch, or of one that is not known here: no watermark goes out while it is unfinished."""
        participant = self.participant(name)
        branch = Branch(participant, order, 0)
        branch.step = step
        txn.branches[name] = branch
        participant.recovered[txn.id] = txn
        return branch

    def end_branch(self, txn: Transaction, branch: Branch, step: BranchStep = OVER) -> None:
        """Nothing more is owed for a branch; the watermark may pass it."""
        branch.step = step
        participant = branch.participant
        # A branch of an earlier epoch may have the same order as one of this epoch, which must stay pinned.
        if participant.unended.get(branch.order) is txn:
            del participant.unended[branch.order]
        if participant.recovered:
            participant.recovered.pop(txn.id, None)

    def is_pinned(self, txn: Transaction, branch: Branch) -> bool:
        """Whether the watermark still waits for a branch."""
        return branch.participant.unended.get(branch.order) is txn or txn.id in branch.participant.recovered

    def end_branches(self, txn: Transaction) -> None:
        """Nothing more is owed for any branch."""
        for branch in txn.branches.values():
            self.end_branch(txn, branch, branch.step if branch.step is BRANCH_HEURISTIC else OVER)

    def set_state(self, txn: Transaction, state: State) -> None:
        """Move a transaction, and tell its watchers."""
        txn.state = state
        txn.attempt = 0
        if txn.id in self.watchers:
            tickets = self.watchers.pop(txn.id) if state in FINISHED else self.watchers[txn.id]
            for ticket in tickets:
                self._tell_watcher(ticket, txn)

    def watch(self, ticket: Any, txn: Transaction) -> None:
        """Tell a watcher where a transaction is, and from now on where it goes."""
        if txn.state not in FINISHED:
            self.watchers.setdefault(txn.id, []).append(ticket)
        self._tell_watcher(ticket, txn)

    def unwatch(self, ticket: Any) -> None:
        """Tell a watcher nothing more."""
        for transaction_id, tickets in list(self.watchers.items()):
            if ticket in tickets:
                tickets.remove(ticket)
                if not tickets:
                    del self.watchers[transaction_id]

    def _tell_watcher(self, ticket: Any, txn: Transaction) -> None:
        last = txn.state in FINISHED
        response = client_pb2.WatchResponse(state=txn.state.value, explanation=explain_state(txn), outcome=txn.outcome)
        self.ready.effects.append(effects.Watched(ticket, response, last))

    # ---- answers

    def answer(self, session: Session, answer: client_pb2.Answer) -> None:
        """Answer a client, and keep the answer until the client has acknowledged it."""
        number = answer.number
        session.live.pop(number, None)
        if session.keeps_answers and number >= session.answered_below:
            if number in session.answers:
                self.drop_answer(session, number)
            session.answers[number] = self._kept(session, answer) if answer.results_available else answer
        self.ready.effects.append(effects.Answered(session.name, answer))

    def _kept(self, session: Session, answer: client_pb2.Answer) -> client_pb2.Answer:
        """What is kept of an answer with results: the outcome is owed for ever, its results only as far as there is room."""
        size = answer.ByteSize()
        if self.unseen_bytes + size > UNSEEN_RESULT_BYTES_MAX:
            return without_results(answer)
        self.unseen_bytes += size
        session.answer_bytes[answer.number] = size
        return answer

    def drop_answer(self, session: Session, number: int) -> None:
        """Keep an answer no longer."""
        session.answers.pop(number, None)
        self.unseen_bytes -= session.answer_bytes.pop(number, 0)

    def answer_all(self, txn: Transaction) -> None:
        """Answer everybody who waits for a transaction whose outcome is known, or is told as in doubt."""
        if txn.asked and txn.session is not None:
            txn.asked = False
            self.answer(txn.session, self.make_answer(txn, txn.number))
        if txn.joined is not None:
            joined, txn.joined = txn.joined, None
            for (_, number), session in joined.items():
                self.answer(session, self.make_answer(txn, number, replayed=True))
        if txn.tickets:
            tickets, txn.tickets = txn.tickets, ()
            for ticket in tickets:
                self.ready.effects.append(effects.Got(ticket, self.make_answer(txn, 0)))

    def make_answer(self, txn: Transaction, number: int, *, replayed: bool = False) -> client_pb2.Answer:
        """The answer of a transaction as it stands."""
        outcome = txn.outcome
        answer = client_pb2.Answer()
        answer.number = number
        answer.transaction_id = txn.id
        answer.outcome = outcome
        if txn.state is COMMITTING:
            answer.pending = True
        if replayed:
            answer.replayed = True
        if outcome == common_pb2.OUTCOME_COMMITTED:
            answer.results_available = not txn.results_lost
            results = answer.results
            for name, branch in txn.branches.items():
                if branch.results:
                    one = results.add()
                    one.participant = name
                    one.results = branch.results
        elif txn.cause is not None:
            answer.cause.CopyFrom(txn.cause)
        return answer

    def refuse(self, session: Session, number: int, transaction_id: str, cause: common_pb2.Cause) -> None:
        """Answer a request of which nothing has run. Where there is no room to keep that, the number alone is remembered: a repeat
        that is on its way must not run when the client has been told that it did not."""
        self.counters.refused += 1
        refusal = client_pb2.Answer(number=number, transaction_id=transaction_id, outcome=common_pb2.OUTCOME_ABORTED, cause=cause)
        if session.has_room(self.settings.unseen_answers_max):
            self.answer(session, refusal)
        else:
            session.shed_through = max(session.shed_through, number)
            self.ready.effects.append(effects.Answered(session.name, refusal))

    def answer_finished(self, transaction_id: str, done: Finished, number: int) -> client_pb2.Answer:
        """The answer of a finished transaction."""
        answer = client_pb2.Answer(
            number=number,
            transaction_id=transaction_id,
            outcome=done.outcome,
            cause=done.cause,
            results_available=done.results is not None,
            replayed=True,
        )
        for name, results in (done.results or {}).items():
            answer.results.add(participant=name, results=results)
        return answer


_WORDS = {
    State.ACTIVE: "The client has not asked to commit yet.",
    State.PREPARING: "Waiting for the votes of {owing}.",
    State.DECIDING: "All voted YES; the decision is being made durable.",
    State.COMMITTING: "COMMIT is decided and durable; waiting for the acknowledgements of {owing}.",
    State.OPENING: "The idempotency key is being made durable before the work is handed over.",
    State.HANDED_OVER: "The only participant, {owing}, decides; waiting for its answer.",
    State.SETTLING: "It is not known what became of it; {owing} is asked.",
    State.COMMITTED: "Committed everywhere.",
    State.ABORTED: "Aborted everywhere.",
    State.HEURISTIC: "It ended in different ways in different places; an operator must look and then forget it.",
    State.EXPIRED: "Older than the retention; nobody can tell any more.",
}


def explain_state(txn: Transaction) -> str:
    """Why a transaction is where it is, in one sentence."""
    return _WORDS[txn.state].format(owing=", ".join(txn.owing()) or "nobody")
