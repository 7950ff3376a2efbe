"""The coordinator's book: everything it knows, and everything it wants from the world.

The book holds no rule of the protocol. It looks things up, makes messages, and collects effects and appends in `ready`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from coordinator.core import effects
from coordinator.core.events import Durable, Run
from coordinator.core.model import (
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
from troth.ready import Append, Instant, Ready
from troth.timers import Timers
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2

COMMIT = participant_pb2.DECISION_KIND_COMMIT
ABORT = participant_pb2.DECISION_KIND_ABORT

_OWES_COMMIT = frozenset({BranchStep.YES, BranchStep.COMMIT_OWED, BranchStep.HEURISTIC})


UNSEEN_RESULT_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of results that are kept until clients have acknowledged their answers, over all sessions."""


def cause_of(reason: Reason, message: str, *, participant: str = "") -> common_pb2.Cause:
    """A cause with a stable reason."""
    return common_pb2.Cause(
        reason=reason.name, participant=participant, message=f"{message} ({reason.hint})", retryable=reason.retryable
    )


def results_bytes(answer: client_pb2.Answer) -> int:
    """Bytes of the results in an answer."""
    return sum(len(one.results) for one in answer.results)


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
        """Bytes of results in answers that clients have not acknowledged."""
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
        self.again: list[Run] = []
        """Retries that run again after this step."""

    def read_clocks(self, now: Instant) -> None:
        """Take over a reading of the clocks; the events of one turn share one."""
        if now is not self.now:
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

    def append(self, owner: str, *, force: bool, event: Durable | None = None, **kind: Any) -> None:
        """Append one record; `kind` is the field of CoordinatorRecord with its message."""
        record = record_pb2.CoordinatorRecord(at_ms=self.clock_ms, **kind)
        self.ready.appends.append(Append(record, owner, force, (), event))

    def decided_record(self, txn: Transaction) -> record_pb2.Decided:
        """The COMMIT decision, with the branches that still owe something."""
        owing = [i for i, branch in enumerate(txn.branches.values()) if branch.step in _OWES_COMMIT]
        return record_pb2.Decided(
            transaction_id=txn.id,
            participants=list(txn.branches),
            owing=owing,
            orders=[branch.order for branch in txn.branches.values() if branch.step in _OWES_COMMIT],
            claim=txn.claim,
            first_attempt_ms=txn.first_attempt_ms,
        )

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
        self.counters.prepares += self.send(
            branch.participant,
            "prepares",
            participant_pb2.Prepare(
                transaction_id=txn.id,
                order=branch.order,
                operations=branch.operations,
                operation_count=branch.operation_count,
                one_phase=one_phase,
                hold_read_locks=txn.hold_read_locks,
                incarnation=branch.incarnation,
                first_attempt_ms=txn.first_attempt_ms,
                timeout_ms=max(1, int((txn.deadline - self.now.monotonic) * 1000)),
                peers=txn.peers,
                trace=txn.trace,
                key=txn.claim.key if txn.claim else "",
                interactive=txn.interactive,
            ),
        )

    def send_decision(
        self, participant: Participant, transaction_id: str, order: int, kind: participant_pb2.DecisionKind.ValueType,
        *, acknowledge: bool = False, urgent: bool = False,
    ) -> None:  # fmt: skip
        """Tell how a branch ends; `urgent` when somebody waits for the acknowledgement."""
        message = participant_pb2.Decision(
            transaction_id=transaction_id, order=order, kind=kind, acknowledge=acknowledge, urgent=urgent
        )
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
        branch = Branch(participant, participant.take_order(), participant.incarnation)
        txn.branches[participant.name] = branch
        participant.unended[branch.order] = txn
        return branch

    def add_recovered_branch(self, txn: Transaction, name: str, order: int, step: BranchStep) -> Branch:
        """A branch of an earlier epoch, or of one that is not known here: no watermark goes out while it is unfinished."""
        participant = self.participant(name)
        branch = Branch(participant, order, 0)
        branch.step = step
        txn.branches[name] = branch
        participant.recovered[txn.id] = txn
        return branch

    def end_branch(self, txn: Transaction, branch: Branch, step: BranchStep = BranchStep.OVER) -> None:
        """Nothing more is owed for a branch; the watermark may pass it."""
        branch.step = step
        participant = branch.participant
        # A branch of an earlier epoch may have the same order as one of this epoch, which must stay pinned.
        if participant.unended.get(branch.order) is txn:
            del participant.unended[branch.order]
        participant.recovered.pop(txn.id, None)

    def is_pinned(self, txn: Transaction, branch: Branch) -> bool:
        """Whether the watermark still waits for a branch."""
        return branch.participant.unended.get(branch.order) is txn or txn.id in branch.participant.recovered

    def end_branches(self, txn: Transaction) -> None:
        """Nothing more is owed for any branch."""
        for branch in txn.branches.values():
            self.end_branch(txn, branch, branch.step if branch.step is BranchStep.HEURISTIC else BranchStep.OVER)

    def arm_resend(self, txn: Transaction) -> None:
        """Set the transaction's timer to its next repeat."""
        self.timers.set(txn.id, self.now.monotonic + self.resend.delay_seconds(txn.attempt, txn.id))
        txn.attempt += 1

    def set_state(self, txn: Transaction, state: State) -> None:
        """Move a transaction, and tell its watchers."""
        txn.state = state
        txn.attempt = 0
        for ticket in txn.watchers:
            self.tell_watcher(ticket, txn)

    def tell_watcher(self, ticket: Any, txn: Transaction) -> None:
        """Tell one watcher where a transaction is."""
        last = txn.state in (State.COMMITTED, State.ABORTED, State.HEURISTIC, State.EXPIRED)
        response = client_pb2.WatchResponse(state=txn.state.value, explanation=explain_state(txn), outcome=txn.outcome)
        self.ready.effects.append(effects.Watched(ticket, response, last))

    # ---- answers

    def answer(self, session: Session, answer: client_pb2.Answer) -> None:
        """Answer a client, and keep the answer until the client has acknowledged it."""
        session.live.pop(answer.number, None)
        if session.keeps_answers and answer.number >= session.answered_below:
            self._keep(session, answer)
        self.ready.effects.append(effects.Answered(session.name, answer))

    def _keep(self, session: Session, answer: client_pb2.Answer) -> None:
        if answer.results:
            self.unseen_bytes += results_bytes(answer)
            if self.unseen_bytes > UNSEEN_RESULT_BYTES_MAX:
                # The outcome is owed for ever; its results only as far as there is room.
                self.unseen_bytes -= results_bytes(answer)
                answer = without_results(answer)
        self.drop_answer(session, answer.number)
        session.answers[answer.number] = answer

    def drop_answer(self, session: Session, number: int) -> None:
        """Keep an answer no longer."""
        answer = session.answers.pop(number, None)
        if answer is not None and answer.results:
            self.unseen_bytes -= results_bytes(answer)

    def answer_all(self, txn: Transaction) -> None:
        """Answer everybody who waits for a transaction whose outcome is known, or is told as in doubt."""
        waiting, txn.answer_to = txn.answer_to, {}
        for (_, number), session in waiting.items():
            self.answer(session, self.make_answer(txn, number, replayed=number != txn.number or session is not txn.session))
        tickets, txn.tickets = txn.tickets, []
        for ticket in tickets:
            self.ready.effects.append(effects.Got(ticket, self.make_answer(txn, 0)))

    def make_answer(self, txn: Transaction, number: int, *, replayed: bool = False) -> client_pb2.Answer:
        """The answer of a transaction as it stands."""
        outcome = txn.outcome
        committed = outcome == common_pb2.OUTCOME_COMMITTED
        answer = client_pb2.Answer(
            number=number,
            transaction_id=txn.id,
            outcome=outcome,
            cause=None if committed else txn.cause,
            pending=txn.state is State.COMMITTING,
            results_available=committed and not txn.results_lost,
            replayed=replayed,
        )
        if committed:
            for name, branch in txn.branches.items():
                if branch.results:
                    answer.results.add(participant=name, results=branch.results)
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
