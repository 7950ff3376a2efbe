"""All transitions of a transaction at the coordinator.

The protocol is two-phase commit with presumed abort (Mohan, Lindsay & Obermarck, "Transaction Management in the R* Distributed
Database Management System", TODS 1986, section 3). The commit point is one forced record, Decided. There is no record of an
abort: whoever voted YES and asks about a transaction of which there is no record is told ABORT. That is sound because of
four things, and all four are needed:

- only this process writes the log (it holds the file), so a record that is absent now cannot appear for an older epoch;
- a transaction that is live is not absent: undecided ones are answered with silence, never with ABORT;
- a Decided record is kept until every participant that owes an acknowledgement has given it;
- only a *prepared participant* may draw the conclusion. A client that asks gets an abort only from knowledge: a decision made
  in this epoch, or rollback-if-unseen at every participant that it names.

One decision. A vote, the timer, the client's abort, a lost incarnation and an operator race for the transition out of PREPARING;
whoever comes first takes it, and the table gives the others a clean answer. Between the append of Decided and its
durability the transaction is DECIDING, and there is nothing left to race for: it will commit, or the process dies and
recovery finds out from the log.

One participant. The coordinator gives the decision away (one-phase commit; Samaras, Britton, Citron & Mohan, "Two-Phase
Commit Optimizations in a Commercial Distributed Environment", 1995, "last agent"). From HANDED_OVER no timer and no abort may
decide. When the answer is lost the branch is *settled*: rolled back unless it is finished; it is never run again. With an
idempotency key, KeyOpened is forced first, so that a retry after a crash knows whom to ask.

Acknowledgements. COMMIT is repeated, with capped back-off, until each participant has acknowledged, at once when one comes
back. Then Ended is written (unforced: losing it only repeats the acknowledgements), and once that is durable the watermark lets
participants forget. ABORT is sent once; a participant that missed it asks.

Heuristics. A participant that says it never saw the branch, or that an operator ended it, ends phase two for its branch with
a forced Heuristic record; the outcome becomes MIXED or HAZARD if that contradicts the decision, and stays until an operator
forgets it.

    state         input                                   next
    -----------   -------------------------------------   -----------------------------------------------------------
    ACTIVE        enlist                                  ACTIVE; a second incarnation aborts
                  commit, no branch                       COMMITTED
                  commit, one branch                      OPENING (key) or HANDED_OVER
                  commit, several                         PREPARING
                  abort, timer, client gone, lost, operator ABORTED
    PREPARING     YES or READ_ONLY, others missing        PREPARING
                  last vote, some YES                     DECIDING
                  last vote, all READ_ONLY                COMMITTED
                  NO, abort, deadline, lost, operator     ABORTED
    DECIDING      record durable                          COMMITTING
    COMMITTING    last acknowledgement                    COMMITTED, or HEURISTIC
    OPENING       record durable                          HANDED_OVER
    HANDED_OVER   COMMITTED or READ_ONLY                  COMMITTED
                  NO                                      ABORTED
                  stream lost and back, deadline          SETTLING
    SETTLING      committed somewhere                     COMMITTED
                  rolled back everywhere                  ABORTED
                  forgotten                               EXPIRED

`TABLE` below is the authority, and says for every state and input what happens; a pair that it does not have is a violation
of the protocol, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from coordinator.core.book import ABORT, COMMIT, Book, cause_of
from coordinator.core.events import Durable
from coordinator.core.finishing import finish
from coordinator.core.model import Branch, BranchStep, Participant, State, Transaction
from troth.errors import Reason, RemoteProtocolError
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2


class Input(Enum):
    """What can happen to a transaction. The comment names the handler's argument."""

    ENLIST = "enlist"  # the participant
    COMMIT = "commit"  # the CommitRequest
    ABORT = "abort"  # the cause
    TIMER = "timer"  # nothing
    VOTE = "vote"  # (participant, Vote)
    DECIDED = "decided"  # nothing: the Decided record is durable
    OPENED = "opened"  # nothing: the KeyOpened record is durable
    ACKNOWLEDGED = "acknowledged"  # (participant, Acknowledgement)
    SETTLED = "settled"  # (participant, Settlement)
    RETURNED = "returned"  # (participant, its BranchReport or None): its Hello is complete
    OPERATOR_ABORT = "operator abort"  # the cause
    ABANDON = "abandon"  # (who, why)


