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

from coordinator.core.book import Book
from coordinator.core.finishing import reopen, retain
from coordinator.core.model import Branch, BranchStep, Finished, KeyEntry, State, Transaction, heuristic_outcome
from coordinator.core.steps import arm
from troth.errors import LogDamaged, LogForeign, Reason
from troth.ready import Instant
from troth.v1 import common_pb2, record_pb2


class Replay:
    """Rebuilds a book from records, oldest first."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.last_ms = 0
        self._decided: dict[str, record_pb2.Decided] = {}
        self._opened: dict[str, record_pb2.KeyOpened] = {}
        self._heuristic: dict[str, list[record_pb2.Heuristic]] = {}
        self._ended: dict[str, tuple[record_pb2.Ended, int]] = {}

    def read(self, position: int, body: bytes) -> str:
        """Take one record; returns its owner."""
        try:
            record = record_pb2.CoordinatorRecord.FromString(body)
        except DecodeError as error:
            raise LogDamaged(Reason.LOG_DAMAGED, f"record {position} of the log does not decode") from error
        self.last_ms = max(self.last_ms, record.at_ms)
        kind = record.WhichOneof("kind")
        if kind is None:
            raise LogForeign(Reason.LOG_TOO_NEW, f"record {position} is of a kind that this version does not know")
        return _READERS[kind](self, getattr(record, kind), record.at_ms)

    def _epoch_started(self, started: record_pb2.EpochStarted, _: int) -> str:
        if started.coordinator != self.book.coordinator:
            raise LogForeign(Reason.LOG_FOREIGN, f"the log belongs to the coordinator {started.coordinator!r}")
        self.book.epoch = max(self.book.epoch, started.epoch)
        return "epoch"

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

    def _participant_bound(self, bound: record_pb2.ParticipantBound, _: int) -> str:
        participant = self.book.participant(bound.participant)
        participant.log_id, participant.incarnation = bound.log_id, bound.incarnation
        return f"participant/{bound.participant}"

    def _heuristic_(self, report: record_pb2.Heuristic, _: int) -> str:
        reports = self._heuristic.setdefault(report.transaction_id, [])
        if report not in reports:
            reports.append(report)
        return report.transaction_id

    def _forgotten(self, forgotten: record_pb2.Forgotten, at_ms: int) -> str:
        name = forgotten.transaction_id
        decided = self._decided.pop(name, None)
        self._opened.pop(name, None)
        if self._heuristic.pop(name, None) is not None and decided is not None:
            self._decided[name] = decided
            ended = record_pb2.Ended(transaction_id=name, outcome=common_pb2.OUTCOME_COMMITTED)
            self._ended.setdefault(name, (ended, at_ms))
        return name

    def _horizon(self, horizon: record_pb2.Horizon, _: int) -> str:
        self.book.dropped_through_ms = max(self.book.dropped_through_ms, horizon.dropped_through_ms)
        return "horizon"

    # ---- what it comes to

    def conclude(self, now: Instant) -> None:
        """All records are read: put together what they come to."""
        book = self.book
        book.now = now
        book.clock.start(self.last_ms, now)
        book.clock_ms = book.clock.read(now)
        # In the order in which they ended, which is that of eviction; the cleaner writes old ones behind new ones.
        for name, (ended, at_ms) in sorted(self._ended.items(), key=lambda item: item[1][1]):
            self._conclude_ended(name, ended, at_ms)
        for name, decided in self._decided.items():
            if name not in self._ended:
                self._conclude_decided(decided)
        for name, opened in self._opened.items():
            if name not in self._ended:
                self._conclude_opened(opened)
        for name, reports in self._heuristic.items():
            done = self.book.finished.get(name)
            if name not in self.book.live and (done is None or done.outcome != heuristic_outcome(reports)):
                self._conclude_heuristic(name, reports)

    def _conclude_ended(self, name: str, ended: record_pb2.Ended, at_ms: int) -> None:
        decided = self._decided.get(name)
        opened = self._opened.get(name)
        claim = next((r.claim for r in (decided, opened, ended) if r is not None and r.HasField("claim")), None)
        first = decided.first_attempt_ms if decided is not None else ended.first_attempt_ms
        names = tuple(decided.participants) if decided is not None else (ended.participant,)
        retain(self.book, name, Finished(ended.outcome, first, at_ms, names, None, claim, None, recorded=True))
        if claim is not None and ended.outcome == common_pb2.OUTCOME_COMMITTED:
            self.book.keys[claim.key] = KeyEntry(claim, name, None, at_ms)

    def _revive(self, name: str, state: State, first_attempt_ms: int, claim: record_pb2.KeyClaim | None) -> Transaction:
        book = self.book
        txn = Transaction(name, None, 0, state)
        txn.first_attempt_ms = first_attempt_ms
        txn.claim = claim
        txn.results_lost = True
        txn.began = txn.deadline = book.now.monotonic
        book.live[name] = txn
        if claim is not None:
            book.keys[claim.key] = KeyEntry(claim, name, txn)
        return txn

    def _conclude_decided(self, decided: record_pb2.Decided) -> None:
        claim = decided.claim if decided.HasField("claim") else None
        txn = self._revive(decided.transaction_id, State.COMMITTING, decided.first_attempt_ms, claim)
        reported = self._heuristic.get(txn.id, [])
        txn.heuristic = tuple(reported)
        over = {report.participant for report in reported}
        owing = dict(zip(decided.owing, decided.orders, strict=True))
        for index, name in enumerate(decided.participants):
            owed = index in owing and name not in over
            step = BranchStep.COMMIT_OWED if owed else BranchStep.OVER
            branch = self.book.add_recovered_branch(txn, name, owing.get(index, 0), step)
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

    def _conclude_heuristic(self, name: str, reports: list[record_pb2.Heuristic]) -> None:
        txn = reopen(self.book, name, self.book.finished.get(name), State.HEURISTIC)
        for report in reports:
            participant = self.book.participant(report.participant)
            txn.branches.setdefault(report.participant, Branch(participant, 0, 0)).step = BranchStep.HEURISTIC
        txn.heuristic = tuple(reports)


_READERS: dict[str, Callable[[Replay, Any, int], str]] = {
    "epoch_started": Replay._epoch_started,
    "decided": Replay._decided_,
    "ended": Replay._ended_,
    "key_opened": Replay._key_opened,
    "key_closed": Replay._key_closed,
    "participant_bound": Replay._participant_bound,
    "heuristic": Replay._heuristic_,
    "forgotten": Replay._forgotten,
    "horizon": Replay._horizon,
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
        return [book.record_of(epoch_started=epoch_record(book))]
    if owner == "horizon":
        return [book.record_of(horizon=record_pb2.Horizon(dropped_through_ms=book.dropped_through_ms))]
    kind, _, name = owner.partition("/")
    if kind == "participant":
        return _participant_records(book, name)
    txn = book.live.get(owner)
    if txn is not None and not (txn.late and not txn.heuristic):
        return _transaction_records(book, txn)
    # Over; or contradicted since, and until that is written down the log says what it said before.
    done = book.finished.get(owner)
    return _finished_records(owner, done) if done is not None and done.recorded else []


def epoch_record(book: Book) -> record_pb2.EpochStarted:
    """The record that begins the present epoch."""
    return record_pb2.EpochStarted(coordinator=book.coordinator, epoch=book.epoch, nonce=book.nonce)


def _participant_records(book: Book, name: str) -> Sequence[Message]:
    participant = book.participants[name]
    bound = record_pb2.ParticipantBound(participant=name, log_id=participant.log_id, incarnation=participant.incarnation)
    return [book.record_of(participant_bound=bound)]


def _transaction_records(book: Book, txn: Transaction) -> Sequence[Message]:
    """DECIDING counts as decided: its own record is in the same batch, or in a later one, and nothing was said yet."""
    records: list[Message] = [book.record_of(heuristic=report) for report in txn.heuristic]
    if txn.state in (State.COMMITTING, State.DECIDING) or (txn.heuristic and txn.heuristic[0].commit_decided):
        records.insert(0, book.decided_record(txn))
    elif txn.claim is not None and _holds_opened_key(book, txn, txn.claim.key):
        (branch,) = txn.branches.values()
        opened = record_pb2.KeyOpened(
            transaction_id=txn.id, claim=txn.claim, participant=branch.participant.name, order=branch.order,
            first_attempt_ms=txn.first_attempt_ms,
        )  # fmt: skip
        records.insert(0, book.record_of(key_opened=opened))
    return records


def _holds_opened_key(book: Book, txn: Transaction, key: str) -> bool:
    """Whether a keyed one-phase commit holds its key: until it is settled, and while people look at how it ended."""
    entry = book.keys.get(key)
    return entry is not None and entry.live is txn and txn.state in (State.HANDED_OVER, State.SETTLING, State.HEURISTIC)


def _finished_records(name: str, done: Finished) -> Sequence[Message]:
    """Ended names one participant; of several, Decided tells: who was not among them cannot contradict it later."""
    if len(done.participants) < 2 or done.outcome != common_pb2.OUTCOME_COMMITTED:
        return [_ended_record(name, done)]
    decided = record_pb2.Decided(
        transaction_id=name, participants=done.participants, claim=done.claim, first_attempt_ms=done.first_attempt_ms
    )
    return [record_pb2.CoordinatorRecord(at_ms=done.at_ms, decided=decided), _ended_record(name, done)]


def _ended_record(name: str, done: Finished) -> Message:
    only = done.participants[0] if len(done.participants) == 1 else ""
    ended = record_pb2.Ended(
        transaction_id=name, outcome=done.outcome, claim=done.claim, first_attempt_ms=done.first_attempt_ms,
        participant=only,
    )  # fmt: skip
    return record_pb2.CoordinatorRecord(at_ms=done.at_ms, ended=ended)
