"""Which commits a log does not have that took a participant's name over.

When an operator lets a log have a name (`troth participants replace`) that was put back from an older copy, or is another one, what
the participant has committed since may be gone. Nobody finds that out by himself: the coordinator was acknowledged long ago, and
the log does not know what it does not know. So it is *asked* about every commit that the coordinator retains and that the log
before was to have, by rollback-if-unseen, with the order of its branch:

    COMMITTED       it has it
    EXPIRED         it had it before the copy was made, and has forgotten it since: its watermark is of the copy
    PREPARED        it is in doubt, and is told COMMIT once more; then it is asked again
    ROLLED_BACK     it does not have it, and never will: a heuristic end, recorded and listed by its id until an operator forgets it

What the answers rest on is the participant's own watermark, and so it is told none until all is asked, and the log says so. That it
is being asked is in the log, in the record that binds the name: a restart of either side begins to ask anew, and what is recorded
is passed over.

Not everything is known here. A commit that the retention has dropped cannot be named. But how far commits of this participant were
dropped is known (`Dropped.behind`), and EXPIRED, of a branch behind all of those, shows that the log has them: a watermark covers
what is below. When nothing shows it, people are told until when commits ended that it may lack (`unlisted`), until somebody has
compared, and accepts it (`troth participants accept-loss NAME`). A branch of the log before that comes back *in doubt*, and may be
one of those, is told nothing from absence (`arrivals.presume`); and a rollback of such a branch proves nothing to others.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.book import COMMIT, Book, cause_of
from coordinator.core.dropped import Behind
from coordinator.core.events import Durable
from coordinator.core.model import BranchStep, Finished, Participant, State
from coordinator.core.phase_two import append_heuristic, decision, late_heuristic
from coordinator.core.recovery import bound_record
from coordinator.core.verdict import heuristic, last_reports
from troth.errors import Reason
from troth.ids import TransactionId
from troth.v1 import admin_pb2, common_pb2, participant_pb2

BATCH = 100
"""Questions that one participant has not answered yet, at most."""
COMMITTED = common_pb2.OUTCOME_COMMITTED
WHY = "its log took the name over, by an operator's order, and does not have this commit"


def begin(book: Book, participant: Participant) -> None:
    """Its Hello is complete: ask, if there is something to ask."""
    if participant.recalling:
        participant.to_recall.extend(_commits_before(book, participant))
        go_on(book, participant)


def _commits_before(book: Book, participant: Participant) -> Iterator[tuple[str, int]]:
    """The commits of the log before, with the order of its branch in each."""
    name = participant.name
    for transaction_id, done in book.finished.items():
        if done.outcome != COMMITTED or name not in done.participants or transaction_id in book.live:
            continue
        order = done.orders[done.participants.index(name)] if done.orders else 0
        if order and not _was_told(done, name) and participant.was_before(_epoch(transaction_id), order):
            yield transaction_id, order
    for txn in book.live.values():
        branch = txn.branches.get(name)
        if branch is None or branch.step is not BranchStep.OVER or not (branch.changed and decision(book, txn)):
            continue
        if participant.was_before(_epoch(txn.id), branch.order) and not _was_told(book.finished.get(txn.id), name):
            yield txn.id, branch.order


def _was_told(done: Finished | None, name: str) -> bool:
    """Whether an operator has been told of its branch already, and has forgotten that."""
    reports = done.dealt_with.reports if done is not None and done.dealt_with is not None else ()
    return any(report.participant == name for report in reports)


def _epoch(transaction_id: str) -> int:
    return TransactionId.parse(transaction_id).epoch


def go_on(book: Book, participant: Participant) -> None:
    """Ask again what was not answered, and ask on while there is room to record the answers. When there is nothing more to ask, it
    is a participant like any other."""
    if not participant.recalled:
        room = min(BATCH, book.settings.late_heuristics_max - book.late_heuristics)
        while participant.to_recall and len(participant.recalled) < room:
            transaction_id, order = participant.to_recall.popleft()
            if transaction_id in book.finished or transaction_id in book.live:  # otherwise the retention has passed
                participant.recalled[transaction_id] = order
    for transaction_id, order in participant.recalled.items():
        question = participant_pb2.RollbackIfUnseen(transaction_id=transaction_id, order=order)
        book.counters.settlements += book.send(participant, "settles", question)
    if not participant.recalled and not participant.to_recall:
        participant.unlisted, participant.recalling = unlisted(book, participant), False
        participant.recall_unsaid = True
        record = book.record_of(participant_bound=bound_record(participant))
        event = Durable("recalled", participant.name)
        book.append(f"participant/{participant.name}", record, force=False, event=event, patient=True)


def ended(book: Book, name: str) -> None:
    """That it has been asked is durable: a restart asks it no more, so it may be told what to forget."""
    if name in book.participants:
        book.participants[name].recall_unsaid = False


def unlisted(book: Book, participant: Participant) -> Behind:
    """How far commits of the log before were dropped that this one may lack; zeros for none."""
    if not participant.recalling:
        return participant.unlisted
    epoch, order, ended_ms = book.dropped.behind(participant.name)
    behind = min((epoch, order), participant.before)
    return (*behind, ended_ms) if behind > participant.forgotten_below else (0, 0, 0)


def accept(book: Book, participant: Participant | None, request: admin_pb2.AcceptLossRequest) -> common_pb2.Cause | None:
    """Somebody has compared by other means what a participant may lack: tell of it no more."""
    if participant is None:
        return cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    if participant.recalling:
        message = f"{participant.name} is still asked which commits its log has"
        return cause_of(Reason.PARTICIPANT_AWAY, message, hint="Accept it when it has answered; it has to be connected for that.")
    if not participant.unlisted[0]:
        message = f"nothing is known that {participant.name} may lack and cannot be listed"
        return cause_of(Reason.NOT_ACTIVE, message, hint="There is nothing to accept.")
    participant.unlisted = (0, 0, 0)
    record = bound_record(participant)
    record.who, record.why = request.who, request.why
    book.append(f"participant/{participant.name}", book.record_of(participant_bound=record), force=True)
    return None


def answered(book: Book, participant: Participant, what: participant_pb2.Settlement) -> None:
    """It says what it has of a commit."""
    order = participant.recalled[what.transaction_id]
    if what.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        book.send_decision(participant, what.transaction_id, order, COMMIT)
        return
    if what.kind == participant_pb2.SETTLEMENT_KIND_EXPIRED:
        participant.forgotten_below = max(participant.forgotten_below, (_epoch(what.transaction_id), order + 1))
    elif what.kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK:
        _lacks(book, participant, what.transaction_id)
    heard(book, participant, what.transaction_id)


def heard(book: Book, participant: Participant, transaction_id: str) -> None:
    """It has said how a branch ended, whether by this answer or by another."""
    if participant.recalled.pop(transaction_id, None) is not None and not participant.recalled:
        go_on(book, participant)


def _lacks(book: Book, participant: Participant, transaction_id: str) -> None:
    """Record that a commit is not there; nobody has to answer for it, but everybody is told."""
    txn, done = book.live.get(transaction_id), book.finished.get(transaction_id)
    report = heuristic(
        True, transaction_id=transaction_id, participant=participant.name, branch_outcome=common_pb2.OUTCOME_ABORTED, why=WHY,
        lacking=True,
    )  # fmt: skip
    if txn is not None:
        txn.missing += txn.state is State.COMMITTING  # it was counted when it had acknowledged
        append_heuristic(book, txn, txn.branches[participant.name], report)
    elif done is not None:
        late_heuristic(book, participant, transaction_id, done, report)


def lacking(book: Book) -> dict[str, list[str]]:
    """The commits that participants' logs do not have, by participant, until an operator forgets them."""
    found: dict[str, list[str]] = {}
    for txn in book.live.values():
        for report in last_reports(txn.heuristic):
            if report.lacking:
                found.setdefault(report.participant, []).append(txn.id)
    return found
