"""What participants say: the branches that Hello lists, and messages about transactions that are not live.

Nothing is heard from a participant before it is welcomed (`hello`), and nothing is sent to one before its Hello is complete,
because only then is known what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from coordinator.core import blocking, effects, events, invariants, late, recalling
from coordinator.core.beginning import announced
from coordinator.core.book import ABORT, COMMIT, Book, cause_of
from coordinator.core.deciding import enlist_prepared, refuse_enlist
from coordinator.core.finishing import finish
from coordinator.core.late import parse
from coordinator.core.model import ACTIVE, Branch, BranchStep, Participant, State, Transaction
from coordinator.core.phase_two import BY_HAND, decision, decision_of_past, tell_decision
from coordinator.core.proving import may_prove, prove
from coordinator.core.replaced import may_be_handed_over
from coordinator.core.settings import REPORT_BYTES
from coordinator.core.steps import TEXT_CHARACTERS_MAX, keep_results, send_away
from coordinator.core.transitions import ACKNOWLEDGED, VOTE, Input, apply
from troth.errors import Reason, RemoteProtocolError, RequestError
from troth.ids import TransactionId
from troth.v1 import common_pb2, participant_pb2

# The values that mean something. What a later version adds must not be taken for one of them.
_VOTES = frozenset(participant_pb2.VoteKind.values()) - {0}
_ACKNOWLEDGEMENTS = frozenset(participant_pb2.AcknowledgementKind.values()) - {0}
_SETTLEMENTS = frozenset(participant_pb2.SettlementKind.values()) - {0}
_REPORTS = frozenset(participant_pb2.BranchState.values()) - {0}

_ASKED_FOR_VOTES = frozenset({State.PREPARING, State.HANDED_OVER})
"""Where a vote that means nothing may hide what a branch did: there it has consequences (`deciding.vote`, `one_phase`)."""

_CONTRADICTS = frozenset({
    participant_pb2.BRANCH_STATE_PREPARED, participant_pb2.BRANCH_STATE_HAZARD,
    participant_pb2.BRANCH_STATE_FORCED_COMMIT, participant_pb2.BRANCH_STATE_FORCED_ABORT,
})  # fmt: skip
"""A branch that may have ended otherwise than was decided, or may still."""

UNDECLARED_MAX = 100
"""Operations without lock keys that are kept of a participant."""

# ---- what Hello lists


def reports(book: Book, event: events.ReportsReceived) -> None:
    """Branches that Hello lists. They are looked at when the list is complete: what is not in it counts too."""
    participant = book.participants.get(event.participant)
    if participant is None or participant.stream != event.stream:
        return
    if participant.ready:
        _late_reports(book, participant, event)
        return
    if event.reports and not participant.welcomed:
        raise RemoteProtocolError(f"{participant.name} lists branches before it was welcomed")
    listed = [report for report in event.reports if not _taken_at_once(book, participant, report)]
    if len(participant.reports) + len(listed) > book.settings.reports_max:
        message = f"{participant.name} lists more than {book.settings.reports_max} branches (reports_max)"
        send_away(book, participant, cause_of(Reason.OVERLOADED, message))
        return
    if not _keep_reports(book, participant, listed):
        message = f"Hellos that are not complete have listed {book.settings.reports_bytes_max} bytes (reports_bytes_max)"
        send_away(book, participant, cause_of(Reason.OVERLOADED, message))
        return
    if event.complete:
        participant.listed = True
        if participant.welcomed:
            heard_out(book, participant)


def _keep_reports(book: Book, participant: Participant, listed: Iterable[participant_pb2.BranchReport]) -> bool:
    """Keep what is listed until the list is complete. Half of the room is for branches without their results, since who cannot list
    them all never comes back. False when there is no room at all."""
    whole = book.settings.reports_bytes_max
    room = whole - sum(one.report_bytes for one in book.participants.values())
    for report in listed:
        # A copy: a message that is part of another one keeps the whole frame that it came in.
        kept = participant_pb2.BranchReport()
        kept.CopyFrom(report)
        if kept.ByteSize() > room - whole // 2:
            kept.ClearField("detail")  # told again with the acknowledgement
            kept.ClearField("results")
            txn = book.live.get(kept.transaction_id)
            if txn is not None and participant.name in txn.branches:
                txn.results_lost = True
        size = kept.ByteSize() + REPORT_BYTES
        participant.reports[kept.transaction_id] = kept
        participant.report_bytes += size
        room -= size
    return room >= 0


def heard_out(book: Book, participant: Participant) -> None:
    """It is welcomed and its Hello is complete: settle what it listed, and what it did not."""
    participant.ready = True
    book.awaited.discard(participant.name)
    participant.in_doubt.clear()
    _say_heard(book, participant)
    reported, participant.reports, participant.report_bytes = participant.reports, {}, 0
    if participant.given_up:
        prepared = {name for name, report in reported.items() if report.state == participant_pb2.BRANCH_STATE_PREPARED}
        participant.given_up &= prepared
    for report in reported.values():
        _take_report(book, participant, report)
    ask(book, participant)
    for txn in [*participant.recovered.values(), *participant.unended.values()]:
        if txn.state is not State.ABORTED and txn.state is not State.COMMITTED:
            apply(book, txn, Input.RETURNED, (participant, reported.get(txn.id)))
    recalling.begin(book, participant)


def _taken_at_once(book: Book, participant: Participant, report: participant_pb2.BranchReport) -> bool:
    """Whether a report is dealt with before the list is complete: a one-phase commit is a fact, whatever else is listed. There may
    be any number of them behind one watermark that is pinned, and so they are not kept."""
    if report.state != participant_pb2.BRANCH_STATE_COMMITTED:
        return False
    txn = book.live.get(report.transaction_id)
    if txn is None:
        _take_report(book, participant, report)
    elif txn.state in (State.HANDED_OVER, State.SETTLING) and participant.name in txn.branches:
        apply(book, txn, Input.RETURNED, (participant, report))
    else:
        return False
    return True


def _say_heard(book: Book, participant: Participant) -> None:
    """Say the last watermark once more, or that nothing may be forgotten: so the participant learns that its Hello was heard."""
    sent = 0 if participant.recalling else participant.watermark_sent
    watermark = participant_pb2.Watermark(epoch=book.epoch if sent else 0, below=sent)
    book.ready.effects.append(effects.SendWatermark(participant.name, participant.stream, watermark))


def _take_report(book: Book, participant: Participant, report: participant_pb2.BranchReport) -> None:
    """One that cannot be true must not keep the others from being heard. The branch, if there is one, asks again by itself."""
    try:
        _judge_report(book, participant, report)
    except RemoteProtocolError:
        book.counters.reports_refused += 1


def _late_reports(book: Book, participant: Participant, event: events.ReportsReceived) -> None:
    """A one-phase commit that ran on while the stream was lost is reported when it is done, by itself."""
    for report in event.reports:
        if report.state != participant_pb2.BRANCH_STATE_COMMITTED:
            raise RemoteProtocolError(f"{participant.name} reports {report.transaction_id} after its Hello was complete")
        txn = book.live.get(report.transaction_id)
        if txn is not None and participant.name in txn.branches:
            apply(book, txn, Input.RETURNED, (participant, report))
        else:
            _judge_report(book, participant, report)


def _judge_report(book: Book, participant: Participant, report: participant_pb2.BranchReport) -> None:
    """Settle a listed branch whose transaction is not live; a live one is told by its own transition."""
    active = report.state == participant_pb2.BRANCH_STATE_ACTIVE
    if active and not report.order and report.transaction_id.startswith(book.life):
        _announced(book, participant, report.transaction_id)
        return
    txn = book.live.get(report.transaction_id)
    if report.state == participant_pb2.BRANCH_STATE_PREPARED and _is_news(book, participant, txn, report):
        _announced_prepared(book, participant, report.transaction_id)
        return
    if txn is not None and participant.name in txn.branches:
        branch = txn.branches[participant.name]
        if report.state == participant_pb2.BRANCH_STATE_PREPARED and _is_abandoned(txn, branch):
            _tell_in_doubt(book, participant, txn, report.order)
        elif txn.state is State.HEURISTIC and decision(book, txn) is None:
            if report.state in _CONTRADICTS:  # what it has committed by itself, or still does, is in no doubt
                _judge_unknown(book, participant, txn, report)
        elif txn.state is State.HEURISTIC and branch.step is not BranchStep.HEURISTIC and report.state in _CONTRADICTS:
            # Its answer is heard, and recorded if it contradicts as well.
            _tell_in_doubt(book, participant, txn, report.order)
        return
    if report.state == participant_pb2.BRANCH_STATE_COMMITTED:
        _record_one_phase(book, participant, report)
    elif active:
        # Of another coordinator it is rolled back by its participant, which has promised nothing.
        if book.began(parse(participant, report.transaction_id)):
            participant.questions[report.transaction_id] = report.order
    elif report.state in _REPORTS:
        _judge_unknown(book, participant, txn, report)
    else:
        raise RemoteProtocolError(f"{participant.name} reports a branch in the unknown state {report.state}")


def _judge_unknown(book: Book, participant: Participant, txn: Transaction | None, report: participant_pb2.BranchReport) -> None:
    """A listed branch of which this log may know nothing: what is presumed is told; what people have ended is heard; all else
    stays in doubt."""
    by_hand = report.state in BY_HAND and (txn is None or txn.late or txn.state is State.HEURISTIC)
    if by_hand and _is_unknown(book, participant, report):
        late.listed(book, participant, txn, report)
    else:
        presume(book, participant, report.transaction_id, report.order, report.peers, early=report.early)


def _is_unknown(book: Book, participant: Participant, report: participant_pb2.BranchReport) -> bool:
    """Whether nothing is known of the decision, and nothing can be told."""
    if _answer_to(book, participant, report.transaction_id, report.order, early=report.early) is not None:
        return False
    return report.early or decision_of_past(book, report.transaction_id, book.finished.get(report.transaction_id)) is None


def _tell_in_doubt(book: Book, participant: Participant, txn: Transaction, order: int) -> None:
    """Tell the decision to whoever is in doubt of a transaction that ended heuristically; it is not forgotten until then. Where no
    decision is known, people's ends of other branches are none, and it is as if nobody had said anything."""
    if txn.state is State.HEURISTIC and decision(book, txn) is None:
        cannot_tell = txn.branches[participant.name].step is BranchStep.HEURISTIC
        presume(book, participant, txn.id, order, early=cannot_tell)  # it may have been handed over (`replaced`)
        return
    if txn.state is State.HEURISTIC:
        participant.in_doubt.add(txn.id)
    tell_decision(book, participant, txn, order)