Handler = Callable[[Book, Transaction, Any], None]


def apply(book: Book, txn: Transaction, what: Input, argument: Any = None) -> None:
    """Carry out one transition, or raise `RemoteProtocolError` with nothing changed."""
    handler = TABLE.get((txn.state, what))
    if handler is None:
        raise RemoteProtocolError(f"{what.value!r} for transaction {txn.id}, which is {txn.state.value}")
    handler(book, txn, argument)


# ---- beginning


def start(book: Book, txn: Transaction) -> None:
    """All work is known: ask for the votes, or give the decision away."""
    if not txn.branches:
        finish(book, txn, State.COMMITTED)
    elif len(txn.branches) == 1:
        _open_or_hand_over(book, txn)
    else:
        txn.peers = participant_pb2.Peers(participants=txn.branches).SerializeToString()
        txn.missing = len(txn.branches)
        book.set_state(txn, State.PREPARING)
        for branch in txn.branches.values():
            branch.step = BranchStep.VOTE_OWED
            book.send_prepare(txn, branch)
        _arm(book, txn)


def _open_or_hand_over(book: Book, txn: Transaction) -> None:
    (branch,) = txn.branches.values()
    if not branch.participant.ready or branch.incarnation != branch.participant.incarnation:
        # Nothing has been handed over, so this is still ours to decide.
        _away(book, txn, branch.participant)
    elif txn.claim is None:
        _hand_over(book, txn)
    else:
        book.set_state(txn, State.OPENING)
        opened = record_pb2.KeyOpened(
            transaction_id=txn.id, claim=txn.claim, participant=branch.participant.name, order=branch.order,
            first_attempt_ms=txn.first_attempt_ms,
        )  # fmt: skip
        book.append(txn.id, force=True, event=Durable("opened", txn.id), key_opened=opened)


def _away(book: Book, txn: Transaction, participant: Participant) -> None:
    reason = Reason.PARTICIPANT_RESTARTED if participant.ready else Reason.PARTICIPANT_AWAY
    abort(book, txn, cause_of(reason, f"participant {participant.name!r} lost the branch", participant=participant.name))


def _hand_over(book: Book, txn: Transaction, _: Any = None) -> None:
    """One-phase commit: from here the decision is the participant's."""
    (branch,) = txn.branches.values()
    branch.step = BranchStep.VOTE_OWED
    txn.missing = 1
    book.set_state(txn, State.HANDED_OVER)
    book.send_prepare(txn, branch, one_phase=True)
    book.timers.set(txn.id, txn.deadline)


def _opened(book: Book, txn: Transaction, _: Any) -> None:
    (branch,) = txn.branches.values()
    if branch.participant.ready and branch.incarnation == branch.participant.incarnation:
        _hand_over(book, txn)
    else:
        _away(book, txn, branch.participant)


def _enlist(book: Book, txn: Transaction, participant: Participant) -> None:
    branch = txn.branches.get(participant.name)
    if branch is not None and branch.incarnation != participant.incarnation:
        _away(book, txn, participant)
        refuse_enlist(book, participant, txn.id, Reason.PARTICIPANT_RESTARTED)
        return
    if branch is None:
        if len(txn.branches) >= book.settings.participants_max:
            refuse_enlist(book, participant, txn.id, Reason.TOO_MANY_PARTICIPANTS)
            return
        branch = book.add_branch(txn, participant)
    book.send(participant, "enlisted", participant_pb2.Enlisted(transaction_id=txn.id, order=branch.order))


def _enlist_closed(book: Book, txn: Transaction, participant: Participant) -> None:
    refuse_enlist(book, participant, txn.id, Reason.ENLIST_CLOSED)


def refuse_enlist(book: Book, participant: Participant, transaction_id: str, reason: Reason) -> None:
    """Tell a participant that the transaction takes no branch of it."""
    cause = cause_of(reason, f"transaction {transaction_id} takes no new branch", participant=participant.name)
    book.send(participant, "enlisted", participant_pb2.Enlisted(transaction_id=transaction_id, refusal=cause))


