"""What participants say of transactions that are over, or that this log never knew: repeats, contradictions, ends by hand.

What an end by hand comes to, where nobody here knows what was decided, is told in `verdict`.
"""

from __future__ import annotations

from coordinator.core.book import Book
from coordinator.core.model import Finished, Participant, Transaction
from coordinator.core.phase_two import ENDS, as_acknowledged, decision_of_past, late_heuristic
from coordinator.core.steps import TEXT_CHARACTERS_MAX
from coordinator.core.transitions import ACKNOWLEDGED, apply
from coordinator.core.verdict import heuristic
from troth.errors import Reason, RemoteProtocolError, RequestError
from troth.ids import TransactionId
from troth.v1 import common_pb2, participant_pb2


def acknowledged(
    book: Book, participant: Participant, what: participant_pb2.Acknowledgement, *, ordered: bool, told: bool, unknown: bool
) -> None:  # fmt: skip
    """Of a transaction that is over: a repeat, or it contradicts what was decided, or nobody here knows what that was: who was
    told nothing (`unknown`) contradicts nothing."""
    done = book.finished.get(what.transaction_id)
    committed = done is not None and done.outcome == common_pb2.OUTCOME_COMMITTED
    if done is not None and committed and told and participant.name not in done.participants:
        return  # it is no part of that commit, and was told so: however its branch ended says nothing of it
    if what.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
        return  # a repeat
    if what.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED:
        return  # it was finished and forgotten, and the log knows how
    if ordered and done is None and what.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD:
        return  # the order was for a branch that it does not have, of a transaction that nobody knows
    parse(participant, what.transaction_id)  # raises for what is none
    decided, end = decision_of_past(book, what.transaction_id, done), ENDS[what.kind]
    if unknown and done is None:
        decided = None
    if decided is not None and (end == common_pb2.OUTCOME_ABORTED) is not decided:
        return  # as decided
    if decided is None and _is_dealt_with(book, participant, what.transaction_id, done, end, told=told):
        _forget_there(book, participant, what.transaction_id, done)
        return
    check(book, participant, what.transaction_id, done, its_own=ordered or told)
    report = heuristic(decided, branch_outcome=end, why=what.detail[:TEXT_CHARACTERS_MAX])
    late_heuristic(book, participant, what.transaction_id, done, report)


def _is_dealt_with(
    book: Book, participant: Participant, transaction_id: str, done: Finished | None, end: common_pb2.Outcome.ValueType,
    *, told: bool,
) -> bool:  # fmt: skip
    """Whether there is nothing new in an end by hand, of a transaction whose decision is not known: people have forgotten that
    very end, or it is a rollback of one of our own. Of those a commit may have been dropped, and none that was rolled back; but for
    a log that took the name over, and may be in doubt about what the one before had acknowledged: then it is not told ABORT."""
    if done is None:
        parsed = TransactionId.parse(transaction_id)
        its_log = told or not participant.was_before(parsed.epoch, 0)
        return end == common_pb2.OUTCOME_ABORTED and book.may_presume(parsed) and its_log
    reports = done.dealt_with.reports if done.dealt_with is not None else ()
    return (participant.name, end) in {(report.participant, report.branch_outcome) for report in reports}


def _forget_there(book: Book, participant: Participant, transaction_id: str, done: Finished | None) -> None:
    """It says once more how people have ended a branch, which they have forgotten since: it was away then."""
    if done is not None and done.dealt_with is not None:
        forgotten = done.dealt_with.forgotten
        order = participant_pb2.Force(
            transaction_id=transaction_id, kind=participant_pb2.FORCE_KIND_FORGET, who=forgotten.who, why=forgotten.why
        )
        book.send(participant, "forces", order)


def listed(book: Book, participant: Participant, txn: Transaction | None, report: participant_pb2.BranchReport) -> None:
    """Hello lists a branch that people have ended, and nothing can be told of its transaction: it is over, and not in doubt."""
    what = as_acknowledged(report)
    if txn is not None:
        apply(book, txn, ACKNOWLEDGED, (participant, what))
    else:
        acknowledged(book, participant, what, ordered=True, told=False, unknown=True)


def committed(book: Book, participant: Participant, what: participant_pb2.Vote) -> None:
    """A one-phase commit, or what somebody takes for one, of a transaction that is over: a repeat, or it was aborted. Of this life
    everything that was handed over is live, or retained, or dropped: the rest was refused, or never began. Commits of earlier lives
    are listed by Hello, and not voted."""
    transaction_id = what.transaction_id
    done = book.finished.get(transaction_id)
    if done is None:
        if transaction_id.startswith(book.life) and not book.dropped.covers(parse(participant, transaction_id)):
            raise RemoteProtocolError(f"{participant.name} voted COMMITTED on {transaction_id}, which was not its to commit")
    elif done.outcome == common_pb2.OUTCOME_ABORTED:
        check(book, participant, transaction_id, done)
        report = heuristic(False, branch_outcome=common_pb2.OUTCOME_COMMITTED, why="the participant committed it")
        late_heuristic(book, participant, transaction_id, done, report)


def check(
    book: Book, participant: Participant, transaction_id: str, done: Finished | None, *, its_own: bool = False
) -> None:  # fmt: skip
    """Raise `RemoteProtocolError` unless the participant may have had a branch in a transaction that is over. It is its own where
    an operator wanted it so, be it a transaction of another coordinator, or where it has asked, and was told ABORT."""
    if not its_own and done is None:
        its_own = book.may_have_begun(parse(participant, transaction_id))
    elif not its_own and done is not None:
        # The record of an operator's abort names nobody.
        its_own = participant.name in done.participants or "" in done.participants
    if not its_own:
        raise RemoteProtocolError(f"{participant.name} had no branch in {transaction_id[:160]}")
    if book.late_heuristics >= book.settings.late_heuristics_max:
        message = f"{book.late_heuristics} transactions that are over were contradicted; forget some (late_heuristics_max)"
        raise RemoteProtocolError(message, reason=Reason.OVERLOADED)


def parse(participant: Participant, transaction_id: str) -> TransactionId:
    """The id that a participant speaks of; raises `RemoteProtocolError` for what is none."""
    try:
        return TransactionId.parse(transaction_id)
    except RequestError as error:
        raise RemoteProtocolError(f"{participant.name} speaks of {error.message}") from None