def ask(book: Book, participant: Participant) -> None:
    """Ask about unprepared branches of transactions that are not live (the model's `running_not_reported`)."""
    for transaction_id, order in participant.questions.items():
        question = participant_pb2.RollbackIfUnseen(transaction_id=transaction_id, order=order)
        book.counters.settlements += book.send(participant, "settles", question)


def _answered(book: Book, participant: Participant, txn: Transaction | None, what: participant_pb2.Settlement) -> None:
    """What a participant says of one of its branches, because it was asked. It says nothing of the transaction, unless the
    branch was all there was of it: then it is a one-phase commit, and the log has to know of it."""
    order = participant.questions.pop(what.transaction_id)
    if txn is not None and participant.name in txn.branches:
        apply(book, txn, Input.SETTLED, (participant, what))
    elif txn is not None and txn.state is State.SETTLING and what.kind == participant_pb2.SETTLEMENT_KIND_COMMITTED:
        # A client asks about it too, and did not name this participant: where it committed decides.
        book.add_recovered_branch(txn, participant.name, order, BranchStep.SETTLE_OWED)
        apply(book, txn, Input.SETTLED, (participant, what))
    elif what.kind == participant_pb2.SETTLEMENT_KIND_COMMITTED:
        report = participant_pb2.BranchReport(transaction_id=what.transaction_id, order=order, results=what.results)
        _record_one_phase(book, participant, report)
    elif what.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
        presume(book, participant, what.transaction_id, order)


