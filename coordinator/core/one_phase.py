"""One participant: the decision is handed over, and settled when its answer is lost."""

from __future__ import annotations

from typing import Any

from coordinator.core import replaced
from coordinator.core.book import ABORT, Book, cause_of
from coordinator.core.events import Durable
from coordinator.core.finishing import finish, is_expired, tell_joiners
from coordinator.core.kept import finish_unchanged
from coordinator.core.model import Branch, BranchStep, Participant, State, Transaction
from coordinator.core.phase_two import ENDS, acknowledged_too_late, report_heuristic
from coordinator.core.steps import (
    Returned,
    abort,
    arm,
    away,
    branch_of,
    broke_protocol,
    hasten,
    is_of_log_before,
    keep_results,
    key_opened,
    no_cause,
    only,
    vote_name,
)
from troth.errors import Reason
from troth.ids import TransactionId
from troth.v1 import common_pb2, participant_pb2

SETTLE_SECONDS_MAX = 60.0
"""How long a question of a client is asked on when nobody waits for the answer any more."""


def open_or_hand_over(book: Book, txn: Transaction) -> None:
    """Give the decision to the only participant; with a key, make its record durable first."""
    (branch,) = txn.branches.values()
    if not _has_it(txn, branch):
        # Nothing has been handed over, so this is still ours to decide.
        away(book, txn, branch.participant)
    elif txn.claim is None:
        hand_over(book, txn)
    else:
        book.set_state(txn, State.OPENING)
        book.append(txn.id, key_opened(book, txn, branch), force=True, event=Durable("opened", txn.id))


def _has_it(txn: Transaction, branch: Branch) -> bool:
    """Whether the process is there that did the work. Another log may have had as many starts: it is told by the branch. So what
    was handed over, and is of the log before, was handed over to that one (`replaced`)."""
    participant = branch.participant
    return participant.ready and branch.incarnation == participant.incarnation and not is_of_log_before(txn, branch)


def hand_over(book: Book, txn: Transaction, _: Any = None) -> None:
    """One-phase commit: from here the decision is the participant's."""
    (branch,) = txn.branches.values()
    branch.step = BranchStep.VOTE_OWED
    txn.missing = 1
    book.set_state(txn, State.HANDED_OVER)
    book.send_prepare(txn, branch, one_phase=True)
    book.timers.set(txn.id, txn.deadline)


def opened(book: Book, txn: Transaction, _: Any) -> None:
    """The key's record is durable: hand over, or abort if the participant is gone."""
    (branch,) = txn.branches.values()
    if _has_it(txn, branch):
        hand_over(book, txn)
    else:
        away(book, txn, branch.participant)


def one_phase_vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    """COMMITTED or READ_ONLY: it is committed. NO: it is aborted. Anything else breaks the protocol: settle it."""
    participant, vote = argument
    branch = branch_of(txn, participant)
    if vote.kind != participant_pb2.VOTE_KIND_COMMITTED and is_of_log_before(txn, branch):
        settle(book, txn)  # it votes on what was handed to another log
        return
    branch.voted_at = book.now.monotonic
    if vote.kind == participant_pb2.VOTE_KIND_NO:
        book.end_branch(txn, branch)
        abort(book, txn, no_cause(participant, vote))
    elif vote.kind in (participant_pb2.VOTE_KIND_COMMITTED, participant_pb2.VOTE_KIND_READ_ONLY):
        branch.changed = vote.kind == participant_pb2.VOTE_KIND_COMMITTED
        keep_results(book, txn, branch, vote.results)
        if branch.changed:
            finish(book, txn, State.COMMITTED)
        else:
            finish_unchanged(book, txn)
    else:
        # Whatever it did, it is asked about when it is back: a YES is rolled back then, and nothing is told before it is known.
        rule = f"{participant.name} voted {vote_name(vote)} on {txn.id}: a one-phase commit is answered by its outcome"
        broke_protocol(book, participant, rule)
        settle(book, txn)


def settle(book: Book, txn: Transaction) -> None:
    """Ask every branch what became of it."""
    txn.missing = len(txn.branches)
    book.drop_arguments(txn)
    book.set_state(txn, State.SETTLING)
    for branch in txn.branches.values():
        branch.step = BranchStep.SETTLE_OWED
        book.send_settle(txn, branch)
    arm(book, txn)
    answer_in_time(book, txn, txn.began)


def answer_in_time(book: Book, txn: Transaction, asked: float) -> None:
    """Let the timer fire when whoever asked then is to be told that it is in doubt, unless the next repeat comes first."""
    # Without a timer nothing is asked: a contradiction is being written down, and its record answers.
    hasten(book, txn, max(txn.deadline, asked + book.settings.settle_answer_seconds))


