"""How a transaction ends in the book: its record, its key, its answer, and what is kept of it for the retention.

What the log and the memory keep about finished transactions is bounded by time and by number. When something is dropped
before its time, the *horizon* moves: from then on nobody is told anything of a transaction that began before it, other than
EXPIRED. The horizon is durable before anything is dropped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from coordinator.core import effects, words
from coordinator.core.book import Book, cause_of
from coordinator.core.events import Durable
from coordinator.core.model import (
    COMMITTED,
    COMMITTING,
    DECIDING,
    HEURISTIC,
    Branch,
    BranchStep,
    DealtWith,
    Finished,
    Session,
    State,
    Transaction,
    scoped,
)
from coordinator.core.timeline import moments_of
from coordinator.core.verdict import decided
from troth.errors import Reason
from troth.ids import TransactionId
from troth.v1 import client_pb2, common_pb2, record_pb2

RESULT_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of results that are kept for retries with the same key, over all transactions."""
EVICT_MAX = 4096
"""Finished transactions dropped at one go."""


def finish(book: Book, txn: Transaction, state: State) -> None:
    """The outcome is known. For a commit of several participants: everybody has acknowledged it."""
    before = txn.state
    book.timers.cancel(txn.id)
    book.set_state(txn, state)
    if state is COMMITTED:
        book.counters.committed += 1
        if before is not DECIDING:  # otherwise it is recorded already: see `kept`
            _record_end(book, txn, before is COMMITTING)
    elif state is State.ABORTED:
        book.counters.aborted += 1
    if state in (State.ABORTED, State.EXPIRED):
        book.give_back(txn.claim)
    else:
        txn.cause = None  # it may have been told in doubt meanwhile
    if state is HEURISTIC:
        book.end_branches(txn)
    else:
        book.close(txn)
        if txn.session is not None:
            txn.session.live.pop(txn.number, None)
        _retain(book, txn)
    if txn.claim is not None:
        _settle_key(book, txn, scoped(txn.claim))
        _release_joiners(book, txn)
    book.answer_all(txn)
    tell_over(book, txn, words.heuristic_words(txn.heuristic) if txn.heuristic else "")


def tell_over(book: Book, txn: Transaction, heuristic: str = "") -> None:
    """Let it be remembered how a transaction ended. What only a question has opened again adds nothing to what was told before."""
    session, claim = txn.session, txn.claim
    book.ready.effects.append(
        effects.Over(
            txn.id, txn.outcome, txn.first_attempt_ms, book.clock_ms, tuple(txn.branches), txn.cause,
            claim.key if claim is not None else "", heuristic, session.client if session is not None else "", txn.trace,
            moments_of(txn, book.now), bool(heuristic),
        )
    )  # fmt: skip


def _record_end(book: Book, txn: Transaction, was_decided: bool) -> None:
    """Write Ended, unforced; once it is durable the watermark may pass the branches. Behind a decision it is in no hurry."""
    if not txn.branches:
        return
    if was_decided:
        ended = record_pb2.Ended(transaction_id=txn.id, outcome=common_pb2.OUTCOME_COMMITTED)
        record = book.record_of(ended=ended)
    else:
        record = ended_record(book, txn)
    book.append(txn.id, record, force=False, event=Durable("ended", txn.id, txn), patient=was_decided)


def ended_record(book: Book, txn: Transaction) -> record_pb2.CoordinatorRecord:
    """The Ended of a commit that has no Decided before it: this record alone carries the outcome."""
    record = book.record()
    ended = record.ended
    ended.transaction_id = txn.id
    ended.outcome = common_pb2.OUTCOME_COMMITTED
    ended.first_attempt_ms, ended.owner = txn.first_attempt_ms, txn.owner
    for branch in txn.branches.values():
        ended.participant = branch.participant.name
        if branch.changed:
            ended.order = branch.order
        break
    if txn.claim is not None:
        ended.claim.CopyFrom(txn.claim)
    return record


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
    names = tuple(txn.branches)
    recorded = committed and bool(names or txn.has_result)
    orders = orders_of(txn) if recorded else ()
    done = Finished(
        txn.outcome, txn.first_attempt_ms, book.clock_ms, names, txn.cause, txn.claim, results, recorded, None, orders, txn.owner
    )  # fmt: skip
    retain(book, txn.id, done)


def orders_of(txn: Transaction) -> tuple[int, ...]:
    """The order of each branch of a commit that has changed something; 0 for the others."""
    return tuple([branch.order if branch.changed else 0 for branch in txn.branches.values()])


def retain(book: Book, transaction_id: str, done: Finished) -> None:
    """Keep a finished transaction for the retention."""
    assert transaction_id not in book.finished
    book.finished[transaction_id] = done
    book.recorded += done.recorded
    (book.keyed_commits if _holds_key(done) else book.other_finished).append(transaction_id)


