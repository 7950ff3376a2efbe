"""What operators ask: to see, to understand, to force, to forget."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events, explaining, hearing, listing, recalling, waiting, words
from coordinator.core.book import Book, cause_of
from coordinator.core.finishing import orders_of, retain_dealt_with, tell_over
from coordinator.core.forgetting import forget_participant
from coordinator.core.model import (
    UNDECIDED,
    Beginning,
    BranchStep,
    Participant,
    State,
    Transaction,
    outcome_name,
    scoped,
)
from coordinator.core.phase_two import decision_of_past
from coordinator.core.proving import may_prove, prove
from coordinator.core.recovery import bound_record
from coordinator.core.steps import send_away
from coordinator.core.transitions import TABLE, Input, apply
from coordinator.core.verdict import decided, is_given_up, last_reports, outcome_decided
from troth.errors import Reason, RequestError
from troth.ids import TransactionId
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2, record_pb2


def administer(book: Book, event: events.Administer) -> None:
    """Answer one request of an operator. An answer that tells of records waits for the last of them; and while records of orders
    are on their way, so does that to any further order: it may find done, or gone, what is only about to be."""
    appends = book.ready.appends
    before = len(appends)
    response = _not_begun(book, event.request) or _HANDLERS[type(event.request)](book, event.request)
    answer = effects.Administered(event.ticket, response)
    if len(appends) > before:
        last = appends[-1] = replace(appends[-1], effects=(*appends[-1].effects, answer))
        if last.force:  # nothing hangs on the others: what is undecided is aborted without a record, too
            book.orders_under_way += 1
            appends[-1] = replace(last, event=events.Durable("ordered", "", last.event))
    elif book.orders_under_way and type(event.request) in _ORDERS:
        book.answers_held.append(answer)
    else:
        book.ready.effects.append(answer)


def ordered(book: Book) -> None:
    """The record of an order is durable: when it was the last, so is what further orders have found."""
    book.orders_under_way -= 1
    if not book.orders_under_way:
        book.ready.effects += book.answers_held
        book.answers_held = []


_ORDERS: dict[type, Callable[..., Message]] = {
    admin_pb2.ResolveRequest: admin_pb2.ResolveResponse, admin_pb2.ForgetTransactionRequest: admin_pb2.ForgetTransactionResponse,
    admin_pb2.ReplaceParticipantRequest: admin_pb2.ReplaceParticipantResponse,
    admin_pb2.ForgetParticipantRequest: admin_pb2.ForgetParticipantResponse,
    admin_pb2.AcceptLossRequest: admin_pb2.AcceptLossResponse,
}  # fmt: skip


def _not_begun(book: Book, request: Any) -> Message | None:
    """The answer to an order while the start is refused: what it would write would stand in the log as if the life before had
    written it, and whoever has heard more of that would not be found out any more. Only a loss is accepted."""
    accepts = isinstance(request, admin_pb2.AcceptLossRequest) and not request.participant
    if book.beginning is not Beginning.REFUSED or type(request) not in _ORDERS or accepts:
        return None
    hint = "Start it with the right log, or accept the loss: `troth participants accept-loss`."
    message = "this start is refused, since the log has lost something: nothing is written"
    return _ORDERS[type(request)](refusal=cause_of(Reason.LOG_WENT_BACK, message, hint=hint))


# ---- forcing


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator's request would do, and how to do it."""

    consequence: str
    """For people, before."""
    message: str
    """For people, after."""
    act: Callable[[], None]
    outcome: common_pb2.Outcome.ValueType = common_pb2.OUTCOME_UNSPECIFIED


def _resolve(book: Book, request: admin_pb2.ResolveRequest) -> Message:
    """Do it, or with `dry_run` say what would be done. Both are judged by the same plan, so that no preview promises otherwise."""
    txn = book.live.get(request.transaction_id)
    plan = _check_reason(request.who, request.why) or _plan(book, txn, request)
    if isinstance(plan, common_pb2.Cause):
        return admin_pb2.ResolveResponse(refusal=plan, outcome=txn.outcome if txn is not None else common_pb2.OUTCOME_UNSPECIFIED)
    if request.dry_run:
        outcome = txn.outcome if txn is not None else common_pb2.OUTCOME_UNSPECIFIED
        return admin_pb2.ResolveResponse(message=plan.consequence, outcome=outcome)
    plan.act()
    return admin_pb2.ResolveResponse(message=plan.message, outcome=plan.outcome)


