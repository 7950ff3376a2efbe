"""What callers said that their keyed transactions came to: durable with the commit, and given back under the key.

A result is a part of the claim to its key. So whichever record holds the key of a commit (Decided, KeyOpened, Ended, Forgotten)
holds the result, too; recovery, the cleaner, a backup and another node find it where they find the key, and it goes with the key.
From the commit on it is counted, in bytes, until it is given back: with the abort, which frees the key, or when the key is dropped.
Whoever hears it, hears it after the record that makes it durable, since nothing is told of a commit before that.

One kind of commit has no such record: where nobody has changed anything, nothing is lost with it, and Ended is not forced. A result
is. So with one, such a transaction is DECIDING until its Ended, which is forced, is durable.
"""

from __future__ import annotations

from coordinator.core.book import Book, cause_of
from coordinator.core.events import Durable
from coordinator.core.finishing import ended_record, finish
from coordinator.core.model import COMMITTED, DECIDING, OVER, Transaction
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2


def take(book: Book, txn: Transaction, request: client_pb2.CommitRequest) -> common_pb2.Cause | None:
    """Keep what the caller says with his commit. Returns why the transaction may not commit with it, if so."""
    size = len(request.result)
    if not size:
        return None
    if txn.claim is None:
        return cause_of(Reason.INVALID_ARGUMENT, f"{txn.id} has no key under which its result could be given back")
    wrong = _why_not(book, size)
    if wrong is None:
        txn.claim.result = request.result
        book.kept_bytes += size
    elif request.result_optional:
        return None
    else:
        book.counters.overloaded += wrong.reason == Reason.OVERLOADED.name
    return wrong


def _why_not(book: Book, size: int) -> common_pb2.Cause | None:
    settings = book.settings
    largest = min(settings.payload_bytes_max, settings.key_results_bytes_max)
    if size > largest:
        return cause_of(Reason.PAYLOAD_TOO_LARGE, f"the result has {size} bytes; at most {largest} are kept under a key")
    if book.kept_bytes + size > settings.key_results_bytes_max:
        message = f"no room for the result: {book.kept_bytes} bytes are kept under keys (key_results_bytes_max)"
        return cause_of(Reason.OVERLOADED, message)
    return None


def finish_unchanged(book: Book, txn: Transaction) -> None:
    """Commit what has changed nothing: at once, or when its result is durable."""
    if not txn.has_result:
        finish(book, txn, COMMITTED)
        return
    for branch in txn.branches.values():
        branch.step = OVER  # its order is freed with the record
    book.timers.cancel(txn.id)
    book.set_state(txn, DECIDING)
    book.append(txn.id, ended_record(book, txn), force=True, event=Durable("recorded", txn.id))


def is_unchanged(txn: Transaction) -> bool:
    """Whether it waits for its Ended, and not for a Decided."""
    return txn.has_result and txn.state is DECIDING and all(branch.step is OVER for branch in txn.branches.values())


def bytes_kept(book: Book) -> int:
    """How much is kept, counted anew. What was over and is open again shares its claim with what is retained of it."""
    claims = [txn.claim for txn in book.live.values()] + [done.claim for done in book.finished.values()]
    return sum(len(claim.result) for claim in {id(claim): claim for claim in claims}.values() if claim is not None)


def recorded(book: Book, txn: Transaction, _: object) -> None:
    """The record of what has changed nothing is durable, and its result with it."""
    book.end_branches(txn)
    finish(book, txn, COMMITTED)
