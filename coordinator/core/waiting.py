"""Orders of operators that wait for a second person.

They are in the log, and nowhere else: so they outlive a restart, and go with their shard to whichever node has it next. Who may
approve is decided outside (`coordinator.services.reviews`). An order is taken once: its end is durable before it is carried out,
so that no crash has it done twice; one that is lost then is asked for again.

While a start is refused nothing is written: what waits then, and what is taken, is known to this process alone until the loss is
accepted, and is written with that (`write`). So the order to accept the loss, too, is carried out once.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from coordinator.core import effects
from coordinator.core.book import Book
from coordinator.core.model import Beginning
from troth.v1 import record_pb2

KIND = "review"
"""What the owners of its records begin with."""
WAITING_MAX = 100
"""Orders that wait at once; more are refused until some are decided or have expired."""


def change(book: Book, review: record_pb2.Review) -> Message:
    """Have an order wait, or take one that waits. Returns what waits or has waited, once that is durable; an empty one when there
    is no room, or nothing waits under the name."""
    known = next((one for one in not_expired(book) if one.review == review.review), None)
    if review.over:
        if known is None:
            return record_pb2.Review()
        del book.reviews[review.review]
    elif len(book.reviews) >= WAITING_MAX:
        return record_pb2.Review()
    else:
        known = book.reviews[review.review] = review
    book.reviews_unwritten.append(review)
    if book.beginning is not Beginning.REFUSED:
        write(book)
    return known


def write(book: Book) -> None:
    """Write what was ordered, and what was taken, as soon as anything may be written."""
    for review in book.reviews_unwritten:
        book.append(f"{KIND}/{review.review}", book.record_of(review=review), force=True)
    book.reviews_unwritten = []


def not_expired(book: Book) -> Sequence[record_pb2.Review]:
    """What waits."""
    return [one for one in book.reviews.values() if one.until_ms > book.clock_ms]


def expire(book: Book) -> None:
    """Drop what has waited for too long. The log needs no word of it: it says until when."""
    for one in [one for one in book.reviews.values() if one.until_ms <= book.clock_ms]:
        del book.reviews[one.review]
        book.ready.effects.append(effects.Expired(one))


def replay(book: Book, review: record_pb2.Review) -> str:
    """Read a record; returns its owner."""
    if review.over:
        book.reviews.pop(review.review, None)
    else:
        book.reviews[review.review] = review
    return f"{KIND}/{review.review}"