def _record_one_phase(book: Book, participant: Participant, report: participant_pb2.BranchReport) -> None:
    """A one-phase commit whose answer was lost with an earlier life of the coordinator: the log must know of it before the
    participant may forget it."""
    participant.questions.pop(report.transaction_id, None)
    if report.transaction_id in book.finished:
        return
    parsed = parse(participant, report.transaction_id)
    if book.dropped.covers(parsed):
        return  # the log knew of it for as long as it had to
    # Of this life everything that was handed over is live, or retained: what is neither was refused, or never began.
    if report.transaction_id in book.live or parsed.epoch == book.epoch or not book.may_have_begun(parsed):
        raise RemoteProtocolError(
            f"{participant.name} reports that it committed {report.transaction_id}, which was not its to commit"
        )
    txn = Transaction(report.transaction_id, None, 0, State.SETTLING)
    txn.first_attempt_ms = book.clock_ms
    branch = Branch(participant, report.order, 0)
    branch.changed = True
    txn.results_lost |= report.results_lost
    keep_results(book, txn, branch, report.results)
    txn.branches[participant.name] = branch
    participant.recovered[txn.id] = txn
    book.live[txn.id] = txn
    finish(book, txn, State.COMMITTED)


# ---- messages


def message(book: Book, event: events.FromParticipant) -> None:
    """One message of a participant."""
    participant, what = book.participants.get(event.participant), event.message
    if participant is not None and participant.stream == event.stream:  # frames of a superseded stream are dropped
        if not participant.welcomed:
            raise RemoteProtocolError(f"{participant.name} sent a {type(what).__name__} before it was welcomed")
        if event.position > participant.heard:
            book.hear(participant, event.position)
        _HEARD[type(what)](book, participant, what)


