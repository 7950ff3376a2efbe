"""From the log back to the book, and what the log must still hold.

Recovery looks at every state that a crash can leave, not only at what was queued for a retry:

    Decided, no Ended           COMMITTING: COMMIT goes to every participant that owed an acknowledgement
    Decided, Heuristic          COMMITTING or HEURISTIC, with what was reported
    KeyOpened, nothing else     SETTLING: the only participant is asked, by rollback-if-unseen
    KeyOpened, Heuristic        HEURISTIC, and the key stays with it
    Ended                       retained, with its key
    nothing                     it was undecided, and is thereby aborted

Replay takes repeats, because the cleaner writes live records again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from coordinator.core import waiting
from coordinator.core.book import Book
from coordinator.core.finishing import ended_record, forgotten_reports, reopen, retain, retain_dealt_with
from coordinator.core.forgetting import drop, has_the_name
from coordinator.core.kept import bytes_kept, is_unchanged
from coordinator.core.model import (
    Branch,
    BranchStep,
    Finished,
    KeyEntry,
    Participant,
    State,
    Transaction,
    scoped,
)
from coordinator.core.steps import arm, key_opened
from coordinator.core.verdict import heuristic_outcome, is_given_up, judged_again, last_reports, outcome_decided
from troth.errors import LogDamaged, LogForeign, Reason, RequestError
from troth.ids import TransactionId
from troth.lives import Life
from troth.newer import kind_of
from troth.ready import Instant
from troth.v1 import common_pb2, record_pb2


class Replay:
    """Rebuilds a book from records, oldest first."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.last_ms = 0
        self._nameless_horizon = False
        self._branches_before_ms = 0
        self._decided: dict[str, record_pb2.Decided] = {}
        self._opened: dict[str, record_pb2.KeyOpened] = {}
        self._heuristic: dict[str, list[record_pb2.Heuristic]] = {}
        self._ended: dict[str, tuple[record_pb2.Ended, int]] = {}
        self._dealt_with: dict[str, tuple[record_pb2.Forgotten, list[record_pb2.Heuristic]]] = {}

    def read(self, position: int, body: bytes) -> str:
        """Take one record; returns its owner."""
        try:
            record = record_pb2.CoordinatorRecord.FromString(body)
        except DecodeError as error:
            raise LogDamaged(Reason.LOG_DAMAGED, f"record {position} of the log does not decode") from error
        self.last_ms = max(self.last_ms, record.at_ms)
        for heard in record.heard:
            # The cleaner's copies stand before the batch that they were made with, and say more than it.
            participant = self.book.participant(heard.participant)
            participant.heard = max(participant.heard, heard.position)
        kind = kind_of(record, f"record {position}")
        return _READERS[kind](self, getattr(record, kind), record.at_ms)

    def _epoch_started(self, started: record_pb2.EpochStarted, _: int) -> str:
        if started.coordinator != self.book.coordinator:
            raise LogForeign(Reason.LOG_FOREIGN, f"the log belongs to the coordinator {started.coordinator!r}")
        self.book.epoch = max(self.book.epoch, started.epoch)
        self.book.lives.add(Life(started.epoch, started.nonce, started.after), recorded=started.kept)
        return "epoch"

    def _loss(self, loss: record_pb2.Loss, _: int) -> str:
        self.book.losses[loss.participant] = loss
        return f"loss/{loss.participant}"

    def _decided_(self, decided: record_pb2.Decided, _: int) -> str:
        self._decided[decided.transaction_id] = decided
        return decided.transaction_id

    def _ended_(self, ended: record_pb2.Ended, at_ms: int) -> str:
        self._ended[ended.transaction_id] = (ended, at_ms)
        return ended.transaction_id

    def _key_opened(self, opened: record_pb2.KeyOpened, _: int) -> str:
        self._opened[opened.transaction_id] = opened
        return opened.transaction_id

    def _key_closed(self, closed: record_pb2.KeyClosed, _: int) -> str:
        self._opened.pop(closed.transaction_id, None)
        return closed.transaction_id

    def _participant_bound(self, bound: record_pb2.ParticipantBound, at_ms: int) -> str:
        participant = self.book.participant(bound.participant)
        if bound.forgotten:
            drop(self.book, participant, record_pb2.CoordinatorRecord(at_ms=at_ms, participant_bound=bound))
            return f"participant/{bound.participant}"
        participant.log_id, participant.incarnation, participant.nonce = bound.log_id, bound.incarnation, bound.nonce
        participant.awaited = bound.awaited_log_id
        participant.heard = bound.heard
        participant.before, participant.recalling = (bound.before_epoch, bound.before_order), bound.recalling
        participant.unlisted = (bound.unlisted_epoch, bound.unlisted_order, bound.unlisted_ended_ms)
        participant.bound = participant.identity if bound.log_id else None
        has_the_name(self.book, participant)
        return f"participant/{bound.participant}"

    def _heuristic_(self, report: record_pb2.Heuristic, _: int) -> str:
        reports = self._heuristic.setdefault(report.transaction_id, [])
        if report not in reports:
            reports.append(report)
        return report.transaction_id

    def _forgotten(self, forgotten: record_pb2.Forgotten, at_ms: int) -> str:
        name = forgotten.transaction_id
        reports = self._heuristic.pop(name, None)
        if reports is not None:
            self._dealt_with[name] = (self._fill(forgotten, at_ms, reports), [*self._dealt_with.get(name, (None, []))[1], *reports])
        return name

    def _fill(self, forgotten: record_pb2.Forgotten, at_ms: int, reports: list[record_pb2.Heuristic]) -> record_pb2.Forgotten:
        """Earlier versions left to other records what Forgotten says by itself now."""
        if forgotten.outcome:
            return forgotten
        decided = self._decided.get(forgotten.transaction_id)
        filled = record_pb2.Forgotten(
            first_attempt_ms=decided.first_attempt_ms if decided is not None else at_ms, over_at_ms=at_ms,
            participants=decided.participants if decided is not None else sorted({report.participant for report in reports}),
            claim=decided.claim if decided is not None and decided.HasField("claim") else None,
            owner=decided.owner if decided is not None else "",
            outcome=outcome_decided(reports),
        )  # fmt: skip
        filled.MergeFrom(forgotten)
        return filled

    def _review(self, review: record_pb2.Review, _: int) -> str:
        return waiting.replay(self.book, review)

    def _horizon(self, horizon: record_pb2.Horizon, at_ms: int) -> str:
        if horizon.clock_set:
            self.last_ms = at_ms
        self.book.dropped_through_ms = max(self.book.dropped_through_ms, horizon.dropped_through_ms)
        # Earlier software said of keys no more than of the others.
        keys_through_ms = horizon.keys_through_ms or horizon.dropped_through_ms
        self.book.keys_through_ms = max(self.book.keys_through_ms, keys_through_ms)
        self.book.dropped.replay(horizon)
        self._nameless_horizon |= not horizon.names_sessions
        if not horizon.names_branches and horizon.dropped_through_ms:
            self._branches_before_ms = max(self._branches_before_ms, at_ms)
        return "horizon"

    # ---- what it comes to

    def conclude(self, now: Instant) -> None:
        """All records are read: put together what they come to."""
        book = self.book
        book.now = now
        book.clock.start(self.last_ms, now, loose=is_new(self))
        book.clock_ms = book.clock.read(now)
        if self._nameless_horizon:
            book.dropped.count_all_before(book.epoch + 1)
        if self._branches_before_ms:
            book.dropped.count_branches_before(book.epoch + 1, self._branches_before_ms)
        self._judge_again()
        # In the order in which they ended, which is that of eviction; the cleaner writes old ones behind new ones.
        over_at = {name: at_ms for name, (_, at_ms) in self._ended.items()}
        over_at = {name: forgotten.over_at_ms for name, (forgotten, _) in self._dealt_with.items()} | over_at
        for name in sorted(over_at, key=lambda name: over_at[name]):
            if name in self._ended:
                self._conclude_ended(name, *self._ended[name])
            if name in self._dealt_with:
                self._conclude_dealt_with(*self._dealt_with[name])
        for name, decided in self._decided.items():
            if name not in over_at:
                self._conclude_decided(decided)
        for name, opened in self._opened.items():
            if name not in over_at:
                self._conclude_opened(opened)
        for name, reports in self._heuristic.items():
            done = self.book.finished.get(name)
            if name not in self.book.live and (done is None or done.outcome != heuristic_outcome(reports)):
                self._conclude_heuristic(name, reports)
            self._wait_for_who_was_given_up(name, reports)
        book.kept_bytes = bytes_kept(book)

    def _judge_again(self) -> None:
        """Earlier software took for ABORT what it could not know (`verdict`)."""
        self._heuristic = {name: judged_again(reports, its_own=self._is_own(name)) for name, reports in self._heuristic.items()}
        for name, (forgotten, read) in self._dealt_with.items():
            reports = judged_again(read, its_own=self._is_own(name))
            if reports != read and forgotten.outcome == common_pb2.OUTCOME_ABORTED:
                forgotten.outcome = outcome_decided(reports)
            self._dealt_with[name] = forgotten, reports

    def _is_own(self, name: str) -> bool:
        try:
            return self.book.began(TransactionId.parse(name))
        except RequestError:
            return True  # no id, and so nobody's: it stays what it is

    def _conclude_ended(self, name: str, ended: record_pb2.Ended, at_ms: int) -> None:
        decided = self._decided.get(name)
        opened = self._opened.get(name)
        claim = next((r.claim for r in (decided, opened, ended) if r is not None and r.HasField("claim")), None)
        first = decided.first_attempt_ms if decided is not None else ended.first_attempt_ms
        names, orders = _parts(decided, ended)
        owner = next((r.owner for r in (decided, ended) if r is not None and r.owner), claim.owner if claim is not None else "")
        retain(self.book, name, Finished(ended.outcome, first, at_ms, names, None, claim, None, True, None, orders, owner))
        if claim is not None and ended.outcome == common_pb2.OUTCOME_COMMITTED:
            self.book.keys[scoped(claim)] = KeyEntry(claim, name, None, at_ms)

    def _conclude_dealt_with(self, forgotten: record_pb2.Forgotten, reports: list[record_pb2.Heuristic]) -> None:
        retain_dealt_with(self.book, forgotten, reports)
        done = self.book.finished[forgotten.transaction_id]
        if done.claim is not None and done.outcome == common_pb2.OUTCOME_COMMITTED:
            self.book.keys[scoped(done.claim)] = KeyEntry(done.claim, forgotten.transaction_id, None, done.at_ms)

    def _revive(
        self, name: str, state: State, first_attempt_ms: int, claim: record_pb2.KeyClaim | None, owner: str = ""
    ) -> Transaction:  # fmt: skip
        book = self.book
        txn = Transaction(name, None, 0, state)
        txn.first_attempt_ms = first_attempt_ms
        txn.claim = claim
        txn.results_lost = True
        txn.began = txn.deadline = book.now.monotonic
        book.live[name] = txn
        if claim is not None:
            book.keys[scoped(claim)] = KeyEntry(claim, name, txn)
            txn.owner = claim.owner
        txn.owner = owner or txn.owner
        book.owned[txn.owner] += bool(txn.owner)
        return txn

    def _conclude_decided(self, decided: record_pb2.Decided) -> None:
        claim = decided.claim if decided.HasField("claim") else None
        txn = self._revive(decided.transaction_id, State.COMMITTING, decided.first_attempt_ms, claim, decided.owner)
        if decided.traceparent:
            txn.traceparent = decided.traceparent
            txn.trace = common_pb2.TraceContext(traceparent=txn.traceparent)
        reported = self._heuristic.get(txn.id, [])
        txn.heuristic = tuple(reported)
        over = {report.participant for report in reported}
        orders = _orders(decided)
        for index, name in enumerate(decided.participants):
            owed = index in decided.owing and name not in over
            step = BranchStep.COMMIT_OWED if owed else BranchStep.OVER
            branch = self.book.add_recovered_branch(txn, name, orders.get(index, 0), step)
            branch.changed = index in orders
            txn.missing += owed
            if not owed:
                self.book.end_branch(txn, branch, BranchStep.HEURISTIC if name in over else BranchStep.OVER)
        if txn.missing:
            arm(self.book, txn)
        else:
            txn.state = State.HEURISTIC

    def _conclude_opened(self, opened: record_pb2.KeyOpened) -> None:
        txn = self._revive(opened.transaction_id, State.SETTLING, opened.first_attempt_ms, opened.claim)
        branch = self.book.add_recovered_branch(txn, opened.participant, opened.order, BranchStep.SETTLE_OWED)
        txn.heuristic = tuple(self._heuristic.get(txn.id, ()))
        if txn.heuristic:
            txn.state = State.HEURISTIC
            self.book.end_branch(txn, branch, BranchStep.HEURISTIC)
        else:
            txn.missing = 1
            arm(self.book, txn)

    def _wait_for_who_was_given_up(self, name: str, reports: list[record_pb2.Heuristic]) -> None:
        for report in last_reports(reports):
            if is_given_up(report) and report.participant in self.book.participants:
                self.book.participants[report.participant].given_up.add(name)

    def _conclude_heuristic(self, name: str, reports: list[record_pb2.Heuristic]) -> None:
        txn = reopen(self.book, name, self.book.finished.get(name), State.HEURISTIC)
        for report in reports:
            participant = self.book.participant(report.participant)
            txn.branches.setdefault(report.participant, Branch(participant, 0, 0)).step = BranchStep.HEURISTIC
        earlier = forgotten_reports(self.book.finished.get(name))
        txn.heuristic = (*earlier, *(report for report in reports if report not in earlier))