def _commit(book: Book, txn: Transaction, request: client_pb2.CommitRequest) -> None:
    """Enlisting closes here. The counts close the gap of a call that was lost or repeated on its way."""
    txn.wait_complete = request.wait == common_pb2.WAIT_COMPLETE
    counts = {item.participant: item.count for item in request.acknowledged}
    unknown = sorted(counts.keys() - txn.branches.keys())
    if unknown:
        message = f"work of {', '.join(unknown)} was acknowledged, but no branch of it is known"
        abort(book, txn, cause_of(Reason.OPERATION_COUNT, message, participant=unknown[0]))
        return
    for name, branch in txn.branches.items():
        branch.operation_count = counts.get(name, 0)
    start(book, txn)


# ---- deciding


def _vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    participant, vote = argument
    branch = _branch(txn, participant)
    if branch.step is not BranchStep.VOTE_OWED:
        return  # a repeat
    if vote.kind == participant_pb2.VOTE_KIND_NO:
        book.end_branch(txn, branch)
        abort(book, txn, _no_cause(participant, vote))
    elif vote.kind == participant_pb2.VOTE_KIND_READ_ONLY:
        branch.results = vote.results
        # Its order is freed only with the transaction: a watermark past a live transaction's branch would make a repeated
        # Prepare look expired.
        branch.step = BranchStep.OVER
        _count_vote(book, txn)
    elif vote.kind == participant_pb2.VOTE_KIND_YES:
        _voted_yes(book, txn, branch, vote.results)
    else:
        raise RemoteProtocolError(f"{participant.name} answered one-phase commit for {txn.id}, which has several branches")


def _no_cause(participant: Participant, vote: participant_pb2.Vote) -> common_pb2.Cause:
    cause = common_pb2.Cause()
    cause.CopyFrom(vote.cause)
    cause.participant = participant.name
    cause.reason = cause.reason or Reason.REFUSED.name
    return cause


def _voted_yes(book: Book, txn: Transaction, branch: Branch, results: bytes) -> None:
    branch.step = BranchStep.YES
    branch.results = results
    _count_vote(book, txn)


def _count_vote(book: Book, txn: Transaction) -> None:
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        _decide(book, txn)


def _decide(book: Book, txn: Transaction) -> None:
    """All have voted and nobody said NO: this is the only place that decides COMMIT."""
    names = list(txn.branches)
    owing = [i for i, branch in enumerate(txn.branches.values()) if branch.step is BranchStep.YES]
    if not owing:
        finish(book, txn, State.COMMITTED)
        return
    assert all(branch.step in (BranchStep.YES, BranchStep.OVER) for branch in txn.branches.values())
    orders = [branch.order for branch in txn.branches.values() if branch.step is BranchStep.YES]
    decided = record_pb2.Decided(
        transaction_id=txn.id, participants=names, owing=owing, orders=orders, claim=txn.claim,
        first_attempt_ms=txn.first_attempt_ms,
    )  # fmt: skip
    book.set_state(txn, State.DECIDING)
    book.append(txn.id, force=True, event=Durable("decided", txn.id), decided=decided)


def abort(book: Book, txn: Transaction, cause: common_pb2.Cause) -> None:
    """Decide ABORT: no record, one message to each branch that may hold something, and the answer."""
    assert txn.state in (State.ACTIVE, State.PREPARING, State.OPENING, State.HANDED_OVER, State.SETTLING)
    opened = txn.claim is not None and txn.state in (State.OPENING, State.HANDED_OVER, State.SETTLING)
    for branch in txn.branches.values():
        if branch.step in (BranchStep.ENLISTED, BranchStep.VOTE_OWED, BranchStep.YES):
            book.send_decision(branch.participant, txn.id, branch.order, ABORT)
    book.end_branches(txn)
    txn.cause = cause
    if opened:
        # Unforced: if it is lost, recovery settles the key again and finds the branch rolled back.
        book.append(txn.id, force=False, key_closed=record_pb2.KeyClosed(transaction_id=txn.id))
    finish(book, txn, State.ABORTED)


def _decided(book: Book, txn: Transaction, _: Any) -> None:
    """The commit point has passed: tell everybody, independently of one another."""
    book.set_state(txn, State.COMMITTING)
    txn.missing = 0
    for branch in txn.branches.values():
        if branch.step is BranchStep.YES:
            branch.step = BranchStep.COMMIT_OWED
            txn.missing += 1
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT)
    if not txn.wait_complete:
        book.answer_all(txn)
    _arm(book, txn)


# ---- phase two


