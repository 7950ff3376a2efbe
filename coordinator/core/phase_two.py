"""Phase two: COMMIT until everybody has acknowledged it, and what does not end as decided."""

from __future__ import annotations

from typing import Any

from coordinator.core import effects
from coordinator.core.book import ABORT, COMMIT, Book
from coordinator.core.events import Durable
from coordinator.core.finishing import finish, forgotten_reports, reopen
from coordinator.core.model import (
    COMMIT_OWED,
    COMMITTED,
    COMMITTING,
    OVER,
    SETTLE_OWED,
    Branch,
    BranchStep,
    Finished,
    Participant,
    State,
    Transaction,
)
from coordinator.core.steps import TEXT_CHARACTERS_MAX, Returned, arm, branch_of, is_of_log_before, no_branch
from coordinator.core.verdict import decided, heuristic, is_given_up
from troth.ids import TransactionId
from troth.v1 import common_pb2, participant_pb2, record_pb2

HAZARD = common_pb2.OUTCOME_HAZARD
ENDS = {
    participant_pb2.ACKNOWLEDGEMENT_KIND_DONE: common_pb2.OUTCOME_ABORTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT: common_pb2.OUTCOME_COMMITTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT: common_pb2.OUTCOME_ABORTED,
}
"""How a branch ended that did not end by the protocol."""
BY_HAND = {
    participant_pb2.BRANCH_STATE_FORCED_COMMIT: participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT,
    participant_pb2.BRANCH_STATE_FORCED_ABORT: participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT,
}
"""Branches that Hello lists, and that people have ended: what their participant would acknowledge."""


def as_acknowledged(report: participant_pb2.BranchReport) -> participant_pb2.Acknowledgement:
    """What Hello says of a branch that people have ended, as its participant would acknowledge it."""
    return participant_pb2.Acknowledgement(
        transaction_id=report.transaction_id, kind=BY_HAND[report.state], detail=report.detail
    )


