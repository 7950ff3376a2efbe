"""How a transaction ends in the book: its record, its key, its answer, and what is kept of it for the retention.

What the log and the memory keep about finished transactions is bounded by time and by number. When something is dropped
before its time, the *horizon* moves: from then on nobody is told anything of a transaction that began before it, other than
EXPIRED. The horizon is durable before anything is dropped.
"""

from __future__ import annotations

from coordinator.core.book import Book
from coordinator.core.events import Durable
from coordinator.core.model import COMMITTED, COMMITTING, HEURISTIC, Branch, BranchStep, Finished, State, Transaction
from troth.v1 import common_pb2, record_pb2

RESULT_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of results that are kept for retries with the same key, over all transactions."""
EVICT_MAX = 4096
"""Finished transactions dropped at one go."""


def finish(book: Book, txn: Transaction, state: State) -> None:
    """The outcome is known. For a commit of several participants: everybody has acknowledged it."""
    was_decided = txn.state is COMMITTING
    book.timers.cancel(txn.id)
    book.set_state(txn, state)
    if state is COMMITTED:
        book.counters.committed += 1
        _record_end(book, txn, was_decided)
    elif state is State.ABORTED:
        book.counters.aborted += 1
    if state is HEURISTIC:
        book.end_branches(txn)
    else:
        book.live.pop(txn.id, None)
        if txn.session is not None:
            txn.session.live.pop(txn.number, None)
        _retain(book, txn)
    if txn.claim is not None:
        _settle_key(book, txn, txn.claim.key)
    book.answer_all(txn)


def _record_end(book: Book, txn: Transaction, was_decided: bool) -> None:
    """Write Ended, unforced; once it is durable the watermark may pass the branches."""
    if not txn.branches:
        return
    record = book.record()
    ended = record.ended
    ended.transaction_id = txn.id
    ended.outcome = common_pb2.OUTCOME_COMMITTED
    if not was_decided:
        # There is no Decided before it: this record alone carries the outcome.
        ended.first_attempt_ms = txn.first_attempt_ms
        ended.participant = next(iter(txn.branches))
        if txn.claim is not None:
            ended.claim.CopyFrom(txn.claim)
    book.append(txn.id, record, force=False, event=Durable("ended", txn.id, txn))


def _retain(book: Book, txn: Transaction) -> None:
    results = None
    committed = txn.state is COMMITTED
    if committed and txn.claim is not None and not txn.results_lost:
        results = {name: branch.results for name, branch in txn.branches.items() if branch.results}
        size = sum(map(len, results.values()))
        if book.result_bytes + size > RESULT_BYTES_MAX:
            results = None
        else:
            book.result_bytes += size
    names, recorded = tuple(txn.branches), committed and bool(txn.branches)
    done = Finished(txn.outcome, txn.first_attempt_ms, book.clock_ms, names, txn.cause, txn.claim, results, recorded)
    retain(book, txn.id, done)


def retain(book: Book, transaction_id: str, done: Finished) -> None:
    """Keep a finished transaction for the retention."""
    assert transaction_id not in book.finished
    book.finished[transaction_id] = done
    book.recorded += done.recorded


def _settle_key(book: Book, txn: Transaction, key: str) -> None:
    entry = book.keys.get(key)
    if entry is None or entry.live is not txn:
        return
    if txn.state is State.COMMITTED:
        entry.live = None
        entry.finished_ms = book.clock_ms
    elif txn.state in (State.ABORTED, State.EXPIRED):
        del book.keys[key]
    # Retries that waited for a settlement are looked at again: told of the commit, or run anew, the first as the holder.
    for event in book.joiners.pop(txn.id, ()):
        session = book.sessions.get(event.session)
        if session is not None:
            session.live.pop(event.request.number, None)
            book.again.append(event)


def reopen(book: Book, transaction_id: str, done: Finished | None, state: State) -> Transaction:
    """A transaction that was over, and that a participant contradicts: kept for an operator.

    What the log must still say of it (its participants, its key) is written from the new entry from now on.
    """
    txn = Transaction(transaction_id, None, 0, state)
    txn.first_attempt_ms = book.clock_ms
    txn.results_lost = txn.late = True
    if done is not None:
        txn.first_attempt_ms, txn.claim = done.first_attempt_ms, done.claim
        for name in filter(None, done.participants):
            branch = Branch(book.participant(name), 0, 0)
            branch.step = BranchStep.OVER
            txn.branches[name] = branch
    book.late_heuristics += 1
    book.live[transaction_id] = txn
    return txn


# ---- retention


def evict(book: Book) -> None:
    """Move the horizon if something is to be dropped; `evicted` drops it once that is durable."""
    if book.evicting:
        return
    through, count = book.dropped_through_ms, 0
    for done in book.finished.values():
        if count >= EVICT_MAX or not _is_over(book, done, len(book.finished) - count):
            break
        through = max(through, done.first_attempt_ms)
        count += 1
    if count:
        book.evicting = True
        record = book.record_of(horizon=record_pb2.Horizon(dropped_through_ms=through))
        book.append("horizon", record, force=False, event=Durable("horizon", "horizon", (through, count)))


def _is_over(book: Book, done: Finished, kept: int) -> bool:
    settings = book.settings
    age_ms = book.clock_ms - done.at_ms
    if done.claim is not None:
        return age_ms > (settings.retention_seconds + settings.skew_seconds) * 1000
    return age_ms > settings.retention_seconds * 1000 or kept > settings.retained_transactions_max


def evicted(book: Book, through_ms: int, count: int) -> None:
    """The horizon is durable: drop the oldest `count` finished transactions."""
    book.evicting = False
    book.dropped_through_ms = through_ms
    for _ in range(count):
        transaction_id, done = book.finished.popitem(last=False)
        book.recorded -= done.recorded
        if done.results is not None:
            book.result_bytes -= sum(map(len, done.results.values()))
        if done.claim is not None:
            entry = book.keys.get(done.claim.key)
            if entry is not None and entry.transaction_id == transaction_id:
                del book.keys[done.claim.key]
    if count == EVICT_MAX:
        evict(book)  # more are over: at a high rate one go an interval is not enough


def is_expired(book: Book, first_attempt_ms: int) -> bool:
    """Whether a transaction that began then may have been dropped already."""
    oldest = book.clock_ms - int(book.settings.retention_seconds * 1000)
    return first_attempt_ms <= max(oldest, book.dropped_through_ms)
