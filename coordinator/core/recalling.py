"""Which commits a log does not have that took a participant's name over.

When an operator lets a log have a name (`troth participants replace`) that was put back from an older copy, or is another one, what
the participant has committed since may be gone. Nobody finds that out by himself: the coordinator was acknowledged long ago, and
the log does not know what it does not know. So it is *asked* about every commit that the coordinator retains and that the log
before was to have, by rollback-if-unseen, with the order of its branch:

    COMMITTED       it has it
    EXPIRED         it had it before the copy was made, and has forgotten it since: its watermark is of the copy
    PREPARED        it is in doubt, and is told COMMIT once more; then it is asked again
    ROLLED_BACK     it does not have it, and never will: a heuristic end, recorded and listed by its id until an operator forgets it

What the answers rest on is the participant's own watermark, and so it is told none until all is asked. That it is being asked is in
the log, in the record that binds the name: a restart of either side begins to ask anew, and what is recorded is passed over.

Not everything is known here. A commit that the retention has dropped cannot be named. A branch of the log before that comes back
*in doubt*, and may be one of those, is told nothing from absence (`arrivals.presume`); and of such a branch a rollback proves
nothing to others (`proving`).
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.book import COMMIT, Book
from coordinator.core.model import BranchStep, Finished, Participant, State, last_reports
from coordinator.core.phase_two import append_heuristic, commit_was_decided, late_heuristic
from coordinator.core.recovery import bound_record
from troth.ids import TransactionId
from troth.v1 import common_pb2, participant_pb2, record_pb2

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
        if branch is None or branch.step is not BranchStep.OVER or not (branch.changed and commit_was_decided(book, txn)):
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
        participant.recalling = False
        record = book.record_of(participant_bound=bound_record(participant))
        book.append(f"participant/{participant.name}", record, force=False, patient=True)


def answered(book: Book, participant: Participant, what: participant_pb2.Settlement) -> None:
    """It says what it has of a commit."""
    order = participant.recalled[what.transaction_id]
    if what.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        book.send_decision(participant, what.transaction_id, order, COMMIT)
        return
    if what.kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK:
        _lacks(book, participant, what.transaction_id)
    heard(book, participant, what.transaction_id)


def heard(book: Book, participant: Participant, transaction_id: str) -> None:
    """It has said how a branch ended, whether by this answer or by another."""
    if participant.recalled.pop(transaction_id, None) is not None and not participant.recalled:
        go_on(book, participant)


def _lacks(book: Book, participant: Participant, transaction_id: str) -> None:
    """Record that a commit is not there; nobody has to answer for it, but everybody is told."""
    txn, done = book.live.get(transaction_id), book.finished.get(transaction_id)
    report = record_pb2.Heuristic(
        transaction_id=transaction_id, participant=participant.name, branch_outcome=common_pb2.OUTCOME_ABORTED, why=WHY,
        commit_decided=True, lacking=True,
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