def acknowledged(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """Count it; with the last one it is over. An acknowledgement against the decision forces a Heuristic record."""
    participant, message = argument
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise no_branch(txn, participant)
    if branch.step is BranchStep.HEURISTIC:
        _say_since(book, txn, branch, message)
        return
    if branch.step is not COMMIT_OWED and branch.step is not SETTLE_OWED:
        return  # a repeat
    # Who was only asked what it holds, of a commit that was proven, has what people have committed there.
    branch.changed |= message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
    if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
        branch.step = OVER
        branch.over_at = book.now.monotonic
        count_acknowledgement(book, txn)
    else:
        report_heuristic(book, txn, branch, message)


def report_heuristic(book: Book, txn: Transaction, branch: Branch, message: participant_pb2.Acknowledgement) -> None:
    """Write down that a branch ended by itself; what follows waits for the record."""
    name = participant_pb2.AcknowledgementKind.Name(message.kind).removeprefix("ACKNOWLEDGEMENT_KIND_")
    report = heuristic(
        decision(book, txn),
        transaction_id=txn.id,
        participant=branch.participant.name,
        branch_outcome=ENDS[message.kind],
        why=message.detail[:TEXT_CHARACTERS_MAX] or f"the participant answered {name}",
    )
    append_heuristic(book, txn, branch, report)


def _say_since(book: Book, txn: Transaction, branch: Branch, message: participant_pb2.Acknowledgement) -> None:
    """Who was given up says after all how it ended: that is known from now on, instead of HAZARD. Anything else is a repeat."""
    name = branch.participant.name
    last = next((report for report in reversed(txn.heuristic) if report.participant == name), None)
    ended = common_pb2.OUTCOME_COMMITTED if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE else ENDS[message.kind]
    given_up = last is not None and is_given_up(last)
    # Where no decision is known, who could not tell may be ended by hand: two ends are what MIXED is known by.
    ended_since = last is not None and last.branch_outcome == common_pb2.OUTCOME_HAZARD and message.kind in BY_HAND.values()
    settled = given_up or (ended_since and decision(book, txn) is None)
    if last is None or not settled or ended == common_pb2.OUTCOME_HAZARD:
        return
    report = record_pb2.Heuristic()
    report.CopyFrom(last)
    report.branch_outcome = ended
    report.why = "; ".join(filter(None, (last.why, message.detail[:TEXT_CHARACTERS_MAX])))
    append_heuristic(book, txn, branch, report)


def acknowledged_too_late(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """Another branch ended otherwise, too, or by hand where no decision is known: a Heuristic record is forced for each."""
    participant, message = argument
    branch = txn.branches.setdefault(participant.name, Branch(participant, 0, 0))
    if branch.step is BranchStep.HEURISTIC:
        _say_since(book, txn, branch, message)
        return
    end = ENDS[message.kind]
    if any(report.participant == participant.name and end in (report.branch_outcome, HAZARD) for report in txn.heuristic):
        return  # people have forgotten that it ended so; and what is known of it is not less known by what it cannot tell any more
    if message.kind != participant_pb2.ACKNOWLEDGEMENT_KIND_DONE and not agrees(end, decision(book, txn)):
        report_heuristic(book, txn, branch, message)


def tell_decision(book: Book, participant: Participant, txn: Transaction, order: int) -> None:
    """Others ended otherwise than was decided; whoever may still be in doubt is told the decision all the same."""
    kind = COMMIT if decision(book, txn) else ABORT
    book.send_decision(participant, txn.id, order, kind, acknowledge=True)


def agrees(end: common_pb2.Outcome.ValueType, committed: bool | None) -> bool:
    """Whether a branch ended as decided; never, where that is not known."""
    return committed is not None and end == (common_pb2.OUTCOME_COMMITTED if committed else common_pb2.OUTCOME_ABORTED)


def decision(book: Book, txn: Transaction) -> bool | None:
    """Whether COMMIT was decided of a transaction that did not end by the protocol; `None` when that is not known."""
    if txn.heuristic:
        return decided(txn.heuristic)
    if txn.state is State.COMMITTING:
        return True
    if txn.late:
        return decision_of_past(book, txn.id, book.finished.get(txn.id))
    alone = txn.state is State.SETTLING and any(is_of_log_before(txn, branch) for branch in txn.branches.values())
    return False if book.may_presume(TransactionId.parse(txn.id)) and not alone else None


def decision_of_past(book: Book, transaction_id: str, done: Finished | None) -> bool | None:
    """The same of one that is over, or was never heard of; the theory is in `verdict`."""
    if done is not None:
        return _RETAINED.get(done.outcome)
    parsed = TransactionId.parse(transaction_id)
    return False if book.may_presume(parsed) and not book.dropped.covers(parsed) else None


_RETAINED = {common_pb2.OUTCOME_COMMITTED: True, common_pb2.OUTCOME_ABORTED: False}
"""What is retained of a decision. Of what is IN_DOUBT, or EXPIRED, it is not known."""


def append_heuristic(book: Book, txn: Transaction, branch: Branch, report: record_pb2.Heuristic) -> None:
    """Force a Heuristic record for a branch."""
    branch.step = BranchStep.HEURISTIC
    book.append(txn.id, book.record_of(heuristic=report), force=True, event=Durable("heuristic", txn.id, report))


def late_heuristic(
    book: Book, participant: Participant, transaction_id: str, done: Finished | None, report: record_pb2.Heuristic
) -> None:
    """A branch of a transaction that is over turns out to have ended otherwise: keep it for an operator."""
    txn = reopen(book, transaction_id, done, State.SETTLING)
    branch = txn.branches.setdefault(participant.name, Branch(participant, 0, 0))
    report.transaction_id, report.participant = txn.id, participant.name
    append_heuristic(book, txn, branch, report)


def heuristic_durable(book: Book, txn: Transaction, report: record_pb2.Heuristic) -> None:
    """A Heuristic record is durable: it counts as the branch's end."""
    if report in txn.heuristic:
        return  # said twice while the first was being written down
    txn.heuristic = txn.heuristic or forgotten_reports(book.finished.get(txn.id))
    is_first = all(earlier.participant != report.participant for earlier in txn.heuristic)
    txn.heuristic += (report,)
    book.counters.heuristic += is_first
    book.ready.effects.append(effects.Contradicted(report, txn.outcome))
    if txn.state is COMMITTING:
        if is_first:
            count_acknowledgement(book, txn)
    else:
        finish(book, txn, State.HEURISTIC)


def reported_after_all(book: Book, report: record_pb2.Heuristic) -> None:
    """A Heuristic record is durable of a transaction that an operator forgot meanwhile: it is open again, if this contradicts."""
    done = book.finished[report.transaction_id]
    if report.branch_outcome == done.outcome:
        return
    txn = reopen(book, report.transaction_id, done, State.SETTLING)
    participant = book.participant(report.participant)
    txn.branches.setdefault(report.participant, Branch(participant, 0, 0)).step = BranchStep.HEURISTIC
    heuristic_durable(book, txn, report)


def count_acknowledgement(book: Book, txn: Transaction) -> None:
    """One branch less to wait for."""
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        # Who was given up is looked at by people, also when it turns out that it ended as decided.
        agreed = txn.outcome == common_pb2.OUTCOME_COMMITTED and not any(report.who for report in txn.heuristic)
        finish(book, txn, COMMITTED if agreed else State.HEURISTIC)


def abandon(book: Book, txn: Transaction, argument: tuple[str, str]) -> None:
    """An operator stops waiting for acknowledgements that will never come."""
    who, why = argument
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            report = heuristic(
                True, transaction_id=txn.id, participant=branch.participant.name, who=who, why=why,
                branch_outcome=common_pb2.OUTCOME_HAZARD,
            )  # fmt: skip
            branch.participant.given_up.add(txn.id)
            append_heuristic(book, txn, branch, report)


def committing_timer(book: Book, txn: Transaction, _: Any) -> None:
    """Repeat COMMIT where an acknowledgement is owed; at the deadline answer COMMITTED (pending)."""
    if txn.deadline <= book.now.monotonic:
        book.answer_all(txn)  # decided, but not acknowledged by all: COMMITTED (pending)
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
        elif branch.step is SETTLE_OWED:
            book.send_settle(txn, branch)
    _narrow(book, txn)
    arm(book, txn)


def _narrow(book: Book, txn: Transaction) -> None:
    """Write down who has acknowledged, when others keep it open: a dead participant pins no watermark but its own."""
    over = [branch for branch in txn.branches.values() if branch.step is BranchStep.OVER and book.is_pinned(txn, branch)]
    if over:
        event = Durable("narrowed", txn.id, (txn, over))
        book.append(txn.id, book.decided_record(txn), force=False, event=event, patient=True)


def narrowed(book: Book, txn: Transaction, over: list[Branch]) -> None:
    """The record is durable: these branches are finished, whatever becomes of the others."""
    for branch in over:
        book.end_branch(txn, branch)


def committing_settled(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Settlement]) -> None:
    """Of a commit that was proven: whoever is in doubt is told, and so is whoever has rolled back what must have been prepared,
    which it will say. Whoever has committed owes nothing, nor does one that holds nothing, as it may have only read."""
    participant, message = argument
    branch = branch_of(txn, participant)
    if branch.step is not SETTLE_OWED:
        return  # a repeat
    branch.changed = message.kind in (participant_pb2.SETTLEMENT_KIND_PREPARED, participant_pb2.SETTLEMENT_KIND_COMMITTED)
    if message.kind == participant_pb2.SETTLEMENT_KIND_PREPARED or message.proves_abort:
        branch.step = COMMIT_OWED
        book.send_decision(participant, txn.id, branch.order, COMMIT)
    else:
        branch.step = OVER
        count_acknowledgement(book, txn)


def committing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """Send COMMIT at once; whoever is still asked what it holds is asked again, unless it lists that."""
    participant, report = argument
    branch = branch_of(txn, participant)
    if branch.step is SETTLE_OWED:
        if report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED:
            branch.step = COMMIT_OWED
        else:
            book.send_settle(txn, branch)
    if branch.step is BranchStep.COMMIT_OWED:
        book.send_decision(participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
