"""Phase one: enlisting, the votes, and the decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.core import early
from coordinator.core.book import ABORT, COMMIT, Book, cause_of
from coordinator.core.events import Durable
from coordinator.core.kept import finish_unchanged, take
from coordinator.core.model import (
    COMMIT_OWED,
    COMMITTING,
    DECIDING,
    OVER,
    PREPARING,
    READY,
    SETTLE_OWED,
    SETTLING,
    VOTE_OWED,
    YES,
    Branch,
    BranchStep,
    Participant,
    Transaction,
)
from coordinator.core.one_phase import open_or_hand_over
from coordinator.core.owners import why_not_invited
from coordinator.core.phase_two import append_heuristic
from coordinator.core.slots import of_another_slot, other_slot
from coordinator.core.steps import (
    TEXT_CHARACTERS_MAX,
    Returned,
    abort,
    arm,
    away,
    branch_of,
    broke_protocol,
    is_of_log_before,
    key_opened,
    no_branch,
    no_cause,
    no_room,
    timeout,
    too_large,
    vote_name,
)
from coordinator.core.verdict import heuristic
from troth.errors import Reason
from troth.ids import NAME_BYTES_MAX
from troth.v1 import client_pb2, common_pb2, participant_pb2

COUNT_MAX = 2**32 - 1
"""What Prepare can say. Nobody ran so many operations, so it is a NO."""


def peers_of(branches: Mapping[str, Branch], traceparent: str = "") -> bytes:
    """The serialised Peers of a transaction."""
    peers = participant_pb2.Peers()
    peers.traceparent = traceparent
    peers.participants.extend(branches)
    peers.incarnations.extend([branch.incarnation for branch in branches.values()])
    peers.orders.extend([branch.order for branch in branches.values()])
    return peers.SerializeToString()


def start(book: Book, txn: Transaction) -> None:
    """All work is known: ask for the votes, or give the decision away."""
    if not txn.branches:
        finish_unchanged(book, txn)
    elif len(txn.branches) == 1 and next(iter(txn.branches.values())).step is not YES:
        open_or_hand_over(book, txn)
    else:
        txn.peers = peers_of(txn.branches, txn.traceparent)
        txn.missing = len(txn.branches)
        book.set_state(txn, PREPARING)
        for branch in txn.branches.values():
            if branch.step is YES:  # early
                txn.missing -= 1
            else:
                branch.step = VOTE_OWED
                book.send_prepare(txn, branch)
        if txn.missing:
            arm(book, txn)
        else:
            _decide(book, txn)


def enlist(book: Book, txn: Transaction, participant: Participant) -> None:
    """Add a branch; the same incarnation is told its order again; another incarnation aborts the transaction."""
    branch = txn.branches.get(participant.name)
    if branch is not None and branch.incarnation != participant.incarnation:
        away(book, txn, participant)
        refuse_enlist(book, participant, txn.id, Reason.PARTICIPANT_RESTARTED)
        return
    if branch is None:
        if (cause := _why_no_branch(book, txn, participant)) is not None:
            _refuse(book, participant, txn.id, cause)
            return
        branch = book.add_branch(txn, participant)
    _say_enlisted_when_heard(book, txn, branch)


def enlist_prepared(book: Book, txn: Transaction, participant: Participant) -> bool:
    """Add a branch that was prepared early, or learn that one is; false when the transaction takes none of it."""
    branch = txn.branches.get(participant.name)
    if branch is None:
        if _why_no_branch(book, txn, participant) is not None:
            return False
        branch = book.add_branch(txn, participant)
    branch.step = READY
    _say_enlisted_when_heard(book, txn, branch)
    return True


def _why_no_branch(book: Book, txn: Transaction, participant: Participant) -> common_pb2.Cause | None:
    """Why a transaction takes no branch of a participant, by whomever it is announced or named: the same answer each time."""
    if len(txn.branches) >= book.settings.participants_max:
        return cause_of(Reason.TOO_MANY_PARTICIPANTS, f"at most {book.settings.participants_max} participants are allowed")
    if (other := other_slot(txn, participant)) is not None:
        return cause_of(Reason.SECOND_SLOT, of_another_slot(txn, participant, other), participant=participant.name)
    return why_not_invited(book, txn, participant.name)


def _say_enlisted_when_heard(book: Book, txn: Transaction, branch: Branch) -> None:
    """Answer, once the transaction's client was heard."""
    # What it ended before it began this one is on the participant's stream before the answer then.
    if txn.session is None or txn.number not in txn.session.announced:
        say_enlisted(book, txn, branch)


