"""Steps that more than one transition takes: aborting, and the transaction's timer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.core import effects
from coordinator.core.book import ABORT, Book, cause_of
from coordinator.core.finishing import finish
from coordinator.core.model import COMMITTING, PREPARING, Branch, BranchStep, Participant, State, Transaction
from coordinator.core.timeline import note_repeat
from troth.errors import Reason, RemoteProtocolError
from troth.ids import TransactionId
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


def is_of_log_before(txn: Transaction, branch: Branch) -> bool:
    """Whether a branch is of the log that had its participant's name before: of it the present one can tell nothing but COMMITTED
    (see `replaced`)."""
    before = branch.participant.before
    return before != (0, 0) and branch.participant.was_before(TransactionId.parse(txn.id).epoch, branch.order)


def no_branch(txn: Transaction, participant: Participant) -> RemoteProtocolError:
    """What is wrong with a message of a participant that has no branch."""
    return RemoteProtocolError(f"{participant.name} has no branch in {txn.id}")


def key_opened(book: Book, txn: Transaction, branch: Branch) -> record_pb2.CoordinatorRecord:
    """The record that the key is with a branch that commits, or may have committed, by itself."""
    opened = record_pb2.KeyOpened(
        transaction_id=txn.id, claim=txn.claim, participant=branch.participant.name, order=branch.order,
        first_attempt_ms=txn.first_attempt_ms,
    )  # fmt: skip
    return book.record_of(key_opened=opened)


def abort(book: Book, txn: Transaction, cause: common_pb2.Cause) -> None:
    """Decide ABORT: no record, one message to each branch that may hold something, and the answer."""
    assert txn.state in (State.ACTIVE, State.PREPARING, State.OPENING, State.HANDED_OVER, State.SETTLING)
    opened = txn.claim is not None and txn.state in (State.OPENING, State.HANDED_OVER, State.SETTLING)
    for branch in txn.branches.values():
        if branch.step in (BranchStep.ENLISTED, BranchStep.READY, BranchStep.VOTE_OWED, BranchStep.YES):
            book.send_decision(branch.participant, txn.id, branch.order, ABORT)
    book.end_branches(txn)
    txn.cause = cause
    if txn.interactive and txn.session is not None and txn.session.keeps_answers and txn.session.name in book.sessions:
        txn.asked = True  # its client is told, asked or not: the number is used, and nothing may begin under it again
    if opened:
        # Unforced: if it is lost, recovery settles the key again and finds the branch rolled back.
        book.append(txn.id, book.record_of(key_closed=record_pb2.KeyClosed(transaction_id=txn.id)), force=False)
    finish(book, txn, State.ABORTED)


def away(book: Book, txn: Transaction, participant: Participant) -> None:
    """Abort: the participant, or the incarnation that did the work, is gone."""
    reason = Reason.PARTICIPANT_RESTARTED if participant.ready else Reason.PARTICIPANT_AWAY
    abort(book, txn, cause_of(reason, f"participant {participant.name!r} lost the branch", participant=participant.name))


def send_away(book: Book, participant: Participant, cause: common_pb2.Cause) -> None:
    """End a participant's stream with a Goodbye that says why."""
    book.ready.effects.append(effects.Rejected(participant.name, participant.stream, cause))
    participant.hang_up()


def broke_protocol(book: Book, participant: Participant, rule: str) -> None:
    """Tell a participant which rule it broke, where that has consequences besides: otherwise a `RemoteProtocolError` does."""
    cause = cause_of(Reason.PROTOCOL_ERROR, rule)
    cause.retryable = True  # a new stream brings both to the same state again
    send_away(book, participant, cause)


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


def vote_name(vote: participant_pb2.Vote) -> str:
    """The kind of a vote for people, also of one that means nothing here."""
    known = participant_pb2.VoteKind.DESCRIPTOR.values_by_number.get(vote.kind)
    return known.name.removeprefix("VOTE_KIND_") if known is not None else f"kind {vote.kind}"


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


def no_room(book: Book, txn: Transaction, branch: Branch) -> None:
    """Abort: what a branch returned would have to be held until all have voted, and there is no room for that."""
    name = branch.participant.name
    book.counters.overloaded += 1
    message = f"no room for the results of {name}: open transactions hold {book.open_bytes} bytes (open_bytes_max)"
    abort(book, txn, cause_of(Reason.OVERLOADED, message, participant=name))


def timeout(book: Book, txn: Transaction, _: Any = None) -> None:
    """Abort: it was not decided in time."""
    message = f"transaction {txn.id} was not decided in time; waited for {', '.join(txn.owing()) or 'the client'}"
    abort(book, txn, cause_of(Reason.TIMEOUT, message, participant=only(txn.owing())))


def only(names: Sequence[str]) -> str:
    """The name, when there is one alone: a cause names one participant or none."""
    return names[0] if len(names) == 1 else ""


def late(book: Book, txn: Transaction, argument: Any) -> None:
    """Lost the race, or is a repeat: the outcome that there is, or will be, answers it."""


def hasten(book: Book, txn: Transaction, at: float) -> None:
    """Let the transaction's timer fire at a time, unless it does before, or has none."""
    due = book.timers.due(txn.id)
    if due is not None and book.now.monotonic < at < due:
        book.timers.set(txn.id, at)


def arm(book: Book, txn: Transaction) -> None:
    """Set the transaction's timer to its next repeat, or to the deadline if that comes first and still means something."""
    now, state = book.now.monotonic, txn.state
    at = now + book.resend.delay_seconds(txn.attempt, txn.id)
    if txn.attempt:
        note_repeat(txn, book.now)
    txn.attempt += 1
    if txn.deadline < at and (state is PREPARING or (state is COMMITTING and txn.wait_complete and txn.is_awaited)):
        at = max(txn.deadline, now)
    book.timers.set(txn.id, at)