def settled(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Settlement]) -> None:
    """COMMITTED: it is committed. ROLLED_BACK: aborted, when all say so. PREPARED: send ABORT. EXPIRED: nobody can tell.

    Whose name another log had when it began can tell nothing but COMMITTED (`replaced`).
    """
    participant, message = argument
    branch = branch_of(txn, participant)
    if branch.step is not BranchStep.SETTLE_OWED:
        return  # a repeat
    if message.kind == participant_pb2.SETTLEMENT_KIND_COMMITTED:
        branch.changed = True
        keep_results(book, txn, branch, message.results)
        finish(book, txn, State.COMMITTED)
    elif message.kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK or is_of_log_before(txn, branch):
        _settled_back(book, txn, branch)
    elif message.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        _presume(book, txn, branch)
    elif is_expired(book, txn.first_attempt_ms):
        book.end_branches(txn)
        txn.cause = cause_of(Reason.EXPIRED, f"{participant.name} has forgotten {txn.id}", participant=participant.name)
        finish(book, txn, State.EXPIRED)
    else:
        # The participant has forgotten the branch, or never had it. It forgets a commit only when our log knows of it, and the log
        # has dropped no commit that could be this one (nobody is asked about those): so it did not commit, and below the watermark
        # it never will.
        _settled_back(book, txn, branch)


def _presume(book: Book, txn: Transaction, branch: Branch) -> None:
    """A prepared participant asks, so to speak: nobody decided COMMIT, and nobody but us could (presumed abort). Of what the log
    may have lost nothing is presumed: it is asked again, until that is known."""
    if book.may_presume(TransactionId.parse(txn.id)):
        book.send_decision(branch.participant, txn.id, branch.order, ABORT, acknowledge=True)


def _settled_back(book: Book, txn: Transaction, branch: Branch) -> None:
    """It has no commit of it: rolled back, unless it would not know (`replaced`)."""
    book.end_branch(txn, branch, BranchStep.GONE if is_of_log_before(txn, branch) else BranchStep.OVER)
    txn.missing -= 1
    if txn.missing == 0 and not replaced.conclude(book, txn):
        message = f"transaction {txn.id} was not finished and is now rolled back"
        abort(book, txn, cause_of(Reason.COORDINATOR_RESTARTED, message))


def settling_vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    """A vote that was under way when it came to settling. READ_ONLY says nothing of the others: the settlement tells."""
    participant, vote = argument
    branch = branch_of(txn, participant)
    if branch.step is not BranchStep.SETTLE_OWED:
        return
    if vote.kind == participant_pb2.VOTE_KIND_COMMITTED:
        branch.changed = True
        keep_results(book, txn, branch, vote.results)
        finish(book, txn, State.COMMITTED)
    elif vote.kind == participant_pb2.VOTE_KIND_YES and not is_of_log_before(txn, branch):
        _presume(book, txn, branch)
    elif vote.kind == participant_pb2.VOTE_KIND_NO:
        _settled_back(book, txn, branch)


def settling_acknowledged(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Acknowledgement]) -> None:
    """An ABORT of the settlement is carried out; or a Heuristic record is forced. (While one is, another branch may be heard.)"""
    participant, message = argument
    if txn.late:
        acknowledged_too_late(book, txn, argument)
        return
    branch = branch_of(txn, participant)
    if branch.step is not BranchStep.SETTLE_OWED:
        return
    if ENDS[message.kind] == common_pb2.OUTCOME_ABORTED:
        _settled_back(book, txn, branch)
    else:
        report_heuristic(book, txn, branch, message)


def handed_over_timer(book: Book, txn: Transaction, _: Any) -> None:
    """The deadline: no timer may decide, but the participant can be asked, and the client told that it is in doubt."""
    settle(book, txn)
    _answer_in_doubt(book, txn)


def settling_timer(book: Book, txn: Transaction, _: Any) -> None:
    """Answer those who wait IN_DOUBT when it takes long; ask again."""
    _answer_in_doubt(book, txn)
    asked_for = book.now.monotonic - txn.began
    written = any(branch.step is BranchStep.HEURISTIC for branch in txn.branches.values())  # a record is on its way: it ends it
    if txn.session is None and txn.claim is None and not (txn.tickets or written) and asked_for > SETTLE_SECONDS_MAX:
        # Nothing hangs on it: whoever asks again starts it again, and a late answer finds no transaction.
        book.end_branches(txn)
        book.close(txn)
        return
    for branch in txn.branches.values():
        if branch.step is BranchStep.SETTLE_OWED:
            book.send_settle(txn, branch)
    arm(book, txn)
    answer_in_time(book, txn, txn.began)
    hasten(book, txn, tell_joiners(book, txn))


def _answer_in_doubt(book: Book, txn: Transaction) -> None:
    waited = book.now.monotonic - txn.began >= book.settings.settle_answer_seconds
    if txn.deadline <= book.now.monotonic and waited:
        message = f"{', '.join(txn.owing())} has not said yet what became of {txn.id}"
        txn.cause = cause_of(Reason.IN_DOUBT, message, participant=only(txn.owing()))
        book.answer_all(txn)


def settling_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """What was handed over is settled, never run again."""
    participant, report = argument
    branch = branch_of(txn, participant)
    if report is not None and report.state == participant_pb2.BRANCH_STATE_COMMITTED:
        txn.results_lost |= report.results_lost
        branch.changed = True
        keep_results(book, txn, branch, report.results)
        finish(book, txn, State.COMMITTED)
    elif txn.state is State.HANDED_OVER:
        settle(book, txn)
    else:
        book.send_settle(txn, branch)