def say_enlisted(book: Book, txn: Transaction, branch: Branch) -> None:
    """Tell a participant that its branch is accepted, and the order."""
    message = participant_pb2.Enlisted(transaction_id=txn.id, order=branch.order)
    book.send(branch.participant, "enlisted", message, early=True)


def enlist_closed(book: Book, txn: Transaction, participant: Participant) -> None:
    """Refuse: the commit has begun. Whom the commit named is in it, and is told its order: the two have crossed."""
    branch = txn.branches.get(participant.name)
    if branch is not None and branch.incarnation == participant.incarnation:
        say_enlisted(book, txn, branch)
    else:
        refuse_enlist(book, participant, txn.id, Reason.ENLIST_CLOSED)


def refuse_enlist(book: Book, participant: Participant, transaction_id: str, reason: Reason) -> None:
    """Tell a participant that the transaction takes no branch any more, or never did."""
    message = f"transaction {transaction_id} takes no new branch"
    _refuse(book, participant, transaction_id, cause_of(reason, message, participant=participant.name))


def _refuse(book: Book, participant: Participant, transaction_id: str, cause: common_pb2.Cause) -> None:
    """Tell a participant that the transaction takes no branch of it, now or ever: it rolls back what there is. The tombstone gets
    an order, by which the watermark covers it."""
    order = book.take_order(participant) if transaction_id.startswith(book.life) else 0
    refusal = participant_pb2.Enlisted(transaction_id=transaction_id, order=order, refusal=cause)
    book.send(participant, "enlisted", refusal, early=True)


def commit(book: Book, txn: Transaction, request: client_pb2.CommitRequest) -> None:
    """Enlisting closes here: the branches are those that were enlisted, and those that the commit names."""
    txn.wait_complete = request.wait == common_pb2.WAIT_COMPLETE
    wrong = name_branches(book, txn, request.acknowledged[:]) or take(book, txn, request)
    if wrong is None:
        start(book, txn)
    else:
        abort(book, txn, wrong)


def name_branches(
    book: Book, txn: Transaction, named: Sequence[client_pb2.AcknowledgedOperations]
) -> common_pb2.Cause | None:
    """Take over what the client knows of its branches: who did work, as which incarnation, how much of it the client saw, and what
    was voted early. Returns why it may not commit, if so; then everybody else is named all the same, to be told of the abort.

    The counts close the gap of a call that was lost or repeated on its way; `unknown` that of one of which nothing came back."""
    wrong: common_pb2.Cause | None = None
    counts: Counter[str] = Counter()
    votes = early.votes(book, txn, named)
    for item in named:
        wrong = _name_branch(book, txn, item, votes.get(item.participant)) or wrong
        counts[item.participant] += item.count  # one entry for each call is as good as their sum
    for name, branch in txn.branches.items():
        branch.operation_count = min(counts[name], COUNT_MAX)
    return early.take(book, txn, votes) or wrong