def _unknown_kind(participant: Participant, what: Any) -> RemoteProtocolError:
    return RemoteProtocolError(f"{participant.name} sent a {type(what).__name__} of the unknown kind {what.kind}")


def _vote(book: Book, participant: Participant, what: participant_pb2.Vote) -> None:
    book.counters.votes += 1
    transaction_id = what.transaction_id
    txn = book.live.get(transaction_id)
    if what.kind not in _VOTES and (txn is None or txn.state not in _ASKED_FOR_VOTES):
        raise _unknown_kind(participant, what)
    if txn is not None:
        apply(book, txn, VOTE, (participant, what))
    elif what.kind == participant_pb2.VOTE_KIND_YES:
        presume(book, participant, transaction_id, what.order)
    elif what.kind == participant_pb2.VOTE_KIND_COMMITTED:
        late.committed(book, participant, what)


def _acknowledgement(book: Book, participant: Participant, what: participant_pb2.Acknowledgement) -> None:
    if what.kind not in _ACKNOWLEDGEMENTS:
        raise _unknown_kind(participant, what)
    book.counters.acknowledgements += 1
    transaction_id = what.transaction_id
    participant.in_doubt.discard(transaction_id)
    participant.given_up.discard(transaction_id)
    ordered, told = transaction_id in participant.ordered, transaction_id in participant.told_abort
    participant.told_abort.discard(transaction_id)
    if what.kind != participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD:
        participant.ordered.discard(transaction_id)  # a HAZARD may come again, and must not count then
    stranded = False
    if participant.stranded:
        stranded = participant.stranded.pop(transaction_id, None) is not None  # an operator ended it
    if participant.blocking:
        participant.blocking.pop(transaction_id, None)
    if participant.questions:
        participant.questions.pop(transaction_id, None)  # a parked branch answers a question so
    if participant.recalled:
        recalling.heard(book, participant, transaction_id)
    txn = book.live.get(transaction_id)
    if txn is not None:
        apply(book, txn, ACKNOWLEDGED, (participant, what))
    else:
        late.acknowledged(book, participant, what, ordered=ordered, told=told, unknown=stranded and not told)


def _enlist(book: Book, participant: Participant, what: participant_pb2.Enlist) -> None:
    _announced(book, participant, what.transaction_id)


