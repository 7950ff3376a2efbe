"""The coordinator's book: everything it knows, and everything it wants from the world.

The book holds no rule of the protocol. It looks things up, makes messages, and collects effects and appends in `ready`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, words
from coordinator.core.dropped import Dropped
from coordinator.core.events import Durable
from coordinator.core.model import (
    BRANCH_HEURISTIC,
    COMMITTING,
    FINISHED,
    OVER,
    Beginning,
    Branch,
    BranchStep,
    Counters,
    Finished,
    Joiner,
    KeyEntry,
    Participant,
    Session,
    State,
    ToParticipant,
    Transaction,
)
from coordinator.core.settings import CoreSettings
from coordinator.core.undecided import Undecided
from troth.backoff import Backoff
from troth.clock import DurableClock
from troth.errors import Reason
from troth.ids import TransactionId, service_of
from troth.lives import Lives
from troth.ready import Append, Event, Instant, Ready
from troth.timers import Timers
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2

COMMIT = participant_pb2.DECISION_KIND_COMMIT
ABORT = participant_pb2.DECISION_KIND_ABORT

_OWES_COMMIT = frozenset({BranchStep.YES, BranchStep.COMMIT_OWED, BranchStep.SETTLE_OWED, BranchStep.HEURISTIC})


def cause_of(reason: Reason, message: str, *, participant: str = "", hint: str = "") -> common_pb2.Cause:
    """A cause with a stable reason. `hint`: what to do here, where what is said of every cause with that reason does not fit."""
    return common_pb2.Cause(
        reason=reason.name, participant=participant, message=f"{message} ({hint or reason.hint})", retryable=reason.retryable
    )


def without_results(answer: client_pb2.Answer) -> client_pb2.Answer:
    """The outcome alone."""
    bare = client_pb2.Answer()
    bare.CopyFrom(answer)
    del bare.results[:]
    bare.results_available = False
    return bare


class Book:
    """What the coordinator knows and wants."""

    def __init__(self, settings: CoreSettings, coordinator: str, nonce: str, secret: bytes = b"") -> None:
        self.settings, self.coordinator, self.nonce, self.secret = settings, coordinator, nonce, secret
        self.epoch = 0
        self.lives = Lives()  # those that this very log began, the present one too
        self.losses: dict[str, record_pb2.Loss] = {}  # what participants have heard that the log does not say, accepted or not
        self.now = Instant(0.0, 0)
        self.clock = DurableClock()
        self.clock_ms = 0
        self.ready = Ready()
        self.live: dict[str, Transaction] = {}
        self.undecided = Undecided()
        self.finished: OrderedDict[str, Finished] = OrderedDict()
        self.recorded = 0  # how many entries of `finished` the log holds
        self.result_bytes = self.kept_bytes = 0  # of one-shots' results; of those that callers said, see `kept`
        self.unseen_bytes = 0  # of answers that clients have not acknowledged
        self.other_finished: deque[str] = deque()  # those of `finished` that hold no key, in the order of their end
        self.keyed_commits: deque[str] = deque()  # those that do
        self.asking: set[str] = set()  # transactions that are live only because a client asks what became of them
        self.dropped, self.counters = Dropped(), Counters()
        self.open_bytes = 0  # of arguments and results that open transactions hold; each knows its share
        self.dropped_through_ms = 0
        self.dropping_through_ms = 0  # what it will be when the Horizon record that is on its way is durable
        self.keys_through_ms = 0  # the newest first attempt of a commit whose key was dropped
        self.keys: dict[str, KeyEntry] = {}
        self.participants: dict[str, Participant] = {}
        self.owned: Counter[str] = Counter()  # open transactions of each identity
        self.past_orders: dict[str, int] = {}  # of participants that were forgotten in this life, the next order
        self.keys_unreadable = False  # whether the log has idempotency keys that are sealed with a payload key that is not there
        self.heard: dict[str, int] = {}  # how far participants' logs were heard since the newest append; the next one says it
        self.gone: dict[str, record_pb2.CoordinatorRecord] = {}  # who was forgotten within the retention; see `forgetting`
        self.slots: dict[str, list[Participant]] = {}  # of each service that has some; see `slots`
        self.sessions: dict[str, Session] = {}
        self.invites: Callable[[str, str], bool] = lambda owner, service: True  # see `owners`
        self.timers: Timers[str] = Timers()
        self.resend = Backoff(settings.resend_first_seconds, settings.resend_cap_seconds)
        self.reviews: dict[str, record_pb2.Review] = {}  # orders that wait for a second person, by their names
        self.reviews_unwritten: list[record_pb2.Review] = []  # of them, and of their ends, what came while the start was refused
        self.last_session = 0  # the highest of this epoch: what a later one will number has not begun
        self.proving = 0  # transactions of which the log has lost the decision, and whose participants are asked
        self.orders_under_way = 0  # operators' orders whose records are on their way to the log
        self.answers_held: list[effects.Administered] = []  # to further orders, until those are durable
        self.late_heuristics = 0  # transactions that are kept only because a participant contradicted them after they were over
        self._begin_to_serve()

    def _begin_to_serve(self) -> None:
        """What no record says, and each life begins with anew."""
        self.draining = False
        self.evicting = False  # whether a Horizon record is on its way
        self.joiners: dict[str, list[Joiner]] = {}  # retries with the key of a transaction that is being settled, by its id
        self.watchers: dict[str, list[Any]] = {}  # tickets of those who are told each state of a transaction, by its id
        self.beginning = Beginning.HEARING
        self.unheard: set[str] = set()
        """Whom the log has bound, and who has not said Hello since it was read; empty once that is not awaited any more."""
        self.awaited: set[str] = set()
        """Whom the log has bound, and whose Hello was not complete yet in this life: they may need what others would forget."""
        self.grace_until = 0.0  # how long they are waited for, in monotonic seconds
        self.serving = False  # whether the epoch is durable, or the start refused; until then events wait in `again`
        self.again: deque[Event] = deque()  # events that are taken after the present one

    def read_clocks(self, now: Instant) -> None:
        """Take over a reading of the clocks. The events of one turn share one, so ask first whether it is another one."""
        self.now, was_loose = now, self.clock.loose
        if was_loose and self.live:
            self.clock.loose = False  # from here on there is something that ages
        self.clock_ms = self.clock.read(now)
        if self.clock.loose is not was_loose:
            self.append("horizon", self.record_of(horizon=self.dropped.record(clock_set=True)), force=True)

    @property
    def may_forget(self) -> bool:
        """Whether participants may be told what to forget: not while somebody may be in doubt whom another one could help."""
        return not self.has_lost and (not self.awaited or self.now.monotonic >= self.grace_until)

    @property
    def has_lost(self) -> bool:
        """Whether the log has lost what participants have heard, and no operator has accepted that."""
        return not all(loss.accepted_in for loss in self.losses.values())

    def began(self, parsed: TransactionId) -> bool:
        """Whether it is of a life that this very log began: a log of the same name, or an older copy, began another one."""
        return parsed.coordinator == self.coordinator and self.lives.began(parsed.epoch, parsed.nonce)

    def may_presume(self, parsed: TransactionId) -> bool:
        """Whether abort follows from the absence of a record: of what this log began, and cannot have decided and lost."""
        if not self.began(parsed):
            return False
        accepted_in = max((loss.accepted_in for loss in self.losses.values()), default=0)
        return parsed.epoch == self.epoch or not (self.has_lost or parsed.epoch < accepted_in)

    def may_have_begun(self, parsed: TransactionId) -> bool:
        """Whether a transaction that is neither live nor retained may have been one of ours.

        Of this epoch only what a session numbered that is over, and the numbers that an open one has used: a client may still
        begin what its open session, or one that is yet to come, has not used.
        """
        if not self.began(parsed):
            return False
        if parsed.epoch != self.epoch:
            return True
        if parsed.session > self.last_session:
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

    def append(
        self, owner: str, record: record_pb2.CoordinatorRecord, *, force: bool, event: Durable | None = None, patient: bool = False
    ) -> None:
        """Append one record. `patient`: nobody waits for it, and it says nothing that would be told otherwise without it."""
        if self.heard:
            for name, position in self.heard.items():
                record.heard.add(participant=name, position=position)
            self.heard.clear()
        self.ready.appends.append(Append(record, owner, force, (), event, None, patient))

    def decided_record(self, txn: Transaction) -> record_pb2.CoordinatorRecord:
        """The COMMIT decision, with the branches that still owe something."""
        record = self.record()
        decided = record.decided
        decided.participants.extend(txn.branches)
        decided.transaction_id, decided.first_attempt_ms, decided.owner = txn.id, txn.first_attempt_ms, txn.owner
        decided.traceparent = txn.traceparent
        owing = {i: branch.order for i, branch in enumerate(txn.branches.values()) if branch.step in _OWES_COMMIT}
        decided.owing.extend(owing)
        decided.orders.extend(owing.values())
        for i, branch in enumerate(txn.branches.values()) if len(owing) < len(txn.branches) else ():
            if branch.changed and i not in owing:
                decided.acknowledged.append(i)
                decided.acknowledged_orders.append(branch.order)
        if txn.claim is not None:
            decided.claim.CopyFrom(txn.claim)
        return record

    def hear(self, participant: Participant, position: int) -> None:
        """A participant has told that its log is further than was known."""
        self.heard[participant.name] = participant.heard = position

    # ---- messages to participants

    def send(
        self, participant: Participant, field: str, message: ToParticipant, *, early: bool = False, patient: bool = False
    ) -> bool:
        """Send to a participant that is ready; otherwise Hello settles it. What Hello does not settle may be sent `early`."""
        if not (participant.ready or (early and participant.welcomed)):
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
        prepare.eldest_attempt_ms = txn.eldest_ms
        left_ms = int((txn.deadline - self.now.monotonic) * 1000)
        prepare.timeout_ms = left_ms if left_ms > 0 else 1
        prepare.peers = txn.peers
        if one_phase:
            prepare.one_phase = True
        if branch.operations:
            operations = prepare.operations
            for name, arguments in branch.operations:
                operation = operations.add()
                operation.name, operation.arguments, operation.caller = name, arguments, txn.owner
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
        if txn.state is not State.SETTLING:
            message.incarnation = branch.incarnation  # what was decided is lost, or was
        self.counters.settlements += self.send(branch.participant, "settles", message)

    # ---- participants, branches and transactions

    def participant(self, name: str) -> Participant:
        """The participant of a name; from now on it is known."""
        known = self.participants.get(name)
        if known is None:
            known = self.participants[name] = Participant(name, next_order=self.past_orders.pop(name, 1))
            if (service := service_of(name)) != name:
                self.slots.setdefault(service, []).append(known)
        return known

    @property
    def life(self) -> str:
        """What the ids of all transactions of this life begin with."""
        return f"{self.coordinator}.{self.epoch}.{self.nonce}."

    def take_order(self, participant: Participant) -> int:
        """The next order of a participant's branches."""
        order = participant.next_order
        participant.next_order = order + 1
        return order

    def add_branch(self, txn: Transaction, participant: Participant) -> Branch:
        """A new branch with an order of its own; it belongs to the participant's present incarnation."""
        order = self.take_order(participant)
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

    def hold(self, txn: Transaction, size: int) -> bool:
        """Let an open transaction hold so many bytes more; false, and nothing has changed, when there is no room for them."""
        if self.open_bytes + size > self.settings.open_bytes_max:
            return False
        self.open_bytes += size
        txn.held_bytes += size
        return True

    def hold_arguments(self, txn: Transaction, size: int) -> None:
        """Let a transaction that begins hold its arguments, for which there is room."""
        self.open_bytes += size
        txn.held_bytes = txn.argument_bytes = size
        assert self.open_bytes <= self.settings.open_bytes_max

    def drop_arguments(self, txn: Transaction) -> None:
        """No Prepare will be sent any more: what it would carry is not needed."""
        for branch in txn.branches.values():
            branch.operations = ()
        self.open_bytes -= txn.argument_bytes
        txn.held_bytes -= txn.argument_bytes
        txn.argument_bytes = 0

    def close(self, txn: Transaction) -> None:
        """It is open no longer, and gives back what it held."""
        self.live.pop(txn.id, None)
        for ticket in self.watchers.pop(txn.id, ()) if self.watchers else ():  # of what was only asked about, and nobody could tell
            self._tell_watcher(ticket, txn, last=True)
        self.asking.discard(txn.id)
        self.owned[txn.owner] -= bool(txn.owner)
        self.open_bytes -= txn.held_bytes
        txn.held_bytes = txn.argument_bytes = 0

    def give_back(self, claim: record_pb2.KeyClaim | None) -> None:
        """Keep what was said under a key no longer: the key is free, or forgotten."""
        if claim is not None and claim.result:
            self.kept_bytes -= len(claim.result)
            claim.ClearField("result")

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
        txn.steps.append((state, self.now.monotonic))
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

    def unwatch(self, ticket: Any, transaction_id: str) -> None:
        """Tell a watcher nothing more."""
        tickets = self.watchers.get(transaction_id, [])
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self.watchers[transaction_id]

    def _tell_watcher(self, ticket: Any, txn: Transaction, *, last: bool = False) -> None:
        last = last or txn.state in FINISHED
        response = client_pb2.WatchResponse(state=txn.state.value, explanation=words.state_words(txn), outcome=txn.outcome)
        self.ready.effects.append(effects.Watched(ticket, response, last))

    # ---- answers

    def answer(self, session: Session, answer: client_pb2.Answer) -> None:
        """Answer a client, and keep the answer until the client has acknowledged it."""
        number = answer.number
        session.live.pop(number, None)
        if session.keeps_answers and number >= session.answered_below:
            if number in session.answers:
                self.drop_answer(session, number)
            session.answers[number] = self._kept(session, answer)
        self.ready.effects.append(effects.Answered(session.name, answer))

    def _kept(self, session: Session, answer: client_pb2.Answer) -> client_pb2.Answer:
        """What is kept of an answer: the outcome is owed for ever, its results only as far as there is room."""
        size = answer.ByteSize()
        if answer.results_available and self.unseen_bytes + size > self.settings.unseen_bytes_max:
            answer = without_results(answer)
            size = answer.ByteSize()
        self.unseen_bytes += size
        session.unseen_bytes += size
        return answer

    def drop_answer(self, session: Session, number: int) -> None:
        """Keep an answer no longer."""
        answer = session.answers.pop(number, None)
        if answer is not None:
            size = answer.ByteSize()
            self.unseen_bytes -= size
            session.unseen_bytes -= size

    def has_room(self, session: Session) -> bool:
        """Whether a further answer may be owed to a client. When all of them together leave too much unacknowledged, those go on
        that leave less than their share: who does not acknowledge stops itself, and nobody else."""
        settings = self.settings
        if not session.has_room(settings.unseen_answers_max):
            return False
        whole = settings.unseen_bytes_max
        return self.unseen_bytes < whole or session.unseen_bytes * len(self.sessions) < whole

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
            for event in tickets:
                if event.request.key and txn.state in FINISHED:
                    self.again.append(event)  # meanwhile another attempt may hold the key, and then that one is the answer
                else:
                    self.ready.effects.append(effects.Got(event.ticket, self.make_answer(txn, 0)))

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
                    one.participant = service_of(name)
                    one.results = branch.results
        elif txn.cause is not None:
            answer.cause.CopyFrom(txn.cause)
        return answer

    def answer_without_room(self, session: Session, answer: client_pb2.Answer) -> None:
        """Answer once, for the client leaves too many answers unacknowledged; whatever the number asked for will not begin."""
        session.shed_through = max(session.shed_through, answer.number)
        self.ready.effects.append(effects.Answered(session.name, answer))

    def answer_finished(self, transaction_id: str, done: Finished, number: int) -> client_pb2.Answer:
        """The answer of a finished transaction."""
        answer = client_pb2.Answer(
            number=number, transaction_id=transaction_id, outcome=done.told,
            cause=done.cause if done.dealt_with is None else None,
            results_available=done.results is not None and done.dealt_with is None, replayed=True,
        )  # fmt: skip
        for name, results in (done.results or {}).items() if answer.results_available else ():
            answer.results.add(participant=service_of(name), results=results)
        return answer