def _name_branch(
    book: Book, txn: Transaction, item: client_pb2.AcknowledgedOperations, vote: participant_pb2.EarlyVote | None
) -> common_pb2.Cause | None:
    if item.unknown:
        message = f"how a call{f' of {item.participant}' if item.participant else ''} ended is not known to the client"
        return cause_of(Reason.OPERATION_COUNT, message[:TEXT_CHARACTERS_MAX], participant=item.participant[:NAME_BYTES_MAX])
    name = item.participant
    branch, participant = txn.branches.get(name), book.participants.get(name)
    if branch is None:
        if participant is None or not item.incarnation:
            message = f"work of {name[:TEXT_CHARACTERS_MAX]} was acknowledged, but no branch of it is known"
            return cause_of(Reason.OPERATION_COUNT, message, participant=name[:NAME_BYTES_MAX])
        if (cause := _why_no_branch(book, txn, participant)) is not None:
            return cause
        branch = book.add_branch(txn, participant)
    stands = branch.step is READY and vote is not None and vote.incarnation == item.incarnation  # whatever was started since
    if item.incarnation not in (0, branch.incarnation) and not stands:
        message = f"incarnation {item.incarnation} of {name} did work, and it is gone"
        return cause_of(Reason.PARTICIPANT_RESTARTED, message, participant=name)
    return None


def vote(book: Book, txn: Transaction, argument: tuple[Participant, participant_pb2.Vote]) -> None:
    """Count a vote: NO aborts; when all have voted it is decided, or over if all only read. What is no vote is a heuristic end."""
    participant, vote = argument
    branch = txn.branches.get(participant.name)
    if branch is None:
        raise no_branch(txn, participant)
    kind = vote.kind
    if branch.step is not VOTE_OWED:
        if kind != _VOTED.get(branch.step):  # otherwise it is a repeat
            _voted_otherwise(book, txn, branch, vote)
    elif kind == participant_pb2.VOTE_KIND_YES:
        _voted(book, txn, branch, YES, vote.results)
    elif kind == participant_pb2.VOTE_KIND_READ_ONLY:
        # Its order is freed only with the transaction: a watermark past a live transaction's branch would make a repeated
        # Prepare look expired.
        _voted(book, txn, branch, OVER, vote.results)
    elif kind == participant_pb2.VOTE_KIND_NO:
        branch.voted_at = book.now.monotonic
        book.end_branch(txn, branch)
        abort(book, txn, no_cause(participant, vote))
    else:
        _ended_by_itself(book, txn, branch, vote)


_VOTED: dict[BranchStep, int] = {YES: participant_pb2.VOTE_KIND_YES, OVER: participant_pb2.VOTE_KIND_READ_ONLY}
"""What a branch has voted that owes no vote any more, while votes are counted."""
_ASKED_FOR = frozenset({participant_pb2.VOTE_KIND_YES, participant_pb2.VOTE_KIND_READ_ONLY, participant_pb2.VOTE_KIND_NO})


def _voted_otherwise(book: Book, txn: Transaction, branch: Branch, vote: participant_pb2.Vote) -> None:
    """A vote that takes back another one. Nothing is decided yet, so the transaction aborts; unless the branch may stand."""
    if vote.kind not in _ASKED_FOR:
        _ended_by_itself(book, txn, branch, vote)
        return
    name = branch.participant.name
    message = f"{name} voted {vote_name(vote)} on {txn.id}, and had voted otherwise: a vote stands"
    broke_protocol(book, branch.participant, message)
    abort(book, txn, cause_of(Reason.PROTOCOL_ERROR, message, participant=name))


def _ended_by_itself(book: Book, txn: Transaction, branch: Branch, vote: participant_pb2.Vote) -> None:
    """COMMITTED without having been told to, or what means nothing: the others are rolled back, and this one may stand. Nobody is
    told "aborted": a Heuristic record is forced, and says MIXED or HAZARD. A key stays with it until an operator has looked."""
    participant, kind = branch.participant, vote_name(vote)
    committed = vote.kind == participant_pb2.VOTE_KIND_COMMITTED
    broke_protocol(book, participant, f"{participant.name} voted {kind} on {txn.id}: asked to prepare, vote YES, READ_ONLY or NO")
    for other in txn.branches.values():
        if other is not branch:
            if other.step is not OVER:
                book.send_decision(other.participant, txn.id, other.order, ABORT)
            book.end_branch(txn, other)
    if txn.claim is not None:
        book.append(txn.id, key_opened(book, txn, branch), force=True)
    book.timers.cancel(txn.id)
    book.set_state(txn, SETTLING)
    report = heuristic(
        False, transaction_id=txn.id, participant=participant.name, why=f"it voted {kind} where YES, READ_ONLY or NO was asked for",
        branch_outcome=common_pb2.OUTCOME_COMMITTED if committed else common_pb2.OUTCOME_HAZARD,
    )  # fmt: skip
    append_heuristic(book, txn, branch, report)


