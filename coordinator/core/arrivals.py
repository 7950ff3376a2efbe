"""What participants say: Hello, the branches that it lists, and messages about transactions that are not live.

A name belongs to one log, and to that log's highest incarnation; both are durable before the participant is welcomed.
Nothing is sent to a participant before its Hello is complete, because only then is known what it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import effects, events
from coordinator.core.book import ABORT, COMMIT, Book, cause_of
from coordinator.core.deciding import refuse_enlist
from coordinator.core.finishing import finish, reopen
from coordinator.core.model import Branch, BranchStep, Finished, Participant, State, Transaction
from coordinator.core.phase_two import ENDS, append_heuristic, tell_decision
from coordinator.core.steps import TEXT_CHARACTERS_MAX, keep_results
from coordinator.core.transitions import ACKNOWLEDGED, VOTE, Input, apply
from troth.errors import Reason, RemoteProtocolError, RequestError
from troth.ids import TransactionId, check_name
from troth.v1 import common_pb2, participant_pb2, record_pb2

# The values that mean something. What a later version adds must not be taken for one of them.
_VOTES = frozenset(participant_pb2.VoteKind.values()) - {0}
_ACKNOWLEDGEMENTS = frozenset(participant_pb2.AcknowledgementKind.values()) - {0}
_SETTLEMENTS = frozenset(participant_pb2.SettlementKind.values()) - {0}
_REPORTS = frozenset(participant_pb2.BranchState.values()) - {0}

_CONTRADICTS = frozenset({
    participant_pb2.BRANCH_STATE_PREPARED, participant_pb2.BRANCH_STATE_HAZARD,
    participant_pb2.BRANCH_STATE_FORCED_COMMIT, participant_pb2.BRANCH_STATE_FORCED_ABORT,
})  # fmt: skip
"""A branch that may have ended otherwise than was decided, or may still."""

# ---- Hello


def hello(book: Book, event: events.HelloReceived) -> None:
    """Accept a participant's stream, or refuse it."""
    cause = _refusal(book, event)
    if cause is not None:
        book.ready.effects.append(effects.Rejected(event.participant, event.stream, cause))
        return
    participant = book.participant(event.participant)
    newer = event.hello.incarnation > participant.incarnation
    if participant.stream:
        reason = Reason.STALE_INCARNATION if newer else Reason.SUPERSEDED_STREAM
        message = f"a newer stream of {event.participant!r} took over"
        book.ready.effects.append(effects.Rejected(event.participant, participant.stream, cause_of(reason, message)))
    bound = not newer and participant.log_id == event.hello.log_id
    participant.log_id = event.hello.log_id
    participant.incarnation = event.hello.incarnation
    participant.stream = event.stream
    participant.ready = False
    participant.software = event.hello.software
    participant.operations = frozenset(event.hello.operations)
    participant.reports.clear()
    participant.questions.clear()
    if bound:
        book.ready.effects.append(effects.Welcomed(event.participant, event.stream))
    else:
        record = record_pb2.ParticipantBound(
            participant=event.participant, log_id=event.hello.log_id, incarnation=event.hello.incarnation
        )
        done = events.Durable("bound", event.participant, event.stream)
        book.append(f"participant/{event.participant}", book.record_of(participant_bound=record), force=True, event=done)


def _refusal(book: Book, event: events.HelloReceived) -> common_pb2.Cause | None:
    try:
        check_name("participant", event.participant)
    except RequestError as error:
        return cause_of(error.reason, error.message)
    known = book.participants.get(event.participant)
    if not event.hello.log_id or not event.hello.incarnation:
        return cause_of(Reason.INVALID_ARGUMENT, "Hello needs log_id and incarnation")
    if known is None:
        if len(book.participants) >= book.settings.known_participants_max:
            return cause_of(Reason.OVERLOADED, f"{len(book.participants)} participants are known")
        return None
    if known.log_id and known.log_id != event.hello.log_id:
        # Told in part: whoever knows a log's whole id can pose as its participant.
        message = f"the name {event.participant!r} belongs to the log {known.log_id[:8]}..., not to {event.hello.log_id[:8]}..."
        return cause_of(Reason.FOREIGN_LOG, message)
    if event.hello.incarnation < known.incarnation and known.log_id:
        message = f"incarnation {event.hello.incarnation} of {event.participant!r} is older than {known.incarnation}"
        return cause_of(Reason.STALE_INCARNATION, message)
    return None


def bound(book: Book, name: str, stream: int) -> None:
    """The binding is durable: welcome the participant, if it is still there."""
    participant = book.participants[name]
    if participant.stream == stream:
        book.ready.effects.append(effects.Welcomed(name, stream))


def lost(book: Book, event: events.ParticipantLost) -> None:
    """A stream ended. Its branches stay as they are: the participant may come back in time."""
    participant = book.participants.get(event.participant)
    if participant is not None and participant.stream == event.stream:
        participant.stream = 0
        participant.ready = False
        participant.reports.clear()
        participant.questions.clear()


