"""What only the log could tell that had a participant's name before the present one.

Who is handed a commit decides it, and nobody else has a record of that: whether it was done stands in that participant's log alone,
until its answer is in the coordinator's. So its silence is an answer ("it is not here, and never will be": rolled back) only while
the log that is asked is the log that was to decide. An operator who lets another log, or an older copy, have the name
(`troth participants replace`) promises that the log before does not come back; he does not say what stood in it. Of what the log
before may have decided alone the present one has nothing, whether that was committed or not. Were that taken for ABORTED, a client
who was told COMMITTED (its record here need not have been durable) would be told the opposite, and the key would be free: the
retry does it again, beside what was done. (`tla/Keyed.tla` does so in its `Replace`.)

So of a branch *of the log before* (`Participant.was_before`: by its epoch and order; of one whose order is not known, by its epoch)
only one answer says something: COMMITTED. That is true, whoever says it. All others say nothing. It is not the answer but the
branch that tells them apart: what began since is the present log's alone, and is settled as ever.

    asked                      it answers COMMITTED   anything else, or ends it by hand
    ------------------------   --------------------   -------------------------------------------------------------------
    handed over, in this       COMMITTED              HAZARD: recorded, told, and kept until an operator has looked and
    life, or by an open key                           forgets it; its key is held until then, and is free from then on
    by a question alone        COMMITTED              IN_DOUBT when all have answered; nothing is recorded, since whoever
                                                      may ask could fill the log with what never was
    one behind the retention   COMMITTED              EXPIRED

HAZARD is what becomes of a *decided* commit that the log before owed, too: people compare, repair, and forget. Here the decision is
unknown as well (`verdict`), so nobody is told anything by what is recorded, and nothing contradicts it. What was heard before the
name was given away stays as it was heard: a branch that had answered keeps its answer, and what was recorded is not judged again.

Nothing is handed over to a log that did not do the work, though it has had as many starts (`one_phase.open_or_hand_over`): so what
was handed over, and is of the log before, was handed over to that one. Nor is a commit decided that such a log has voted for
(`deciding`): while nothing is decided, it is ours to abort, and that is no HAZARD.

A question alone is about an earlier life of the coordinator, or about what was never handed over: in this life all that was is open
or retained, and so its branch has a fresh order and is settled as ever.

A branch *in doubt* that an older copy brings back is told ABORT, for a decision of several would be in the log
(`arrivals.presume`). But one that was prepared early may have been handed over after that. Unless this life knows that it was not,
it is told nothing, and is listed. How people end it then is recorded, against an unknown decision (`late`), and is no MIXED. So is
whoever the retention may have dropped a commit of (`recalling`).
"""

from __future__ import annotations

from coordinator.core.book import Book, cause_of
from coordinator.core.finishing import finish, is_expired
from coordinator.core.model import BranchStep, Participant, State, Transaction
from coordinator.core.phase_two import append_heuristic
from coordinator.core.steps import only
from coordinator.core.verdict import HAZARD, heuristic
from coordinator.core.words import listed
from troth.errors import Reason
from troth.ids import TransactionId

NOT_KNOWN = "another one has the name since"
WHY = "another log took its name over, by an operator's order, and the one that was to decide alone cannot be asked any more"


def conclude(book: Book, txn: Transaction) -> bool:
    """All have answered, none COMMITTED: end it where somebody could not tell. False when everybody could."""
    gone = [branch for branch in txn.branches.values() if branch.step is BranchStep.GONE]
    if not gone:
        return False
    names = [branch.participant.name for branch in gone]
    if is_expired(book, txn.first_attempt_ms):
        message = f"the log that {listed(names)} had when it began is gone, and it is older than what is kept"
        txn.cause = cause_of(Reason.EXPIRED, message, participant=only(names))
        book.end_branches(txn)
        finish(book, txn, State.EXPIRED)
    elif txn.id in book.asking:
        message = f"only the log that {listed(names)} had when it began could tell, and {NOT_KNOWN}"
        txn.cause = cause_of(Reason.IN_DOUBT, message, participant=only(names), hint="Ask whoever runs it to compare its data.")
        book.timers.cancel(txn.id)
        book.end_branches(txn)
        book.answer_all(txn)
        book.close(txn)
    else:
        for branch in gone:
            report = heuristic(
                None, transaction_id=txn.id, participant=branch.participant.name, branch_outcome=HAZARD, why=WHY
            )  # fmt: skip
            append_heuristic(book, txn, branch, report)
    return True


def may_be_handed_over(book: Book, participant: Participant, parsed: TransactionId, order: int) -> bool:
    """Whether a branch that was prepared early may have been handed over to the log before, and nobody here would know of it. In
    this life it would be open, or retained."""
    name = str(parsed)
    told_here = parsed.epoch == book.epoch and name not in book.live and name not in book.finished
    return participant.was_before(parsed.epoch, order) and not told_here