def _is_over(book: Book, transaction_id: str) -> common_pb2.Cause:
    """Why there is nothing to resolve."""
    done = book.finished.get(transaction_id)
    if done is None:
        return cause_of(Reason.UNKNOWN_TRANSACTION, f"{transaction_id[:120]!r} is not open here")
    outcome = outcome_name(done.told)
    hint = "There is nothing to resolve: `troth txn explain` says how it ended."
    return cause_of(Reason.NOT_ACTIVE, f"{transaction_id} is over: {outcome}", hint=hint)


def _plan(book: Book, txn: Transaction | None, request: admin_pb2.ResolveRequest) -> Plan | common_pb2.Cause:
    if request.action == admin_pb2.RESOLVE_ACTION_UNSPECIFIED:
        return cause_of(Reason.INVALID_ARGUMENT, "name an action")
    if request.participant:
        return _plan_branch(book, txn, request)
    if txn is None:
        return _is_over(book, request.transaction_id)
    if request.action == admin_pb2.RESOLVE_ACTION_ABORT and (txn.state, Input.OPERATOR_ABORT) in TABLE:
        return Plan(
            words.abort_words(), f"{txn.id} is aborted.", partial(_force_abort, book, txn, request), common_pb2.OUTCOME_ABORTED
        )
    if request.action == admin_pb2.RESOLVE_ACTION_ABANDON and (txn.state, Input.ABANDON) in TABLE:
        return Plan(
            words.abandon_words(txn), f"{txn.id} waits for nobody any more; recorded as HAZARD.",
            partial(apply, book, txn, Input.ABANDON, (request.who, request.why)), common_pb2.OUTCOME_HAZARD,
        )  # fmt: skip
    return _cannot(txn)


def _cannot(txn: Transaction) -> common_pb2.Cause:
    """A refusal that says what can be forced instead."""
    hint = f"Possible now: {' '.join(words.if_forced(txn))}"
    return cause_of(Reason.NOT_ACTIVE, f"that cannot be forced while {txn.id} is {txn.state.value}", hint=hint)


def _check_reason(who: str, why: str) -> common_pb2.Cause | None:
    if who.strip() and why.strip():
        return None
    return cause_of(Reason.INVALID_ARGUMENT, "who and why must not be empty: they are recorded")


def _force_abort(book: Book, txn: Transaction, request: admin_pb2.ResolveRequest) -> None:
    ended = record_pb2.Ended(
        transaction_id=txn.id, outcome=common_pb2.OUTCOME_ABORTED, who=request.who, why=request.why,
        first_attempt_ms=txn.first_attempt_ms,
    )  # fmt: skip
    # The record is for people; an undecided transaction needs none to be aborted.
    book.append(txn.id, book.record_of(ended=ended), force=False)
    cause = cause_of(Reason.OPERATOR_ABORT, f"{request.who} aborted it: {request.why}")
    apply(book, txn, Input.OPERATOR_ABORT, cause)
    book.finished[txn.id].recorded = True
    book.recorded += 1


_FORCES = {
    admin_pb2.RESOLVE_ACTION_ABORT: participant_pb2.FORCE_KIND_ABORT,
    admin_pb2.RESOLVE_ACTION_COMMIT: participant_pb2.FORCE_KIND_COMMIT,
}


def _plan_branch(book: Book, txn: Transaction | None, request: admin_pb2.ResolveRequest) -> Plan | common_pb2.Cause:
    """Order a participant to end a branch in doubt; it records the order and reports it as heuristic."""
    kind = _FORCES.get(request.action)
    participant = book.participants.get(request.participant)
    if kind is None:
        return cause_of(Reason.INVALID_ARGUMENT, "abandon is for the whole transaction: leave the participant out")
    if participant is None:
        return cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    if (unknown := _has_no_branch(book, txn, participant, request.transaction_id)) is not None:
        return unknown
    if len(participant.ordered) + book.late_heuristics >= book.settings.late_heuristics_max:
        message = f"{book.late_heuristics} transactions ended otherwise than decided (late_heuristics_max)"
        return cause_of(Reason.OVERLOADED, message, hint="Forget some of them first.")
    if txn is not None and txn.state not in (State.COMMITTING, State.HEURISTIC, State.PROVING):
        return _cannot(txn)
    if not participant.ready:
        message = f"{request.participant} is not connected; on its machine, `troth log resolve` works offline"
        return cause_of(Reason.PARTICIPANT_AWAY, message)
    commit = kind == participant_pb2.FORCE_KIND_COMMIT
    return Plan(
        words.force_words(participant.name, commit=commit, decided=_was_decided(book, txn, request.transaction_id)),
        f"{participant.name} was ordered to {'commit' if commit else 'roll back'} its branch of {request.transaction_id}; "
        "`troth txn explain` tells what came of it.",
        partial(_force_branch, book, participant, request, kind),
    )  # fmt: skip