def retain_dealt_with(book: Book, forgotten: record_pb2.Forgotten, reports: Sequence[record_pb2.Heuristic]) -> None:
    """Keep a heuristic outcome that an operator has forgotten: for the protocol as it was decided, for people as it ended."""
    name = forgotten.transaction_id
    done = book.finished.get(name)
    if done is None:
        claim = forgotten.claim if forgotten.HasField("claim") else None
        if claim is not None:
            book.kept_bytes += len(claim.result)
            if forgotten.outcome != common_pb2.OUTCOME_COMMITTED:
                book.give_back(claim)  # its key is free
        names = tuple(forgotten.participants)
        done = Finished(
            forgotten.outcome, forgotten.first_attempt_ms, forgotten.over_at_ms, names, None, claim, None, True, None,
            tuple(forgotten.orders), forgotten.owner,
        )  # fmt: skip
        retain(book, name, done)
    elif not done.recorded:
        done.recorded = True
        book.recorded += 1
    if forgotten.outcome == common_pb2.OUTCOME_IN_DOUBT:
        done.participants, done.orders = tuple(forgotten.participants), tuple(forgotten.orders)  # as far as they are known by now
    earlier = done.dealt_with.reports if done.dealt_with is not None else ()
    done.dealt_with = DealtWith((*earlier, *(report for report in reports if report not in earlier)), forgotten)


def forgotten_reports(done: Finished | None) -> tuple[record_pb2.Heuristic, ...]:
    """What people have forgotten, and counts again when a branch is heard of since: where no decision is known, that is all there
    is to compare it with."""
    if done is None or done.dealt_with is None or decided(done.dealt_with.reports) is not None:
        return ()
    return done.dealt_with.reports


def _holds_key(done: Finished) -> bool:
    """Whether it is kept for its key, and so bounded by the number of keys: an abort has freed it."""
    return done.claim is not None and done.outcome == common_pb2.OUTCOME_COMMITTED


def _settle_key(book: Book, txn: Transaction, key: str) -> None:
    entry = book.keys.get(key)
    if entry is None or entry.live is not txn:
        return
    if txn.state is State.COMMITTED:
        entry.live = None
        entry.finished_ms = book.clock_ms
    elif txn.state in (State.ABORTED, State.EXPIRED):
        del book.keys[key]


def _release_joiners(book: Book, txn: Transaction) -> None:
    """Retries that waited for a settlement are looked at again: told of the commit, or run anew, the first as the holder."""
    for event, until in book.joiners.pop(txn.id, ()):
        book.sessions[event.session].live.pop(event.request.number)
        request = client_pb2.RunRequest()
        request.CopyFrom(event.request)
        request.timeout_ms = max(1, int((until - book.now.monotonic) * 1000))
        book.again.append(replace(event, request=request))


def tell_joiners(book: Book, txn: Transaction) -> float:
    """Retries whose own time has passed are answered IN_DOUBT, and never run; returns when the next one's has."""
    now, waiting = book.now.monotonic, book.joiners.pop(txn.id, [])
    late = [event for event, until in waiting if until <= now]
    still = [joiner for joiner in waiting if joiner.until > now]
    if still:
        book.joiners[txn.id] = still
    for event in late:
        answer = book.make_answer(txn, event.request.number, replayed=True)
        answer.cause.CopyFrom(cause_of(Reason.IN_DOUBT, f"{txn.id} holds the key, and it is not known yet what became of it"))
        book.answer(book.sessions[event.session], answer)
    return min((joiner.until for joiner in still), default=math.inf)


def forsake(book: Book, txn: Transaction, session: Session) -> None:
    """A session is gone: nothing of it waits for the transaction any longer, and no retry of it is run."""
    txn.forsake(session)
    still = [joiner for joiner in book.joiners.pop(txn.id, []) if joiner.event.session != session.name]
    if still:
        book.joiners[txn.id] = still


def reopen(book: Book, transaction_id: str, done: Finished | None, state: State) -> Transaction:
    """A transaction that was over, and that a participant contradicts: kept for an operator.

    What the log must still say of it (its participants, its key) is written from the new entry from now on.
    """
    txn = Transaction(transaction_id, None, 0, state)
    txn.first_attempt_ms = book.clock_ms
    txn.results_lost = txn.late = True
    if done is not None:
        txn.first_attempt_ms, txn.claim, txn.owner = done.first_attempt_ms, done.claim, done.owner
        book.owned[txn.owner] += bool(txn.owner)
        for name, order in itertools.zip_longest(filter(None, done.participants), done.orders, fillvalue=0):
            branch = Branch(book.participant(str(name)), order, 0)
            branch.step, branch.changed = BranchStep.OVER, order > 0
            txn.branches[branch.participant.name] = branch
    book.late_heuristics += 1
    book.live[transaction_id] = txn
    return txn