def _voted(book: Book, txn: Transaction, branch: Branch, step: BranchStep, results: bytes) -> None:
    if len(results) > book.settings.payload_bytes_max:
        too_large(book, txn, branch, results)
        return
    if results and not book.hold(txn, len(results)):
        no_room(book, txn, branch)
        return
    branch.step = step
    branch.results = results
    branch.voted_at = book.now.monotonic
    txn.missing -= 1
    assert txn.missing >= 0
    if txn.missing == 0:
        _decide(book, txn)


def _decide(book: Book, txn: Transaction) -> None:
    """All have voted and nobody said NO: this is the only place that decides COMMIT."""
    for branch in txn.branches.values():
        branch.changed = branch.step is YES
        assert branch.changed or branch.step is OVER
        if branch.changed and branch.participant.before[0] and is_of_log_before(txn, branch):
            # What was prepared is gone, or in a copy: it would be HAZARD at once.
            away(book, txn, branch.participant)
            return
    record = book.decided_record(txn)
    if not record.decided.owing:
        finish_unchanged(book, txn)
        return
    book.drop_arguments(txn)
    book.set_state(txn, DECIDING)
    book.append(txn.id, record, force=True, event=Durable("decided", txn.id))


def decided(book: Book, txn: Transaction, _: Any) -> None:
    """The commit point has passed: tell everybody, independently of one another."""
    book.set_state(txn, COMMITTING)
    txn.missing = 0
    for branch in txn.branches.values():
        if branch.step is YES:
            branch.step = COMMIT_OWED
            txn.missing += 1
            book.send_decision(branch.participant, txn.id, branch.order, COMMIT, urgent=txn.wait_complete)
        elif branch.step is SETTLE_OWED:  # of a transaction that was proven, and is asked on
            txn.missing += 1
            book.send_settle(txn, branch)
    if not txn.wait_complete:
        book.answer_all(txn)
    arm(book, txn)


def preparing_timer(book: Book, txn: Transaction, _: Any) -> None:
    """At the deadline: abort. Before: repeat Prepare where a vote is owed."""
    if txn.deadline <= book.now.monotonic:
        timeout(book, txn)
        return
    for branch in txn.branches.values():
        if branch.step is VOTE_OWED:
            book.send_prepare(txn, branch)
    arm(book, txn)


def active_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """Abort if another incarnation came back, unless the branch is prepared. If the same one no longer has the branch, the
    commit's count tells."""
    participant, report = argument
    branch = branch_of(txn, participant)
    if report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED:
        branch.step = READY
    elif branch.incarnation != participant.incarnation:
        away(book, txn, participant)


def preparing_returned(book: Book, txn: Transaction, argument: Returned) -> None:
    """A branch reported PREPARED counts as a YES, if it was asked; another incarnation aborts; otherwise repeat Prepare."""
    participant, report = argument
    branch = branch_of(txn, participant)
    if branch.step is not VOTE_OWED:
        return
    prepared = report is not None and report.state == participant_pb2.BRANCH_STATE_PREPARED
    if report is not None and prepared and not report.early:
        txn.results_lost |= report.results_lost
        _voted(book, txn, branch, YES, report.results)
    elif prepared:
        book.send_prepare(txn, branch)
    elif branch.incarnation != participant.incarnation:
        away(book, txn, participant)
    else:
        book.send_prepare(txn, branch)