def _announced(book: Book, participant: Participant, transaction_id: str) -> None:
    """A branch of unprepared work is announced, by itself or in Hello. Its client may not have been heard of yet."""
    txn = book.live.get(transaction_id) or announced(book, transaction_id)
    if txn is not None:
        apply(book, txn, Input.ENLIST, participant)
    else:
        refuse_enlist(book, participant, transaction_id, _why_not_live(book, transaction_id))


def _is_news(
    book: Book, participant: Participant, txn: Transaction | None, what: participant_pb2.Inquiry | participant_pb2.BranchReport
) -> bool:
    """Whether a prepared branch is announced, that was prepared early and is not known to be enlisted."""
    if what.order or not what.transaction_id.startswith(book.life):
        return False
    return txn is None or txn.state is ACTIVE or participant.name not in txn.branches


def _announced_prepared(book: Book, participant: Participant, transaction_id: str) -> None:
    """A branch is announced that was prepared early: it is part of its transaction if that may still commit with it, else it is
    told ABORT (see `early`)."""
    txn = book.live.get(transaction_id) or announced(book, transaction_id)
    if txn is None:
        presume(book, participant, transaction_id, 0, early=True)
    elif txn.state is not ACTIVE or not enlist_prepared(book, txn, participant):
        _tell_abort(book, participant, transaction_id, 0)


def _settlement(book: Book, participant: Participant, what: participant_pb2.Settlement) -> None:
    if what.kind not in _SETTLEMENTS:
        raise _unknown_kind(participant, what)
    txn = book.live.get(what.transaction_id)
    if what.transaction_id in participant.recalled:
        recalling.answered(book, participant, what)
    elif what.transaction_id in participant.questions:
        _answered(book, participant, txn, what)
    elif txn is not None:
        apply(book, txn, Input.SETTLED, (participant, what))


def _asked(book: Book, participant: Participant, what: participant_pb2.Inquiry) -> None:
    blocking.told(book, participant, what)
    _inquiry(book, participant, book.live.get(what.transaction_id), what)


def _undeclared(book: Book, participant: Participant, what: common_pb2.Operation) -> None:
    """An operation of which operators are to read that it declares no lock keys. Those that it does not offer are passed over."""
    if len(participant.undeclared) < UNDECLARED_MAX and (not participant.operations or what.name in participant.operations):
        participant.undeclared[what.name[:TEXT_CHARACTERS_MAX]] = None


_HEARD: dict[type, Callable[[Book, Participant, Any], None]] = {
    common_pb2.Operation: _undeclared,
    participant_pb2.InvariantReport: invariants.told,
    participant_pb2.Enlist: _enlist,
    participant_pb2.Vote: _vote,
    participant_pb2.Acknowledgement: _acknowledgement,
    participant_pb2.Inquiry: _asked,
    participant_pb2.Settlement: _settlement,
}


def _why_not_live(book: Book, transaction_id: str) -> Reason:
    """Why a transaction that is not live takes no branch; what aborted for a reason that may pass can be tried again."""
    done = book.finished.get(transaction_id)
    if done is not None and done.cause is not None:
        return Reason.__members__.get(done.cause.reason, Reason.NOT_ACTIVE)
    try:
        parsed = TransactionId.parse(transaction_id)
    except RequestError as error:
        return error.reason
    session = book.sessions.get(parsed.session_prefix)
    answer = session.answers.get(parsed.number) if session is not None else None
    if answer is not None and answer.cause.reason in Reason.__members__:
        return Reason[answer.cause.reason]
    earlier = parsed.coordinator == book.coordinator and parsed.epoch < book.epoch
    return Reason.COORDINATOR_RESTARTED if earlier else Reason.UNKNOWN_TRANSACTION


