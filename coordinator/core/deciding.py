"""Phase one: enlisting, the votes, and the decision."""

from __future__ import annotations

from typing import Any

from coordinator.core.book import COMMIT, Book, cause_of, peers_of
from coordinator.core.events import Durable
from coordinator.core.finishing import finish
from coordinator.core.model import (
    COMMIT_OWED,
    COMMITTED,
    COMMITTING,
    DECIDING,
    OVER,
    PREPARING,
    VOTE_OWED,
    YES,
    Branch,
    BranchStep,
    Participant,
    Transaction,
)
from coordinator.core.one_phase import open_or_hand_over
from coordinator.core.steps import (
    TEXT_CHARACTERS_MAX,
    Returned,
    abort,
    arm,
    away,
    branch_of,
    no_branch,
    no_cause,
    timeout,
    too_large,
)
from troth.errors import Reason, RemoteProtocolError
from troth.ids import NAME_BYTES_MAX
from troth.v1 import client_pb2, common_pb2, participant_pb2


def start(book: Book, txn: Transaction) -> None:
    """All work is known: ask for the votes, or give the decision away."""
    if not txn.branches:
        finish(book, txn, COMMITTED)
    elif len(txn.branches) == 1:
        open_or_hand_over(book, txn)
    else:
        txn.peers = peers_of(tuple(txn.branches))
        txn.missing = len(txn.branches)
        book.set_state(txn, PREPARING)
        for branch in txn.branches.values():
            branch.step = VOTE_OWED
            book.send_prepare(txn, branch)
        arm(book, txn)


def enlist(book: Book, txn: Transaction, participant: Participant) -> None:
    """Add a branch; the same incarnation is told its order again; another incarnation aborts the transaction."""
    branch = txn.branches.get(participant.name)
    if branch is not None and branch.incarnation != participant.incarnation:
        away(book, txn, participant)
        refuse_enlist(book, participant, txn.id, Reason.PARTICIPANT_RESTARTED)
        return
    if branch is None:
        if len(txn.branches) >= book.settings.participants_max:
            refuse_enlist(book, participant, txn.id, Reason.TOO_MANY_PARTICIPANTS)
            return
        branch = book.add_branch(txn, participant)
    book.send(participant, "enlisted", participant_pb2.Enlisted(transaction_id=txn.id, order=branch.order), early=True)


def enlist_closed(book: Book, txn: Transaction, participant: Participant) -> None:
    """Refuse: the commit has begun."""
    refuse_enlist(book, participant, txn.id, Reason.ENLIST_CLOSED)


def refuse_enlist(book: Book, participant: Participant, transaction_id: str, reason: Reason) -> None:
    """Tell a participant that the transaction takes no branch of it."""
    cause = cause_of(reason, f"transaction {transaction_id} takes no new branch", participant=participant.name)
    book.send(participant, "enlisted", participant_pb2.Enlisted(transaction_id=transaction_id, refusal=cause), early=True)


def commit(book: Book, txn: Transaction, request: client_pb2.CommitRequest) -> None:
    """Enlisting closes here. The counts close the gap of a call that was lost or repeated on its way."""
    txn.wait_complete = request.wait == common_pb2.WAIT_COMPLETE
    counts = {item.participant: item.count for item in request.acknowledged}
    unknown = sorted(counts.keys() - txn.branches.keys())
    if unknown:
        message = f"work of {', '.join(unknown)[:TEXT_CHARACTERS_MAX]} was acknowledged, but no branch of it is known"
        abort(book, txn, cause_of(Reason.OPERATION_COUNT, message, participant=unknown[0][:NAME_BYTES_MAX]))
        return
    for name, branch in txn.branches.items():
        branch.operation_count = counts.get(name, 0)
    start(book, txn)


def vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    """Count a vote: NO aborts; when all have voted it is decided, or over if all only read."""
    participant, vote = argument
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise no_branch(txn, participant)
    if branch.step is not VOTE_OWED:
        return  # a repeat
    kind = vote.kind
    if kind == participant_pb2.VOTE_KIND_YES:
        _voted(book, txn, branch, YES, vote.results)
    elif kind == participant_pb2.VOTE_KIND_READ_ONLY:
        # Its order is freed only with the transaction: a watermark past a live transaction's branch would make a repeated
        # Prepare look expired.
        _voted(book, txn, branch, OVER, vote.results)
    elif kind == participant_pb2.VOTE_KIND_NO:
        book.end_branch(txn, branch)
        abort(book, txn, no_cause(participant, vote))
    else:
        raise RemoteProtocolError(f"{participant.name} answered one-phase commit for {txn.id}, which has several branches")


def _voted(book: Book, txn: Transaction, branch: Branch, step: BranchStep, results: bytes) -> None:
    if len(results) > book.settings.payload_bytes_max:
        too_large(book, txn, branch, results)
        return
    branch.step = step
    branch.results = results
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        _decide(book, txn)


def _decide(book: Book, txn: Transaction) -> None:
    """All have voted and nobody said NO: this is the only place that decides COMMIT."""
    for branch in txn.branches.values():
        assert branch.step is YES or branch.step is OVER
    record = book.decided_record(txn)
    if not record.decided.owing:
        finish(book, txn, COMMITTED)
        return
    book.set_state(txn, DECIDING)
    book.append(txn.id, record, force=True, event=Durable("decided", txn.id))


def decided(book: Book, txn: Transaction, _: Any) -> None:
    """The commit point has passed: tell everybody, independently of one another."""
    book.set_state(txn, COMMITTING)
    txn.missing = 0
    for branch in txn.branches.values():
        if branch.step is YES:
            branch.step = COMMIT_OWED
            txn.missing += 1
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
    if not txn.wait_complete:
        book.answer_all(txn)
    arm(book, txn)


def preparing_timer(book: Book, txn: Transaction, _: Any) -> None:
    """At the deadline: abort. Before: repeat Prepare where a vote is owed."""
    if txn.deadline <= book.now.monotonic:
        timeout(book, txn)
        return
    for branch in txn.branches.values():
        if branch.step is VOTE_OWED:
            book.send_prepare(txn, branch)
    arm(book, txn)


def active_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """Abort if another incarnation came back. If the same one no longer has the branch, the commit's count tells."""
    participant, _ = argument
    if branch_of(txn, participant).incarnation != participant.incarnation:
        away(book, txn, participant)


def preparing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """A branch reported PREPARED counts as a YES; another incarnation aborts; otherwise repeat Prepare."""
    participant, report = argument
    branch = branch_of(txn, participant)
    if branch.step is not VOTE_OWED:
        return
    if report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED:
        _voted(book, txn, branch, YES, report.results)
    elif branch.incarnation != participant.incarnation:
        away(book, txn, participant)
    else:
        book.send_prepare(txn, branch)