def reports(book: Book, event: events.ReportsReceived) -> None:
    """Branches that Hello lists. They are looked at when the list is complete: what is not in it counts too."""
    participant = book.participants.get(event.participant)
    if participant is None or participant.stream != event.stream:
        return
    if participant.ready:
        _late_reports(book, participant, event)
        return
    if len(participant.reports) + len(event.reports) > book.settings.reports_max:
        _send_away(book, participant)
        return
    for report in event.reports:
        participant.reports[report.transaction_id] = report
    if event.complete:
        participant.ready = True
        _say_heard(book, participant)
        listed, participant.reports = participant.reports, {}
        for report in listed.values():
            _take_report(book, participant, report)
        ask(book, participant)
        for txn in [*participant.recovered.values(), *participant.unended.values()]:
            if txn.state is not State.ABORTED and txn.state is not State.COMMITTED:
                apply(book, txn, Input.RETURNED, (participant, listed.get(txn.id)))


def _say_heard(book: Book, participant: Participant) -> None:
    """Say the last watermark once more, or that nothing may be forgotten: so the participant learns that its Hello was heard."""
    sent = participant.watermark_sent
    watermark = participant_pb2.Watermark(epoch=book.epoch if sent else 0, below=sent)
    book.ready.effects.append(effects.SendWatermark(participant.name, participant.stream, watermark))


def _send_away(book: Book, participant: Participant) -> None:
    """End a stream that lists more branches than may be listed."""
    cause = cause_of(Reason.OVERLOADED, f"{participant.name} lists more than {book.settings.reports_max} branches (reports_max)")
    book.ready.effects.append(effects.Rejected(participant.name, participant.stream, cause))
    participant.stream = 0
    participant.reports.clear()
    participant.questions.clear()


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
    txn = book.live.get(report.transaction_id)
    if txn is not None and participant.name in txn.branches:
        branch = txn.branches[participant.name]
        if report.state == participant_pb2.BRANCH_STATE_PREPARED and _is_abandoned(txn, branch):
            book.send_decision(participant, txn.id, report.order, COMMIT)
        elif txn.state is State.HEURISTIC and branch.step is not BranchStep.HEURISTIC and report.state in _CONTRADICTS:
            tell_decision(book, participant, txn, report.order)  # its answer is heard, and recorded if it contradicts as well
        return
    if report.state == participant_pb2.BRANCH_STATE_COMMITTED:
        _record_one_phase(book, participant, report)
    elif report.state == participant_pb2.BRANCH_STATE_ACTIVE:
        participant.questions[report.transaction_id] = report.order
    elif report.state in _REPORTS:
        presume(book, participant, report.transaction_id, report.order)
    else:
        raise RemoteProtocolError(f"{participant.name} reports a branch in the unknown state {report.state}")


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
    if report.transaction_id in book.live or not book.may_have_begun(_parse(participant, report.transaction_id)):
        raise RemoteProtocolError(
            f"{participant.name} reports that it committed {report.transaction_id}, which was not its to commit"
        )
    txn = Transaction(report.transaction_id, None, 0, State.SETTLING)
    txn.first_attempt_ms = book.clock_ms
    branch = Branch(participant, report.order, 0)
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
        _HEARD[type(what)](book, participant, what)


def _unknown_kind(participant: Participant, what: Any) -> RemoteProtocolError:
    return RemoteProtocolError(f"{participant.name} sent a {type(what).__name__} of the unknown kind {what.kind}")


def _vote(book: Book, participant: Participant, what: participant_pb2.Vote) -> None:
    if what.kind not in _VOTES:
        raise _unknown_kind(participant, what)
    book.counters.votes += 1
    transaction_id = what.transaction_id
    txn = book.live.get(transaction_id)
    if txn is not None:
        apply(book, txn, VOTE, (participant, what))
    elif what.kind == participant_pb2.VOTE_KIND_YES:
        presume(book, participant, transaction_id, 0)


def _acknowledgement(book: Book, participant: Participant, what: participant_pb2.Acknowledgement) -> None:
    if what.kind not in _ACKNOWLEDGEMENTS:
        raise _unknown_kind(participant, what)
    book.counters.acknowledgements += 1
    transaction_id = what.transaction_id
    if participant.questions:
        participant.questions.pop(transaction_id, None)  # a parked branch answers a question so
    txn = book.live.get(transaction_id)
    if txn is not None:
        apply(book, txn, ACKNOWLEDGED, (participant, what))
    else:
        _acknowledged_late(book, participant, what)


def _enlist(book: Book, participant: Participant, what: participant_pb2.Enlist) -> None:
    txn = book.live.get(what.transaction_id)
    if txn is not None:
        apply(book, txn, Input.ENLIST, participant)
    else:
        refuse_enlist(book, participant, what.transaction_id, _why_not_live(book, what.transaction_id))


def _settlement(book: Book, participant: Participant, what: participant_pb2.Settlement) -> None:
    if what.kind not in _SETTLEMENTS:
        raise _unknown_kind(participant, what)
    txn = book.live.get(what.transaction_id)
    if what.transaction_id in participant.questions:
        _answered(book, participant, txn, what)
    elif txn is not None:
        apply(book, txn, Input.SETTLED, (participant, what))


