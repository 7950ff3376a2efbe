"""Steps that more than one transition takes: aborting, and the transaction's timer."""

from __future__ import annotations

from typing import Any

from coordinator.core.book import ABORT, Book, cause_of
from coordinator.core.finishing import finish
from coordinator.core.model import COMMITTING, PREPARING, Branch, BranchStep, Participant, State, Transaction
from troth.errors import Reason, RemoteProtocolError
from troth.v1 import common_pb2, participant_pb2, record_pb2

Returned = tuple[Participant, participant_pb2.BranchReport | None]
"""A participant whose Hello is complete, and what it listed of the transaction."""


TEXT_CHARACTERS_MAX = 1_000
"""Of what a participant says for people; it is kept for the retention."""
CODE_CHARACTERS_MAX = 200
"""Of an application's own code."""


def branch_of(txn: Transaction, participant: Participant) -> Branch:
    """The participant's branch; raises `RemoteProtocolError` when it has none."""
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise no_branch(txn, participant)
    return branch


def no_branch(txn: Transaction, participant: Participant) -> RemoteProtocolError:
    """What is wrong with a message of a participant that has no branch."""
    return RemoteProtocolError(f"{participant.name} has no branch in {txn.id}")


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
        book.append(txn.id, book.record_of(key_closed=record_pb2.KeyClosed(transaction_id=txn.id)), force=False)
    finish(book, txn, State.ABORTED)


def away(book: Book, txn: Transaction, participant: Participant) -> None:
    """Abort: the participant, or the incarnation that did the work, is gone."""
    reason = Reason.PARTICIPANT_RESTARTED if participant.ready else Reason.PARTICIPANT_AWAY
    abort(book, txn, cause_of(reason, f"participant {participant.name!r} lost the branch", participant=participant.name))


def no_cause(participant: Participant, vote: participant_pb2.Vote) -> common_pb2.Cause:
    """The cause of a NO vote, with who gave it; cut to what is kept for the retention."""
    told = vote.cause
    return common_pb2.Cause(
        reason=told.reason[:CODE_CHARACTERS_MAX] or Reason.REFUSED.name,
        participant=participant.name,
        code=told.code[:CODE_CHARACTERS_MAX],
        message=told.message[:TEXT_CHARACTERS_MAX],
        retryable=told.retryable,
    )


def keep_results(book: Book, txn: Transaction, branch: Branch, results: bytes) -> None:
    """Keep what a committed branch returned, unless it is over the limit: its commit stands without it."""
    if len(results) <= book.settings.payload_bytes_max:
        branch.results = results
    else:
        txn.results_lost = True


def too_large(book: Book, txn: Transaction, branch: Branch, results: bytes) -> None:
    """Abort: a branch that is not committed returned more than the limit."""
    limit, name = book.settings.payload_bytes_max, branch.participant.name
    message = f"{name} returned {len(results)} bytes of results; at most {limit} are allowed"
    abort(book, txn, cause_of(Reason.PAYLOAD_TOO_LARGE, message, participant=name))


def timeout(book: Book, txn: Transaction, _: Any = None) -> None:
    """Abort: it was not decided in time."""
    owing = ", ".join(txn.owing()) or "the client"
    abort(book, txn, cause_of(Reason.TIMEOUT, f"transaction {txn.id} was not decided in time; waited for {owing}"))


def late(book: Book, txn: Transaction, argument: Any) -> None:
    """Lost the race, or is a repeat: the outcome that there is, or will be, answers it."""


def arm(book: Book, txn: Transaction) -> None:
    """Set the transaction's timer to its next repeat, or to the deadline if that comes first and still means something."""
    now, state = book.now.monotonic, txn.state
    at = now + book.resend.delay_seconds(txn.attempt, txn.id)
    txn.attempt += 1
    if txn.deadline < at and (state is PREPARING or (state is COMMITTING and txn.wait_complete and txn.is_awaited)):
        at = max(txn.deadline, now)
    book.timers.set(txn.id, at)
