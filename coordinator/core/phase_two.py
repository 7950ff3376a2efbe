"""Phase two: COMMIT until everybody has acknowledged it, and what does not end as decided."""

from __future__ import annotations

from typing import Any

from coordinator.core.book import ABORT, COMMIT, Book
from coordinator.core.events import Durable
from coordinator.core.finishing import finish
from coordinator.core.model import COMMIT_OWED, COMMITTED, COMMITTING, OVER, Branch, BranchStep, Participant, State, Transaction
from coordinator.core.steps import TEXT_CHARACTERS_MAX, Returned, arm, branch_of, no_branch
from troth.v1 import common_pb2, participant_pb2, record_pb2

ENDS = {
    participant_pb2.ACKNOWLEDGEMENT_KIND_DONE: common_pb2.OUTCOME_ABORTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED: common_pb2.OUTCOME_HAZARD,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT: common_pb2.OUTCOME_COMMITTED,
    participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT: common_pb2.OUTCOME_ABORTED,
}
"""How a branch ended that did not end by the protocol."""


def acknowledged(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """Count it; with the last one it is over. An acknowledgement against the decision forces a Heuristic record."""
    participant, message = argument
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise no_branch(txn, participant)
    if branch.step is not COMMIT_OWED:
        return  # a repeat
    if message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
        branch.step = OVER
        count_acknowledgement(book, txn)
    else:
        report_heuristic(book, txn, branch, message)


def report_heuristic(book: Book, txn: Transaction, branch: Branch, message: participant_pb2.Acknowledgement) -> None:
    """Write down that a branch ended by itself; what follows waits for the record."""
    name = participant_pb2.AcknowledgementKind.Name(message.kind).removeprefix("ACKNOWLEDGEMENT_KIND_")
    report = record_pb2.Heuristic(
        transaction_id=txn.id,
        participant=branch.participant.name,
        branch_outcome=ENDS[message.kind],
        why=message.detail[:TEXT_CHARACTERS_MAX] or f"the participant answered {name}",
        commit_decided=_commit_was_decided(book, txn),
    )
    append_heuristic(book, txn, branch, report)


def acknowledged_too_late(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """Another branch of it ended otherwise, too: a Heuristic record is forced for each."""
    participant, message = argument
    branch = txn.branches.setdefault(participant.name, Branch(participant, 0, 0))
    decided = common_pb2.OUTCOME_COMMITTED if _commit_was_decided(book, txn) else common_pb2.OUTCOME_ABORTED
    agrees = message.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE or ENDS[message.kind] == decided
    if branch.step is not BranchStep.HEURISTIC and not agrees:
        report_heuristic(book, txn, branch, message)


def tell_decision(book: Book, participant: Participant, txn: Transaction, order: int) -> None:
    """Others ended otherwise than was decided; whoever may still be in doubt is told the decision all the same."""
    kind = COMMIT if _commit_was_decided(book, txn) else ABORT
    book.send_decision(participant, txn.id, order, kind, acknowledge=True)


def _commit_was_decided(book: Book, txn: Transaction) -> bool:
    """What was decided of a transaction that did not end as decided; what was over before says so in what is retained of it."""
    if txn.heuristic:
        return txn.heuristic[0].commit_decided
    done = book.finished.get(txn.id)
    return txn.state is State.COMMITTING or (done is not None and done.outcome == common_pb2.OUTCOME_COMMITTED)


def append_heuristic(book: Book, txn: Transaction, branch: Branch, report: record_pb2.Heuristic) -> None:
    """Force a Heuristic record for a branch."""
    branch.step = BranchStep.HEURISTIC
    book.append(txn.id, book.record_of(heuristic=report), force=True, event=Durable("heuristic", txn.id, report))


def heuristic_durable(book: Book, txn: Transaction, report: record_pb2.Heuristic) -> None:
    """A Heuristic record is durable: it counts as the branch's end."""
    txn.heuristic += (report,)
    book.counters.heuristic += 1
    if txn.state is COMMITTING:
        count_acknowledgement(book, txn)
    else:
        finish(book, txn, State.HEURISTIC)


def count_acknowledgement(book: Book, txn: Transaction) -> None:
    """One branch less to wait for."""
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        agreed = not txn.heuristic or txn.outcome == common_pb2.OUTCOME_COMMITTED
        finish(book, txn, COMMITTED if agreed else State.HEURISTIC)


def abandon(book: Book, txn: Transaction, argument: tuple[str, str]) -> None:
    """An operator stops waiting for acknowledgements that will never come."""
    who, why = argument
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            report = record_pb2.Heuristic(
                transaction_id=txn.id, participant=branch.participant.name, who=who, why=why,
                branch_outcome=common_pb2.OUTCOME_HAZARD, commit_decided=True,
            )  # fmt: skip
            append_heuristic(book, txn, branch, report)


def committing_timer(book: Book, txn: Transaction, _: Any) -> None:
    """Repeat COMMIT where an acknowledgement is owed; at the deadline answer COMMITTED (pending)."""
    if txn.deadline <= book.now.monotonic:
        book.answer_all(txn)  # decided, but not acknowledged by all: COMMITTED (pending)
    for branch in txn.branches.values():
        if branch.step is BranchStep.COMMIT_OWED:
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
    _narrow(book, txn)
    arm(book, txn)


def _narrow(book: Book, txn: Transaction) -> None:
    """Write down who has acknowledged, when others keep it open: a dead participant pins no watermark but its own."""
    over = [branch for branch in txn.branches.values() if branch.step is BranchStep.OVER and book.is_pinned(txn, branch)]
    if over:
        event = Durable("narrowed", txn.id, (txn, over))
        book.append(txn.id, book.decided_record(txn), force=False, event=event)


def narrowed(book: Book, txn: Transaction, over: list[Branch]) -> None:
    """The record is durable: these branches are finished, whatever becomes of the others."""
    for branch in over:
        book.end_branch(txn, branch)


def committing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """Send COMMIT at once."""
    participant, _ = argument
    branch = branch_of(txn, participant)
    if branch.step is BranchStep.COMMIT_OWED:
        book.send_decision(participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