def _was_decided(book: Book, txn: Transaction | None, transaction_id: str) -> bool | None:
    """Whether COMMIT was decided; `None` when that is not known here."""
    if txn is not None:
        if txn.state is State.PROVING:
            return None
        return decided(txn.heuristic) if txn.heuristic else txn.state is State.COMMITTING
    done = book.finished.get(transaction_id)
    return None if done is None else decision_of_past(book, transaction_id, done)


def _force_branch(
    book: Book, participant: Participant, request: admin_pb2.ResolveRequest, kind: participant_pb2.ForceKind.ValueType
) -> None:
    participant.ordered.add(request.transaction_id)
    _send_force(book, participant, request.transaction_id, kind, request.who, request.why)


def _has_no_branch(book: Book, txn: Transaction | None, participant: Participant, transaction_id: str) -> common_pb2.Cause | None:
    """Why a participant cannot have a branch in a transaction: a typing mistake must not become a record of what never was. Of
    another coordinator's transactions nothing is known here: there the participant says whether it has a branch."""
    done = book.finished.get(transaction_id)
    named: Collection[str] = txn.branches if txn is not None else done.participants if done is not None else ()
    try:
        parsed = TransactionId.parse(transaction_id)
    except RequestError as error:
        return cause_of(error.reason, error.message)
    if transaction_id in participant.stranded:
        begun = True  # it says itself that it is in doubt: another log began it, or this one has lost that
    elif txn is not None or (done is not None and "" not in named):
        begun = participant.name in named
    else:
        begun = done is not None or parsed.coordinator != book.coordinator or book.may_have_begun(parsed)
    if begun:
        return None
    return cause_of(Reason.UNKNOWN_TRANSACTION, f"{transaction_id} never began here, or {participant.name} had no branch in it")


def _send_force(
    book: Book, participant: Participant, transaction_id: str, kind: participant_pb2.ForceKind.ValueType, who: str, why: str
) -> None:
    message = participant_pb2.Force(transaction_id=transaction_id, kind=kind, who=who, why=why)
    book.send(participant, "forces", message)


# ---- forgetting, replacing, draining


def _forget(book: Book, request: admin_pb2.ForgetTransactionRequest) -> Message:
    txn = book.live.get(request.transaction_id)
    refusal = _check_reason(request.who, request.why)
    if refusal is None and (txn is None or txn.state is not State.HEURISTIC):
        hint = "Nothing else needs it: `troth txn explain` says what may be done."
        refusal = cause_of(Reason.NOT_ACTIVE, "only a heuristic outcome can be forgotten", hint=hint)
    if refusal is None and txn is not None:
        refusal = _still_owed(book, txn)
    if refusal is not None or txn is None:
        return admin_pb2.ForgetTransactionResponse(refusal=refusal)
    if request.dry_run:
        return admin_pb2.ForgetTransactionResponse()
    record = _forgotten_record(book, txn, request)
    book.append(txn.id, book.record_of(forgotten=record), force=True, event=events.Durable("forgotten", txn.id, (txn, record)))
    return admin_pb2.ForgetTransactionResponse()


def _still_owed(book: Book, txn: Transaction) -> common_pb2.Cause | None:
    """Forgetting never drops a decision that somebody has not acknowledged (rule 18): who was given up, and has been away since,
    may still hold the branch in doubt. A Hello has settled that, also of who was there for a moment only, as a slot is that is
    visited; and once another log has its name, it will not come back."""
    for report in last_reports(txn.heuristic):
        participant = book.participants.get(report.participant)
        waited_for = is_given_up(report) and participant is not None and txn.id in participant.given_up
        if waited_for and participant is not None and participant.log_id and not participant.ready:
            message = f"{participant.name} is away, and may still hold the branch: forget it when it is back, or replace it first"
            return cause_of(Reason.PARTICIPANT_AWAY, message)
    for name in txn.branches:
        if txn.id in book.participants[name].in_doubt:
            message = f"{name} is in doubt, was told the decision, and has not acknowledged it yet"
            return cause_of(Reason.NOT_ACTIVE, message, hint="Forget it when it has.")
    return None