def _asked(book: Book, participant: Participant, what: participant_pb2.Inquiry) -> None:
    _inquiry(book, participant, book.live.get(what.transaction_id), what)


_HEARD: dict[type, Callable[[Book, Participant, Any], None]] = {
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
    earlier = parsed.coordinator == book.coordinator and parsed.epoch < book.epoch
    return Reason.COORDINATOR_RESTARTED if earlier else Reason.UNKNOWN_TRANSACTION


def _inquiry(book: Book, participant: Participant, txn: Transaction | None, what: participant_pb2.Inquiry) -> None:
    branch = txn.branches.get(participant.name) if txn is not None else None
    if branch is None or txn is None:
        presume(book, participant, what.transaction_id, what.order)
    elif branch.step is BranchStep.COMMIT_OWED or _is_abandoned(txn, branch):
        book.send_decision(participant, txn.id, branch.order or what.order, COMMIT)
    elif txn.state is State.HEURISTIC:
        tell_decision(book, participant, txn, what.order)
    # Otherwise it is live and undecided: silence, and the decision follows by itself.


def _is_abandoned(txn: Transaction, branch: Branch) -> bool:
    """Whether nobody waits for a branch any more, or it was given up, although COMMIT was decided. Should it be in doubt after all,
    it is told so: the decision stands, and its locks go."""
    return branch.step is BranchStep.HEURISTIC and bool(txn.heuristic) and txn.heuristic[0].commit_decided


def presume(book: Book, participant: Participant, transaction_id: str, order: int) -> None:
    """Presumed abort: there is no record, so a prepared participant that asks is told ABORT.

    Only for transactions that nobody else can still decide: those of this coordinator's earlier epochs, and those of its own
    epoch, nonce included, that are not live.
    """
    done = book.finished.get(transaction_id)
    if done is not None and done.outcome == common_pb2.OUTCOME_COMMITTED:
        book.send_decision(participant, transaction_id, order, COMMIT)
        return
    parsed = _parse(participant, transaction_id)
    ours = parsed.coordinator == book.coordinator
    earlier = parsed.epoch < book.epoch or (parsed.epoch == book.epoch and parsed.nonce == book.nonce)
    if not (ours and earlier):
        raise RemoteProtocolError(
            f"{participant.name} asks about {transaction_id}, which another coordinator, or another life of this one, began",
            reason=Reason.STALE_EPOCH,
        )
    # An acknowledgement tells of a branch that an operator had ended otherwise.
    book.send_decision(participant, transaction_id, order, ABORT, acknowledge=True)


def _parse(participant: Participant, transaction_id: str) -> TransactionId:
    try:
        return TransactionId.parse(transaction_id)
    except RequestError as error:
        raise RemoteProtocolError(f"{participant.name} speaks of {error.message}") from None


def _acknowledged_late(book: Book, participant: Participant, what: participant_pb2.Acknowledgement) -> None:
    """An acknowledgement for a transaction that is over: a repeat, or it contradicts what was decided."""
    agreed = ENDS[what.kind] == common_pb2.OUTCOME_ABORTED
    done = book.finished.get(what.transaction_id)
    committed = done is not None and done.outcome == common_pb2.OUTCOME_COMMITTED
    if agreed is not committed or what.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_DONE:
        return  # as decided, or a repeat
    if what.kind == participant_pb2.ACKNOWLEDGEMENT_KIND_EXPIRED:
        return  # it was finished and forgotten, and the log knows how
    _check_late(book, participant, what.transaction_id, done)
    _late_heuristic(book, participant, what, done, committed=committed)


def _check_late(book: Book, participant: Participant, transaction_id: str, done: Finished | None) -> None:
    """Raise `RemoteProtocolError` unless the participant may have had a branch in a transaction that is over."""
    if (participant.name, transaction_id) in book.ordered:
        book.ordered.remove((participant.name, transaction_id))
        return  # an operator wanted it so, be it a transaction of another coordinator
    if done is None:
        its_own = book.may_have_begun(_parse(participant, transaction_id))
    else:
        # The record of an operator's abort names nobody.
        its_own = participant.name in done.participants or "" in done.participants
    if not its_own:
        raise RemoteProtocolError(f"{participant.name} had no branch in {transaction_id[:160]}")
    if book.late_heuristics >= book.settings.late_heuristics_max:
        message = f"{book.late_heuristics} transactions that are over were contradicted; forget some (late_heuristics_max)"
        raise RemoteProtocolError(message, reason=Reason.OVERLOADED)


def _late_heuristic(
    book: Book, participant: Participant, what: participant_pb2.Acknowledgement, done: Finished | None, *, committed: bool
) -> None:
    """A branch of a transaction that is over turns out to have ended otherwise: keep it for an operator."""
    txn = reopen(book, what.transaction_id, done, State.SETTLING)
    branch = txn.branches.setdefault(participant.name, Branch(participant, 0, 0))
    report = record_pb2.Heuristic(
        transaction_id=txn.id, participant=participant.name, branch_outcome=ENDS[what.kind],
        why=what.detail[:TEXT_CHARACTERS_MAX], commit_decided=committed,
    )  # fmt: skip
    append_heuristic(book, txn, branch, report)