def _acknowledged(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    participant, message = argument
    branch = _branch(txn, participant)
    if branch.step is not BranchStep.COMMIT_OWED:
        return  # a repeat
    if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
        branch.step = BranchStep.OVER
        count_acknowledgement(book, txn)
    else:
        report_heuristic(book, txn, branch, message)


ENDS = {
    participant_pb2.ACKNOWLEDGEMENT_KIND_DONE: common_pb2.OUTCOME_ABORTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT: common_pb2.OUTCOME_COMMITTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT: common_pb2.OUTCOME_ABORTED,
}
"""How a branch ended that did not end by the protocol."""


def report_heuristic(
    book: Book, txn: Transaction, branch: Branch, message: participant_pb2.Acknowledgement
) -> None:
    """Write down that a branch ended by itself; what follows waits for the record."""
    name = participant_pb2.AcknowledgementKind.Name(message.kind).removeprefix("ACKNOWLEDGEMENT_KIND_")
    report = record_pb2.Heuristic(
        transaction_id=txn.id,
        participant=branch.participant.name,
        branch_outcome=ENDS[message.kind],
        why=message.detail or f"the participant answered {name}",
        commit_decided=txn.state is State.COMMITTING,
    )
    append_heuristic(book, txn, branch, report)


def append_heuristic(book: Book, txn: Transaction, branch: Branch, report: record_pb2.Heuristic) -> None:
    """Force a Heuristic record for a branch."""
    branch.step = BranchStep.HEURISTIC
    book.append(txn.id, force=True, event=Durable("heuristic", txn.id, report), heuristic=report)


def heuristic_durable(book: Book, txn: Transaction, report: record_pb2.Heuristic) -> None:
    """A Heuristic record is durable: it counts as the branch's end."""
    txn.heuristic.append(report)
    book.counters.heuristic += 1
    if txn.state is State.COMMITTING:
        count_acknowledgement(book, txn)
    else:
        finish(book, txn, State.HEURISTIC)


def count_acknowledgement(book: Book, txn: Transaction) -> None:
    """One branch less to wait for."""
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        agreed = txn.outcome == common_pb2.OUTCOME_COMMITTED
        finish(book, txn, State.COMMITTED if agreed else State.HEURISTIC)


def _abandon(book: Book, txn: Transaction, argument: tuple[str, str]) -> None:
    """An operator stops waiting for acknowledgements that will never come."""
    who, why = argument
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            report = record_pb2.Heuristic(
                transaction_id=txn.id, participant=branch.participant.name, who=who, why=why,
                branch_outcome=common_pb2.OUTCOME_HAZARD, commit_decided=True,
            )  # fmt: skip
            append_heuristic(book, txn, branch, report)


# ---- one participant, and settling


def _one_phase_vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    participant, vote = argument
    branch = _branch(txn, participant)
    if vote.kind == participant_pb2.VOTE_KIND_NO:
        book.end_branch(txn, branch)
        abort(book, txn, _no_cause(participant, vote))
    elif vote.kind in (participant_pb2.VOTE_KIND_COMMITTED, participant_pb2.VOTE_KIND_READ_ONLY):
        branch.results = vote.results
        finish(book, txn, State.COMMITTED)
    else:
        raise RemoteProtocolError(f"{participant.name} voted YES on {txn.id}, whose decision it was handed")


def settle(book: Book, txn: Transaction) -> None:
    """Ask every branch what became of it."""
    txn.missing = len(txn.branches)
    book.set_state(txn, State.SETTLING)
    for branch in txn.branches.values():
        branch.step = BranchStep.SETTLE_OWED
        book.send_settle(txn, branch)
    book.arm_resend(txn)


def _settled(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Settlement]) -> None:
    participant, message = argument
    branch = _branch(txn, participant)
    if branch.step is not BranchStep.SETTLE_OWED:
        return  # a repeat
    if message.kind == participant_pb2.SETTLEMENT_KIND_COMMITTED:
        branch.results = message.results
        finish(book, txn, State.COMMITTED)
    elif message.kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK:
        _settled_back(book, txn, branch)
    elif message.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        # A prepared participant asks, so to speak: nobody decided COMMIT, and nobody but us could (presumed abort).
        book.send_decision(participant, txn.id, branch.order, ABORT, acknowledge=True)
    else:
        book.end_branches(txn)
        txn.cause = cause_of(Reason.EXPIRED, f"{participant.name} has forgotten {txn.id}", participant=participant.name)
        finish(book, txn, State.EXPIRED)