# ---- retention


def evict(book: Book) -> None:
    """Move the horizon if something is to be dropped; `evicted` drops it once that is durable."""
    if book.evicting:
        return
    names = _over(book)
    if names:
        book.evicting = True
        over = [book.finished[name] for name in names]
        horizon = book.dropped.add(name for name in names if _may_stand(book.finished[name]) and _is_ours(book, name))
        # A first attempt cannot be later than its end, whatever a client's clock said: one such client moves no horizon ahead.
        book.dropping_through_ms = max(book.dropped_through_ms, *(min(done.first_attempt_ms, done.at_ms) for done in over))
        horizon.dropped_through_ms = book.dropping_through_ms
        book.keys_through_ms = max(1, book.keys_through_ms, *(done.first_attempt_ms for done in over if _holds_key(done)))
        horizon.keys_through_ms = book.keys_through_ms
        horizon.MergeFrom(book.dropped.branches(_drop_branches(book, names)))
        book.append("horizon", book.record_of(horizon=horizon), force=False, event=Durable("horizon", "horizon", names))


def _drop_branches(book: Book, names: Sequence[str]) -> Iterable[str]:
    """Note whose commits are about to be dropped; returns the participants, in one order."""
    touched: dict[str, None] = {}
    for name in names:
        done = book.finished[name]
        if _may_stand(done):
            epoch = TransactionId.parse(name).epoch
            for participant, order in zip(done.participants, done.orders, strict=False):  # of what was not recorded there are none
                if order and participant in book.participants:
                    book.dropped.add_branch(participant, epoch, order, done.at_ms)
                    touched[participant] = None
    return touched


_MAY_STAND = frozenset({common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_EXPIRED})
"""What may stand at a participant that has forgotten its branch."""


def _may_stand(done: Finished) -> bool:
    return done.outcome in _MAY_STAND or done.dealt_with is not None


def _is_ours(book: Book, name: str) -> bool:
    """Whether our sessions numbered it: of another coordinator's, which people had ended, no number says anything of ours."""
    return name.startswith(f"{book.coordinator}.")


def _over(book: Book) -> list[str]:
    """What is to be dropped at this go: what is too old, and what of the rest is too many. Each kind by itself: what is kept longer
    for its key must not keep what finished after it."""
    settings = book.settings
    names: list[str] = []
    oldest_ms = book.clock_ms - settings.retention_seconds * 1000
    surplus = len(book.other_finished) - settings.retained_transactions_max
    for name in itertools.islice(book.other_finished, EVICT_MAX):
        if book.finished[name].at_ms >= oldest_ms and len(names) >= surplus:
            break
        names.append(name)
    oldest_ms -= settings.skew_seconds * 1000
    for name in itertools.islice(book.keyed_commits, EVICT_MAX - len(names)):
        done = book.finished[name]
        # A retry is refused by the age of its first attempt, so the key is kept until that is out of time; by the wall clock, where
        # the durable one is far behind, and would keep every key for years.
        if done.at_ms >= oldest_ms or done.first_attempt_ms >= oldest_ms + max(0, book.now.wall_ms - book.clock_ms):
            break
        names.append(name)
    return names


def evicted(book: Book, names: list[str]) -> None:
    """The horizon is durable: drop what is behind it."""
    book.evicting = False
    book.dropped_through_ms = book.dropping_through_ms
    for name in names:
        done = book.finished.pop(name)
        queue = book.keyed_commits if _holds_key(done) else book.other_finished
        first = queue.popleft()
        assert first == name
        book.recorded -= done.recorded
        book.give_back(done.claim)
        if done.results is not None:
            book.result_bytes -= sum(map(len, done.results.values()))
        if done.claim is not None:
            entry = book.keys.get(scoped(done.claim))
            if entry is not None and entry.transaction_id == name:
                del book.keys[scoped(done.claim)]
    if len(names) == EVICT_MAX:
        evict(book)  # more are over: at a high rate one go an interval is not enough


def is_expired(book: Book, first_attempt_ms: int) -> bool:
    """Whether a transaction that began then may have been dropped already."""
    return first_attempt_ms <= book.dropped_through_ms or is_old(book, first_attempt_ms)


def is_old(book: Book, first_attempt_ms: int) -> bool:
    """Whether a first attempt lies before the retention, by the durable clock. Where the wall clock and the client's agree that it
    does not, the durable clock is the one that is wrong: it was set when the wall clock was ahead, and takes ten times as long to
    come back. Then what was dropped is known by the horizon, and not by its age."""
    settings, wall_age_ms = book.settings, book.now.wall_ms - first_attempt_ms
    if book.clock_ms - first_attempt_ms <= settings.retention_seconds * 1000:
        return False
    return not -settings.skew_seconds * 1000 <= wall_age_ms <= settings.retention_seconds * 1000