def _parts(decided: record_pb2.Decided | None, ended: record_pb2.Ended) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Whose branches it had, and the order of each."""
    if decided is not None:
        orders = _orders(decided)
        return tuple(decided.participants), tuple(orders.get(index, 0) for index in range(len(decided.participants)))
    if not ended.participant and ended.claim.result:
        return (), ()  # it had none, and is written down for its result alone
    return (ended.participant,), (ended.order,)


def _orders(decided: record_pb2.Decided) -> dict[int, int]:
    """The order of each branch that has changed something, by the index of its participant."""
    orders = dict(zip(decided.acknowledged, decided.acknowledged_orders, strict=True))
    return orders | dict(zip(decided.owing, decided.orders, strict=True))


def is_new(replay: Replay) -> bool:
    """Whether the log is, so that nothing has a time in it yet."""
    return not replay.last_ms and not replay.book.lives


_READERS: dict[str, Callable[[Replay, Any, int], str]] = {
    "epoch_started": Replay._epoch_started,
    "loss": Replay._loss,
    "decided": Replay._decided_,
    "ended": Replay._ended_,
    "key_opened": Replay._key_opened,
    "key_closed": Replay._key_closed,
    "participant_bound": Replay._participant_bound,
    "heuristic": Replay._heuristic_,
    "forgotten": Replay._forgotten,
    "horizon": Replay._horizon,
    "review": Replay._review,
}


def recover(book: Book, records: Sequence[bytes], now: Instant) -> list[str]:
    """Rebuild the book; returns the owner of each record."""
    replay = Replay(book)
    owners = [replay.read(position, body) for position, body in enumerate(records, 1)]
    replay.conclude(now)
    return owners


# ---- what the log must still hold


def live_records(book: Book, owner: str) -> Sequence[Message]:
    """The records that say all that the log must still hold about an owner."""
    if owner == "epoch":
        return [book.record_of(epoch_started=epoch_record(book, life)) for life in book.lives]
    if owner == "horizon":
        horizon = book.dropped.record()
        horizon.dropped_through_ms, horizon.keys_through_ms = book.dropped_through_ms, book.keys_through_ms
        return [book.record_of(horizon=horizon)]
    kind, _, name = owner.partition("/")
    if kind == "participant":
        return _participant_records(book, name)
    if kind == waiting.KIND:
        return [book.record_of(review=book.reviews[name])] if name in book.reviews else []
    if kind == "loss":
        return [book.record_of(loss=book.losses[name])]
    txn = book.live.get(owner)
    if txn is not None and not (txn.late and not txn.heuristic):
        return _transaction_records(book, txn)
    # Over; or contradicted since, and until that is written down the log says what it said before.
    done = book.finished.get(owner)
    return _finished_records(owner, done) if done is not None and done.recorded else []


def epoch_record(book: Book, life: Life) -> record_pb2.EpochStarted:
    """The record that began a life. All are kept: abort is presumed only of what this very log began."""
    return record_pb2.EpochStarted(
        coordinator=book.coordinator, epoch=life.number, nonce=life.nonce, after=life.after,
        kept=life.number > book.lives.unrecorded_through,
    )  # fmt: skip


def _participant_records(book: Book, name: str) -> Sequence[Message]:
    participant = book.participants.get(name)
    records: list[Message] = [book.gone[name]] if name in book.gone else []
    if participant is not None:
        records.append(book.record_of(participant_bound=bound_record(participant)))
    return records


def bound_record(participant: Participant) -> record_pb2.ParticipantBound:
    """The record that binds a name."""
    log_id, incarnation, nonce = participant.identity
    return record_pb2.ParticipantBound(
        participant=participant.name, log_id=log_id, incarnation=incarnation, nonce=nonce, awaited_log_id=participant.awaited,
        heard=participant.heard, before_epoch=participant.before[0], before_order=participant.before[1],
        recalling=participant.recalling, unlisted_epoch=participant.unlisted[0], unlisted_order=participant.unlisted[1],
        unlisted_ended_ms=participant.unlisted[2],
    )  # fmt: skip


def _transaction_records(book: Book, txn: Transaction) -> Sequence[Message]:
    """DECIDING counts as decided: its own record is in the same batch, or in a later one, and nothing was said yet."""
    records: list[Message] = [book.record_of(heuristic=report) for report in txn.heuristic]
    if is_unchanged(txn):
        records.append(ended_record(book, txn))
    elif txn.state in (State.COMMITTING, State.DECIDING) or (txn.heuristic and txn.heuristic[0].commit_decided):
        records.insert(0, book.decided_record(txn))
    elif txn.claim is not None and _holds_opened_key(book, txn, scoped(txn.claim)):
        branches = txn.branches.values()
        branch = next((one for one in branches if one.step is BranchStep.HEURISTIC), next(iter(branches)))
        records.insert(0, key_opened(book, txn, branch))
    return records


def _holds_opened_key(book: Book, txn: Transaction, key: str) -> bool:
    """Whether a keyed one-phase commit holds its key: until it is settled, and while people look at how it ended."""
    entry = book.keys.get(key)
    return entry is not None and entry.live is txn and txn.state in (State.HANDED_OVER, State.SETTLING, State.HEURISTIC)


def _finished_records(name: str, done: Finished) -> Sequence[Message]:
    """Ended names one participant; of several, Decided tells: who was not among them cannot contradict it later. Forgotten tells
    all by itself, but for how it ended."""
    if done.dealt_with is not None:
        last = record_pb2.CoordinatorRecord(at_ms=done.at_ms, forgotten=done.dealt_with.forgotten)
        return [*(record_pb2.CoordinatorRecord(at_ms=done.at_ms, heuristic=one) for one in done.dealt_with.reports), last]
    if len(done.participants) < 2 or done.outcome != common_pb2.OUTCOME_COMMITTED:
        return [_ended_record(name, done)]
    orders = {index: order for index, order in enumerate(done.orders) if order}
    decided = record_pb2.Decided(
        transaction_id=name, participants=done.participants, claim=done.claim, first_attempt_ms=done.first_attempt_ms,
        acknowledged=orders, acknowledged_orders=orders.values(), owner=done.owner,
    )  # fmt: skip
    return [record_pb2.CoordinatorRecord(at_ms=done.at_ms, decided=decided), _ended_record(name, done)]


def _ended_record(name: str, done: Finished) -> Message:
    only = done.participants[0] if len(done.participants) == 1 else ""
    ended = record_pb2.Ended(
        transaction_id=name, outcome=done.outcome, claim=done.claim, first_attempt_ms=done.first_attempt_ms,
        participant=only, order=done.orders[0] if only and done.orders else 0, owner=done.owner,
    )  # fmt: skip
    return record_pb2.CoordinatorRecord(at_ms=done.at_ms, ended=ended)