def _settled_back(book: Book, txn: Transaction, branch: Branch) -> None:
    book.end_branch(txn, branch)
    txn.missing -= 1
    if txn.missing == 0:
        message = f"transaction {txn.id} was not finished and is now rolled back"
        abort(book, txn, cause_of(Reason.COORDINATOR_RESTARTED, message))


def _settling_acknowledged(
    book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]
) -> None:
    participant, message = argument
    branch = _branch(txn, participant)
    if branch.step is not BranchStep.SETTLE_OWED:
        return
    if ENDS[message.kind] == common_pb2.OUTCOME_ABORTED:
        _settled_back(book, txn, branch)
    else:
        report_heuristic(book, txn, branch, message)


# ---- time, and participants that come back


def _arm(book: Book, txn: Transaction) -> None:
    """The next repeat, or the deadline if that comes first and still means something."""
    book.arm_resend(txn)
    due = book.timers.due(txn.id)
    assert due is not None
    waits_for_deadline = txn.state is State.PREPARING or (txn.wait_complete and txn.answer_to)
    if waits_for_deadline and txn.deadline < due:
        book.timers.set(txn.id, max(txn.deadline, book.now.monotonic))


def _timeout(book: Book, txn: Transaction, _: Any = None) -> None:
    owing = ", ".join(txn.owing()) or "the client"
    abort(book, txn, cause_of(Reason.TIMEOUT, f"transaction {txn.id} was not decided in time; waited for {owing}"))


def _preparing_timer(book: Book, txn: Transaction, _: Any) -> None:
    if txn.deadline <= book.now.monotonic:
        _timeout(book, txn)
        return
    for branch in txn.branches.values():
        if branch.step is BranchStep.VOTE_OWED:
            book.send_prepare(txn, branch)
    _arm(book, txn)


def _committing_timer(book: Book, txn: Transaction, _: Any) -> None:
    if txn.answer_to and txn.deadline <= book.now.monotonic:
        book.answer_all(txn)  # decided, but not acknowledged by all: COMMITTED (pending)
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT)
    _arm(book, txn)


def _handed_over_timer(book: Book, txn: Transaction, _: Any) -> None:
    """The deadline: no timer may decide, but the participant can be asked, and the client told that it is in doubt."""
    settle(book, txn)
    _answer_in_doubt(book, txn)


SETTLE_SECONDS_MAX = 60.0
"""How long a question of a client is asked on when nobody waits for the answer any more."""


def _settling_timer(book: Book, txn: Transaction, _: Any) -> None:
    _answer_in_doubt(book, txn)
    asked_for = book.now.monotonic - txn.began
    if txn.session is None and txn.claim is None and not txn.tickets and asked_for > SETTLE_SECONDS_MAX:
        # Nothing hangs on it: whoever asks again starts it again, and a late answer finds no transaction.
        book.end_branches(txn)
        del book.live[txn.id]
        return
    for branch in txn.branches.values():
        if branch.step is BranchStep.SETTLE_OWED:
            book.send_settle(txn, branch)
    book.arm_resend(txn)


def _answer_in_doubt(book: Book, txn: Transaction) -> None:
    waited = book.now.monotonic - txn.began >= book.settings.settle_answer_seconds
    if txn.deadline <= book.now.monotonic and waited:
        txn.cause = cause_of(Reason.IN_DOUBT, f"{', '.join(txn.owing())} has not said yet what became of {txn.id}")
        book.answer_all(txn)


Returned = tuple[Participant, participant_pb2.BranchReport | None]


def _active_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    participant, report = argument
    if _branch(txn, participant).incarnation != participant.incarnation:
        _away(book, txn, participant)
    elif report is None:
        # The same incarnation no longer has the branch, or never saw the answer to its Enlist; the commit's count tells.
        return


def _preparing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    participant, report = argument
    branch = _branch(txn, participant)
    if branch.step is not BranchStep.VOTE_OWED:
        return
    if report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED:
        _voted_yes(book, txn, branch, report.results)
    elif branch.incarnation != participant.incarnation:
        _away(book, txn, participant)
    else:
        book.send_prepare(txn, branch)


def _committing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    participant, _ = argument
    branch = _branch(txn, participant)
    if branch.step is BranchStep.COMMIT_OWED:
        book.send_decision(participant, txn.id, branch.order, COMMIT)


