"""Idempotency keys: at most one commit under each, and what is asked under a key is answered under the key.

A one-shot retry joins what is running, is told the committed outcome if there is one, and runs again after an abort. An
interactive begin never joins, because its caller will do work of its own: it aborts an undecided holder. A retry that joins has a
transaction id of its own under which nothing ever runs; so whatever is said of a keyed request is said of the key's holder, as
long as there is one: before any refusal of the request, and also when the question names the retry's own id.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core import effects, events
from coordinator.core.book import Book, cause_of
from coordinator.core.model import COMMITTING, HEURISTIC, UNDECIDED, Joiner, KeyEntry, Session, State, Transaction, scoped
from coordinator.core.one_phase import answer_in_time
from coordinator.core.steps import abort, hasten
from troth.errors import Reason, RequestError
from troth.keys import HASH_VERSION, INTERACTIVE_HASH, body_hash, first_body_hash
from troth.v1 import client_pb2, common_pb2, record_pb2

TICKETS_MAX = 1_000
"""Questions that wait for one settlement; further ones are answered IN_DOUBT at once."""


def claim_of(key: str, owner: str, branches: Sequence[client_pb2.BranchRequest] | None) -> record_pb2.KeyClaim | None:
    """The claim of a request; `None` without a key. `branches` is `None` for an interactive one."""
    if not key:
        return None
    body = INTERACTIVE_HASH if branches is None else body_hash(branches)
    return record_pb2.KeyClaim(key=key, body_hash=body, hash_version=HASH_VERSION, owner=owner)


def holder_of(book: Book, claim: record_pb2.KeyClaim, branches: Sequence[client_pb2.BranchRequest] = ()) -> KeyEntry | None:
    """Who holds the key. Raises `RequestError` (KEY_REUSED) when that is another request."""
    entry = book.keys.get(scoped(claim))
    if entry is None or entry.claim.body_hash == claim.body_hash:
        return entry
    # A key that an earlier release claimed must not be refused because the hash is another one today.
    if entry.claim.hash_version == 0 and entry.claim.body_hash == first_body_hash(branches):
        return entry
    raise RequestError(Reason.KEY_REUSED, f"its key belongs to another request, {entry.transaction_id}")


def not_known(book: Book, number: int, transaction_id: str) -> client_pb2.Answer | None:
    """What is told of anything asked under a key while keys of the log cannot be read: any of them may be this one."""
    if not book.keys_unreadable:
        return None
    cause = cause_of(Reason.PAYLOAD_KEY_MISSING, "idempotency keys in the log are sealed, and their payload key is not there")
    return client_pb2.Answer(number=number, transaction_id=transaction_id, outcome=common_pb2.OUTCOME_IN_DOUBT, cause=cause)


def is_told_at_once(txn: Transaction) -> bool:
    """Whether whoever asks to end an open transaction, or joins it, waits for nothing any more."""
    return txn.state is HEURISTIC or (txn.state is COMMITTING and not txn.wait_complete)


# ---- requests


def join(book: Book, session: Session, event: events.Run, claim: record_pb2.KeyClaim) -> bool:
    """Let a one-shot retry join the holder of its key, if there is one."""
    entry = holder_of(book, claim, event.request.branches[:])
    if entry is None:
        return False
    number, txn = event.request.number, entry.live
    known = _known_answer(book, entry, number)
    if not book.has_room(session):
        book.answer_without_room(session, known or _in_doubt(entry, number, Reason.OVERLOADED, "no further answer can be kept"))
    elif known is not None:
        book.answer(session, known)
    else:
        assert txn is not None  # what is over has a known answer
        session.live[number] = txn
        if txn.state is State.SETTLING:
            _await_settlement(book, txn, event)
        else:
            txn.wait_for(session, number)
    return True


def outcome_of_holder(book: Book, claim: record_pb2.KeyClaim) -> client_pb2.Answer | None:
    """What an interactive begin is told instead of beginning: the holder's outcome, or that it is in doubt."""
    entry = holder_of(book, claim)
    if entry is None or (entry.live is not None and entry.live.state in UNDECIDED):
        return None
    return _answer_of(book, entry)


def supersede(book: Book, claim: record_pb2.KeyClaim) -> None:
    """An interactive begin never joins: it aborts the undecided holder, if there is one."""
    entry = book.keys.get(scoped(claim))
    if entry is not None and entry.live is not None:
        abort(book, entry.live, cause_of(Reason.SUPERSEDED, "another attempt with the same key began"))


def _await_settlement(book: Book, txn: Transaction, event: events.Run) -> None:
    until = book.now.monotonic + event.request.timeout_ms / 1000
    book.joiners.setdefault(txn.id, []).append(Joiner(event, until))
    hasten(book, txn, until)


# ---- questions


def get_by_key(book: Book, event: events.Get) -> bool:
    """Answer a question under its key, if that has a holder with the same body."""
    request = event.request
    entry = book.keys.get(scoped(record_pb2.KeyClaim(key=request.key, owner=event.caller)))
    if entry is None or not _is_same_body(entry, request.body_hash):
        return False
    txn = entry.live
    if txn is not None and txn.state is State.SETTLING:
        return wait_for_settlement(book, txn, event)
    answer_question(book, event, _answer_of(book, entry))
    return True


def wait_for_settlement(book: Book, txn: Transaction, event: events.Get) -> bool:
    """Answer a question when the transaction is settled, or when it is to be told that it is in doubt."""
    if len(txn.tickets) < TICKETS_MAX:
        txn.tickets += (event,)
        answer_in_time(book, txn, book.now.monotonic)
    else:
        answer_question(book, event, book.make_answer(txn, 0))
    return True


def answer_question(book: Book, event: events.Get, answer: client_pb2.Answer) -> None:
    """Answer a Get."""
    book.ready.effects.append(effects.Got(event.ticket, answer))


def _is_same_body(entry: KeyEntry, asked: bytes) -> bool:
    # What an earlier release hashed cannot be compared; who asks about it without its body has to be believed.
    return not asked or entry.claim.hash_version != HASH_VERSION or entry.claim.body_hash == asked


# ---- answers


def _known_answer(book: Book, entry: KeyEntry, number: int) -> client_pb2.Answer | None:
    """The answer for whoever joins, if there is nothing to wait for."""
    if entry.live is None:
        return book.answer_finished(entry.transaction_id, book.finished[entry.transaction_id], number)
    return book.make_answer(entry.live, number, replayed=True) if is_told_at_once(entry.live) else None


def _answer_of(book: Book, entry: KeyEntry) -> client_pb2.Answer:
    """The outcome of a key's holder as it is now, with what its caller said that it came to."""
    if entry.live is None:
        answer = book.answer_finished(entry.transaction_id, book.finished[entry.transaction_id], 0)
    else:
        answer = book.make_answer(entry.live, 0, replayed=True)
    if answer.outcome == common_pb2.OUTCOME_COMMITTED:
        answer.result = entry.claim.result
    elif answer.outcome == common_pb2.OUTCOME_IN_DOUBT:
        return _in_doubt(entry, 0, Reason.IN_DOUBT, f"{entry.transaction_id} holds the key and is being decided")
    return answer


def _in_doubt(entry: KeyEntry, number: int, reason: Reason, message: str) -> client_pb2.Answer:
    return client_pb2.Answer(
        number=number, transaction_id=entry.transaction_id, outcome=common_pb2.OUTCOME_IN_DOUBT,
        cause=cause_of(reason, message), replayed=True,
    )  # fmt: skip
