"""What is refused before it is a transaction: it is counted and told of in one place, and answered so that it never begins."""

from __future__ import annotations

from coordinator.core import effects
from coordinator.core.book import Book, cause_of
from coordinator.core.model import Session
from troth.errors import RequestError
from troth.v1 import client_pb2, common_pb2


def cause_of_refusal(error: RequestError) -> common_pb2.Cause:
    """What the caller is told."""
    return cause_of(error.reason, error.message, participant=error.participant)


def refused(book: Book, error: RequestError) -> common_pb2.Cause:
    """Count what nothing has run of. What the caller is told."""
    book.counters.refused += 1
    book.ready.effects.append(effects.Refused(error.reason, error.by_caller))
    return cause_of_refusal(error)


def refuse(book: Book, session: Session, number: int, transaction_id: str, error: RequestError) -> None:
    """Answer a request of which nothing has run. Where there is no room to keep that, the number alone is remembered: a repeat
    that is on its way must not run when the client has been told that it did not."""
    outcome, cause = common_pb2.OUTCOME_ABORTED, refused(book, error)
    refusal = client_pb2.Answer(number=number, transaction_id=transaction_id, outcome=outcome, cause=cause)
    if book.has_room(session):
        book.answer(session, refusal)
    else:
        book.answer_without_room(session, refusal)