def _inquiry(book: Book, participant: Participant, txn: Transaction | None, what: participant_pb2.Inquiry) -> None:
    branch = txn.branches.get(participant.name) if txn is not None else None
    if what.state == participant_pb2.BRANCH_STATE_PREPARED and _is_news(book, participant, txn, what):
        _announced_prepared(book, participant, what.transaction_id)
    elif branch is None or txn is None:
        presume(book, participant, what.transaction_id, what.order)
    elif branch.step is BranchStep.COMMIT_OWED:
        book.send_decision(participant, txn.id, branch.order or what.order, COMMIT)
    elif txn.state is State.HEURISTIC or _is_abandoned(txn, branch):
        _tell_in_doubt(book, participant, txn, branch.order or what.order)
    # Otherwise it is live and undecided: silence, and the decision follows by itself.


def _is_abandoned(txn: Transaction, branch: Branch) -> bool:
    """Whether nobody waits for a branch any more, or it was given up, although COMMIT was decided. Should it be in doubt after all,
    it is told so: the decision stands, and its locks go."""
    return branch.step is BranchStep.HEURISTIC and bool(txn.heuristic) and txn.heuristic[0].commit_decided


def presume(
    book: Book, participant: Participant, transaction_id: str, order: int, peers: bytes = b"", *, early: bool = False
) -> None:  # fmt: skip
    """Presumed abort: there is no record, so a prepared participant that asks is told ABORT.

    Only for transactions that nobody else can have decided, or can still decide: those that this very log began (epoch and nonce),
    and that are not live. About all others, those of another log of the same name, or of a life that an older copy of this log
    does not know, there is silence: the branch stays in doubt, and is listed. What this log has lost, and an operator has accepted
    as lost, may be proven by the others (`proving`), unless people have begun to settle it. What was prepared `early` may have been
    handed over since, to a log that had the name before (`replaced`); who was told nothing in Hello is told nothing when it asks.
    """
    answer = _answer_to(book, participant, transaction_id, order, early=early or transaction_id in participant.stranded)
    if answer == COMMIT:
        book.send_decision(participant, transaction_id, order, COMMIT)
    elif answer == ABORT:
        _tell_abort(book, participant, transaction_id, order)
    elif len(participant.stranded) < book.settings.reports_max:
        participant.stranded[transaction_id] = peers or participant.stranded.get(transaction_id, b"")
        if may_prove(book, transaction_id) and not book.has_lost:
            prove(book, participant, transaction_id, participant.stranded[transaction_id])


def _answer_to(
    book: Book, participant: Participant, transaction_id: str, order: int, *, early: bool = False
) -> participant_pb2.DecisionKind.ValueType | None:  # fmt: skip
    """What a participant in doubt is told of a transaction that is not live; `None` for nothing."""
    done = book.finished.get(transaction_id)
    committed = done is not None and done.outcome == common_pb2.OUTCOME_COMMITTED
    if done is not None and committed and participant.name in done.participants:
        return COMMIT
    # Of a commit that it is not part of it has prepared early what nobody has named. Of one that was dropped, and half of whose
    # records the cleaner has taken, a restart knows the outcome, and not whose it is.
    proven = done is not None and (done.outcome == common_pb2.OUTCOME_ABORTED or (committed and all(done.participants)))
    parsed = parse(participant, transaction_id)
    handed_over = early and may_be_handed_over(book, participant, parsed, order)
    return ABORT if proven or (_may_presume(book, participant, parsed, order) and not handed_over) else None


def _tell_abort(book: Book, participant: Participant, transaction_id: str, order: int) -> None:
    """Its acknowledgement tells of a branch that an operator had ended otherwise; it may be in a transaction that never named it.
    A tombstone without an order gets one, by which the watermark covers it."""
    if not order and transaction_id.startswith(book.life):
        order = book.take_order(participant)
    if len(participant.told_abort) < book.settings.reports_max:
        participant.told_abort.add(transaction_id)
    book.send_decision(participant, transaction_id, order, ABORT, acknowledge=True)


def _may_presume(book: Book, participant: Participant, parsed: TransactionId, order: int) -> bool:
    """A log that took the name over may be in doubt about what the one before had acknowledged: then the record of a commit may be
    absent because the retention has dropped it."""
    return book.may_presume(parsed) and not (participant.was_before(parsed.epoch, order) and book.dropped.covers(parsed))