def _forgotten_record(book: Book, txn: Transaction, request: admin_pb2.ForgetTransactionRequest) -> record_pb2.Forgotten:
    done, outcome = book.finished.get(txn.id), outcome_decided(txn.heuristic)
    names = tuple(txn.branches) if done is None or outcome == common_pb2.OUTCOME_IN_DOUBT else done.participants
    return record_pb2.Forgotten(
        transaction_id=txn.id, who=request.who, why=request.why, first_attempt_ms=txn.first_attempt_ms,
        participants=names, claim=txn.claim,
        over_at_ms=done.at_ms if done is not None else book.clock_ms,
        outcome=done.outcome if done is not None else outcome, owner=txn.owner,
        orders=done.orders if done is not None else orders_of(txn),
    )  # fmt: skip


def forgotten(book: Book, txn: Transaction, record: record_pb2.Forgotten) -> None:
    """The Forgotten record is durable: drop the transaction here and at the participants that still hold its branch."""
    book.close(txn)
    book.late_heuristics -= txn.late
    for branch in txn.branches.values():
        branch.participant.in_doubt.discard(txn.id)
        branch.participant.given_up.discard(txn.id)
        if branch.step is BranchStep.HEURISTIC:
            _send_force(book, branch.participant, txn.id, participant_pb2.FORCE_KIND_FORGET, record.who, record.why)
    if txn.id not in book.finished:
        book.give_back(txn.claim)  # the record has it from now on
    retain_dealt_with(book, record, txn.heuristic)
    tell_over(book, txn, f"{words.heuristic_words(txn.heuristic)} Forgotten by {record.who}: {record.why}.")
    entry = book.keys.get(scoped(txn.claim)) if txn.claim is not None else None
    if txn.claim is not None and entry is not None and entry.live is txn:
        if book.finished[txn.id].outcome == common_pb2.OUTCOME_COMMITTED:
            entry.live, entry.finished_ms = None, book.clock_ms
            entry.claim = book.finished[txn.id].claim or txn.claim  # which has by now what was left under the key
        else:
            del book.keys[scoped(txn.claim)]  # COMMIT was never decided, and whoever forgot it saw to what was done


def _replace(book: Book, request: admin_pb2.ReplaceParticipantRequest) -> Message:
    """Let the named log take over this name. What the old log owed is gone with it, which `abandon` settles."""
    participant = book.participants.get(request.participant)
    refusal = _check_reason(request.who, request.why) or _not_replaced(participant, request)
    if refusal is not None or participant is None:
        return admin_pb2.ReplaceParticipantResponse(refusal=refusal)
    if participant.stream:
        # Welcomed, and still listing what it has. It would go on under the name, and be taken for the log that was named.
        cause = cause_of(Reason.FOREIGN_LOG, f"an operator lets the log {request.log_id[:8]}... have the name {participant.name!r}")
        cause.retryable = True  # it may be that very log: its next Hello tells
        send_away(book, participant, cause)
    participant.awaited = request.log_id
    participant.log_id = participant.nonce = participant.went_back = ""
    participant.incarnation = participant.heard = participant.watermark_sent = 0
    participant.before, participant.recalling = (book.epoch, participant.next_order), True
    participant.unlisted = (0, 0, 0)
    book.heard.pop(participant.name, None)
    participant.bound = None
    record = bound_record(participant)
    record.who, record.why = request.who, request.why
    book.append(f"participant/{participant.name}", book.record_of(participant_bound=record), force=True)
    return admin_pb2.ReplaceParticipantResponse()


def _not_replaced(participant: Participant | None, request: admin_pb2.ReplaceParticipantRequest) -> common_pb2.Cause | None:
    if participant is None:
        return cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    if participant.ready:
        return cause_of(Reason.NOT_ACTIVE, f"{participant.name} is connected", hint="Stop it first, then replace its log.")
    if not request.log_id:
        last = participant.refused_log_id or "none since the coordinator's start"
        hint = f"Name the log that may have it (log_id). Refused last under this name: {last}."
        return cause_of(Reason.INVALID_ARGUMENT, f"which log may take over the name {participant.name} is not said", hint=hint)
    return None