def _settling_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """What was handed over is settled, never run again."""
    participant, report = argument
    branch = _branch(txn, participant)
    if report is not None and report.state == participant_pb2.BRANCH_STATE_COMMITTED:
        branch.results = report.results
        finish(book, txn, State.COMMITTED)
    elif txn.state is State.HANDED_OVER:
        settle(book, txn)
    else:
        book.send_settle(txn, branch)


def _branch(txn: Transaction, participant: Participant) -> Branch:
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise RemoteProtocolError(f"{participant.name} has no branch in {txn.id}")
    return branch


# ---- the table


def _late(book: Book, txn: Transaction, argument: Any) -> None:
    """Lost the race, or is a repeat: the outcome that there is, or will be, answers it."""


def _operator_abort(book: Book, txn: Transaction, cause: common_pb2.Cause) -> None:
    abort(book, txn, cause)


TABLE: dict[tuple[State, Input], Handler] = {
    (State.ACTIVE, Input.ENLIST): _enlist,
    (State.ACTIVE, Input.COMMIT): _commit,
    (State.ACTIVE, Input.ABORT): abort,
    (State.ACTIVE, Input.TIMER): _timeout,
    (State.ACTIVE, Input.RETURNED): _active_returned,
    (State.ACTIVE, Input.OPERATOR_ABORT): _operator_abort,
    (State.PREPARING, Input.ENLIST): _enlist_closed,
    (State.PREPARING, Input.COMMIT): _late,
    (State.PREPARING, Input.ABORT): abort,
    (State.PREPARING, Input.TIMER): _preparing_timer,
    (State.PREPARING, Input.VOTE): _vote,
    (State.PREPARING, Input.RETURNED): _preparing_returned,
    (State.PREPARING, Input.OPERATOR_ABORT): _operator_abort,
    (State.DECIDING, Input.ENLIST): _enlist_closed,
    (State.DECIDING, Input.COMMIT): _late,
    (State.DECIDING, Input.ABORT): _late,
    (State.DECIDING, Input.TIMER): _late,
    (State.DECIDING, Input.VOTE): _late,
    (State.DECIDING, Input.DECIDED): _decided,
    (State.DECIDING, Input.RETURNED): _late,
    (State.COMMITTING, Input.ENLIST): _enlist_closed,
    (State.COMMITTING, Input.COMMIT): _late,
    (State.COMMITTING, Input.ABORT): _late,
    (State.COMMITTING, Input.TIMER): _committing_timer,
    (State.COMMITTING, Input.VOTE): _late,
    (State.COMMITTING, Input.ACKNOWLEDGED): _acknowledged,
    (State.COMMITTING, Input.RETURNED): _committing_returned,
    (State.COMMITTING, Input.ABANDON): _abandon,
    (State.OPENING, Input.ENLIST): _enlist_closed,
    (State.OPENING, Input.COMMIT): _late,
    (State.OPENING, Input.ABORT): _late,
    (State.OPENING, Input.TIMER): _late,
    (State.OPENING, Input.OPENED): _opened,
    (State.OPENING, Input.RETURNED): _late,
    (State.HANDED_OVER, Input.ENLIST): _enlist_closed,
    (State.HANDED_OVER, Input.COMMIT): _late,
    (State.HANDED_OVER, Input.ABORT): _late,
    (State.HANDED_OVER, Input.TIMER): _handed_over_timer,
    (State.HANDED_OVER, Input.VOTE): _one_phase_vote,
    (State.HANDED_OVER, Input.RETURNED): _settling_returned,
    (State.SETTLING, Input.ENLIST): _enlist_closed,
    (State.SETTLING, Input.COMMIT): _late,
    (State.SETTLING, Input.ABORT): _late,
    (State.SETTLING, Input.TIMER): _settling_timer,
    (State.SETTLING, Input.VOTE): _one_phase_vote,
    (State.SETTLING, Input.SETTLED): _settled,
    (State.SETTLING, Input.ACKNOWLEDGED): _settling_acknowledged,
    (State.SETTLING, Input.RETURNED): _settling_returned,
    (State.HEURISTIC, Input.ENLIST): _enlist_closed,
    (State.HEURISTIC, Input.VOTE): _late,
    (State.HEURISTIC, Input.COMMIT): _late,
    (State.HEURISTIC, Input.ABORT): _late,
    (State.HEURISTIC, Input.ACKNOWLEDGED): _late,
    (State.HEURISTIC, Input.SETTLED): _late,
    (State.HEURISTIC, Input.RETURNED): _late,
}