def _accept_loss(book: Book, request: admin_pb2.AcceptLossRequest) -> Message:
    """Go on without what the log has lost. Of what began before nobody is told anything from absence: keys expire, branches in
    doubt stay so until they are settled by hand."""
    refusal = _check_reason(request.who, request.why)
    if refusal is None and request.participant:
        refusal = recalling.accept(book, book.participants.get(request.participant), request)
        return admin_pb2.AcceptLossResponse(refusal=refusal, participants=[request.participant] if refusal is None else [])
    if refusal is None and not book.has_lost:
        refusal = cause_of(Reason.NOT_ACTIVE, "nothing is known to be lost", hint="There is nothing to accept.")
    refusal = refusal or _of_a_life_too_low(book)
    if refusal is not None:
        return admin_pb2.AcceptLossResponse(refusal=refusal)
    if book.beginning is Beginning.REFUSED:
        hearing.begin(book)
    book.dropped_through_ms = book.dropping_through_ms = max(book.dropped_through_ms, book.dropping_through_ms, book.clock_ms)
    book.dropped.count_branches_before(book.epoch, book.clock_ms)  # what the log has lost is in no list either
    horizon = record_pb2.Horizon(dropped_through_ms=book.dropped_through_ms)
    horizon.MergeFrom(book.dropped.branches(()))
    book.append("horizon", book.record_of(horizon=horizon), force=True)
    accepted = [loss for loss in book.losses.values() if not loss.accepted_in]
    for loss in accepted:
        loss.who, loss.why, loss.accepted_in = request.who, request.why, book.epoch
        book.append(f"loss/{loss.participant}", book.record_of(loss=loss), force=True)
    book.grace_until = book.now.monotonic + book.settings.recovery_grace_seconds
    _prove_stranded(book)
    book.ready.effects.append(effects.LossChanged())
    return admin_pb2.AcceptLossResponse(participants=sorted(loss.participant for loss in accepted if loss.participant))


def _of_a_life_too_low(book: Book) -> common_pb2.Cause | None:
    """A life that began before anybody was heard may be no higher than one that is lost: who has heard that one follows it never,
    and a life cannot be begun twice. The next one is above (`recovery`), for what was heard is in the log."""
    highest = hearing.highest_heard(book)
    if book.beginning is not Beginning.BEGUN or book.epoch > highest:
        return None
    message = f"epoch {highest} was heard and is lost, and epoch {book.epoch} began before that was known: nobody would follow it"
    return cause_of(Reason.LOG_WENT_BACK, message, hint="Restart this coordinator: its next epoch is above. Then accept the loss.")


def _prove_stranded(book: Book) -> None:
    """Whoever is there already, and is in doubt about what is lost, may be helped by others from now on."""
    for participant in list(book.participants.values()):
        for transaction_id, peers in list(participant.stranded.items()):
            if may_prove(book, transaction_id):
                prove(book, participant, transaction_id, peers)


def _drain(book: Book, _: admin_pb2.DrainRequest) -> Message:
    book.draining = True
    decided = sum(txn.state is State.COMMITTING for txn in book.live.values())
    return admin_pb2.DrainResponse(undecided=undecided(book), unacknowledged=decided)


def undecided(book: Book) -> int:
    """Transactions that a drain waits for."""
    waits = (*UNDECIDED, State.DECIDING, State.OPENING, State.HANDED_OVER)
    return sum(txn.state in waits for txn in book.live.values())


_HANDLERS: dict[type, Callable[[Book, Any], Message]] = {
    admin_pb2.ListTransactionsRequest: listing.transactions,
    admin_pb2.ExplainRequest: explaining.explain,
    admin_pb2.ResolveRequest: _resolve,
    admin_pb2.ForgetTransactionRequest: _forget,
    admin_pb2.ListParticipantsRequest: listing.participants,
    admin_pb2.ListParticipantDetailsRequest: listing.details,
    admin_pb2.ReplaceParticipantRequest: _replace,
    admin_pb2.AcceptLossRequest: _accept_loss,
    admin_pb2.ForgetParticipantRequest: forget_participant,
    admin_pb2.DrainRequest: _drain,
    record_pb2.Review: waiting.change,
}


def watch_finished(book: Book, transaction_id: str) -> client_pb2.WatchResponse:
    """What a watcher is told of a transaction that is not open."""
    done = book.finished.get(transaction_id)
    if done is None:
        unknown = explaining.unknown_words(book, transaction_id)
        return client_pb2.WatchResponse(state="UNKNOWN", explanation=unknown, outcome=common_pb2.OUTCOME_IN_DOUBT)
    return client_pb2.WatchResponse(state=outcome_name(done.told), explanation=words.finished_words(done), outcome=done.told)
