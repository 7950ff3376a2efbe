"""What operators ask: to see, to understand, to force, to forget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.book import Book, cause_of, explain_state
from coordinator.core.finishing import retain
from coordinator.core.model import UNDECIDED, Branch, BranchStep, Finished, Participant, State, Transaction
from coordinator.core.transitions import TABLE, Input, apply
from troth.errors import Reason
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2, record_pb2

LIST_LIMIT = 100


def administer(book: Book, event: events.Administer) -> None:
    """Answer one request of an operator. An answer that tells of records waits for the last of them."""
    appends = book.ready.appends
    before = len(appends)
    answer = effects.Administered(event.ticket, _HANDLERS[type(event.request)](book, event.request))
    if len(appends) > before:
        appends[-1] = replace(appends[-1], effects=(*appends[-1].effects, answer))
    else:
        book.ready.effects.append(answer)


# ---- seeing


def _list(book: Book, request: admin_pb2.ListTransactionsRequest) -> Message:
    response = admin_pb2.ListTransactionsResponse()
    limit = request.limit or LIST_LIMIT
    for summary in _summaries(book, request.finished):
        if request.states and summary.state not in request.states:
            continue
        if request.participant and request.participant not in summary.participants:
            continue
        response.total += 1
        if len(response.transactions) < limit:
            response.transactions.append(summary)
    return response


def _summaries(book: Book, finished: bool) -> Iterator[admin_pb2.TransactionSummary]:
    for txn in book.live.values():
        yield _summary(book, txn)
    if finished:
        for name, done in book.finished.items():
            if name not in book.live:  # contradicted since it was over: then it is open again, and told as such
                yield _finished_summary(book, name, done)


def _summary(book: Book, txn: Transaction) -> admin_pb2.TransactionSummary:
    return admin_pb2.TransactionSummary(
        transaction_id=txn.id,
        state=txn.state.value,
        outcome=txn.outcome,
        participants=list(txn.branches),
        owing=txn.owing(),
        age_seconds=max(0.0, (book.clock_ms - txn.first_attempt_ms) / 1000),
        key=txn.claim.key if txn.claim else "",
    )


def _finished_summary(book: Book, name: str, done: Finished) -> admin_pb2.TransactionSummary:
    return admin_pb2.TransactionSummary(
        transaction_id=name,
        state=common_pb2.Outcome.Name(done.outcome).removeprefix("OUTCOME_"),
        outcome=done.outcome,
        participants=[participant for participant in done.participants if participant],
        age_seconds=max(0.0, (book.clock_ms - done.first_attempt_ms) / 1000),
        key=done.claim.key if done.claim else "",
    )


def _participants(book: Book, _: admin_pb2.ListParticipantsRequest) -> Message:
    response = admin_pb2.ListParticipantsResponse()
    for name in sorted(book.participants):
        participant = book.participants[name]
        steps = [txn.branches[name].step for txn in (*participant.unended.values(), *participant.recovered.values())]
        response.participants.add(
            participant=name,
            connected=participant.ready,
            log_id=participant.log_id,
            incarnation=participant.incarnation,
            votes_owed=steps.count(BranchStep.VOTE_OWED),
            acknowledgements_owed=steps.count(BranchStep.COMMIT_OWED),
            software=participant.software,
        )
    return response


# ---- understanding


def _explain(book: Book, request: admin_pb2.ExplainRequest) -> Message:
    name = request.transaction_id
    txn = book.live.get(name)
    done = book.finished.get(name)
    if txn is None and done is None:
        return admin_pb2.ExplainResponse(
            explanation=f"Nothing is known of {name}: it never began here, was aborted in an earlier life of the "
            "coordinator, or is older than the retention. A prepared participant that asks is told ABORT.",
        )
    if txn is None:
        assert done is not None
        return _explain_finished(book, name, done)
    return admin_pb2.ExplainResponse(
        summary=_summary(book, txn),
        explanation=explain_state(txn),
        next=_next(book, txn),
        if_forced=_if_forced(txn),
        branches=[_explain_branch(book, txn, branch) for branch in txn.branches.values()],
    )


def _explain_finished(book: Book, name: str, done: Finished) -> Message:
    words = "Finished: " + common_pb2.Outcome.Name(done.outcome).removeprefix("OUTCOME_") + "."
    if done.cause is not None:
        words += f" Cause: {done.cause.reason}: {done.cause.message}"
    return admin_pb2.ExplainResponse(
        summary=_finished_summary(book, name, done),
        explanation=words,
        next="Nothing; it is kept until the retention has passed.",
    )


def _explain_branch(book: Book, txn: Transaction, branch: Branch) -> admin_pb2.BranchExplanation:
    participant = branch.participant
    due = book.timers.due(txn.id)
    waits = branch.step in (BranchStep.VOTE_OWED, BranchStep.COMMIT_OWED, BranchStep.SETTLE_OWED)
    connected = participant.ready
    next_try = max(0.0, due - book.now.monotonic) if waits and connected and due is not None else -1.0
    return admin_pb2.BranchExplanation(
        participant=participant.name,
        state=branch.step.value,
        connected=connected,
        next_try_seconds=next_try,
        explanation=_branch_words(branch, connected),
    )


_STEP_WORDS = {
    BranchStep.ENLISTED: "has done work that is not prepared yet",
    BranchStep.VOTE_OWED: "has been asked for its vote and owes it",
    BranchStep.YES: "voted YES and waits for the decision",
    BranchStep.COMMIT_OWED: "has to commit and owes the acknowledgement",
    BranchStep.SETTLE_OWED: "has been asked what became of it and owes the answer",
    BranchStep.OVER: "is finished",
    BranchStep.HEURISTIC: "ended, or may have ended, differently from the decision",
}


def _branch_words(branch: Branch, connected: bool) -> str:
    words = f"{branch.participant.name} {_STEP_WORDS[branch.step]}"
    if branch.step is BranchStep.OVER or connected:
        return words + "."
    return words + "; it is not connected, and is told as soon as it comes back."


def _next(book: Book, txn: Transaction) -> str:
    left = max(0.0, txn.deadline - book.now.monotonic)
    return {
        State.ACTIVE: f"Unless the client commits, it is aborted in {left:.1f} s.",
        State.PREPARING: f"When all have voted it is decided; without all votes it is aborted in {left:.1f} s.",
        State.DECIDING: "COMMIT is sent as soon as the record is durable.",
        State.COMMITTING: "COMMIT is repeated until every participant has acknowledged it.",
        State.OPENING: "The work is handed over as soon as the key's record is durable.",
        State.HANDED_OVER: f"If the participant does not answer in {left:.1f} s it is asked what became of it.",
        State.SETTLING: "The question is repeated until it is answered.",
        State.HEURISTIC: "Nothing happens by itself.",
    }.get(txn.state, "Nothing.")


def _if_forced(txn: Transaction) -> list[str]:
    if txn.state in UNDECIDED:
        return ["abort: it is aborted everywhere, which is safe: nothing was decided yet."]
    if txn.state is State.COMMITTING:
        owing = ", ".join(txn.owing())
        return [
            f"abandon: {owing} is no longer waited for; the outcome becomes HAZARD, because it may never commit there.",
            "abort with --participant: that branch is rolled back against the decision; the outcome becomes MIXED.",
        ]
    if txn.state is State.HEURISTIC:
        return ["forget: the record of the broken atomicity is dropped; do it when the damage is repaired."]
    return ["Nothing can be forced: the decision is not the coordinator's any more."]


# ---- forcing


def _resolve(book: Book, request: admin_pb2.ResolveRequest) -> Message:
    txn = book.live.get(request.transaction_id)
    refusal = _check_reason(request.who, request.why)
    if refusal is None and request.action == admin_pb2.RESOLVE_ACTION_UNSPECIFIED:
        refusal = cause_of(Reason.INVALID_ARGUMENT, "name an action")
    if refusal is not None:
        return admin_pb2.ResolveResponse(refusal=refusal)
    if request.participant:
        return _force_branch(book, txn, request)
    if txn is None:
        refusal = cause_of(Reason.UNKNOWN_TRANSACTION, f"{request.transaction_id[:120]!r} is not open here")
        return admin_pb2.ResolveResponse(refusal=refusal)
    if request.action == admin_pb2.RESOLVE_ACTION_ABORT and (txn.state, Input.OPERATOR_ABORT) in TABLE:
        return _force_abort(book, txn, request)
    if request.action == admin_pb2.RESOLVE_ACTION_ABANDON and (txn.state, Input.ABANDON) in TABLE:
        apply(book, txn, Input.ABANDON, (request.who, request.why))
        return admin_pb2.ResolveResponse(
            message=f"{txn.id} waits for nobody any more; recorded as HAZARD.", outcome=common_pb2.OUTCOME_HAZARD
        )
    return admin_pb2.ResolveResponse(
        refusal=cause_of(Reason.NOT_ACTIVE, f"{txn.id} is {txn.state.value}: {' '.join(_if_forced(txn))}"),
        outcome=txn.outcome,
    )


def _check_reason(who: str, why: str) -> common_pb2.Cause | None:
    if who.strip() and why.strip():
        return None
    return cause_of(Reason.INVALID_ARGUMENT, "who and why must not be empty: they are recorded")


def _force_abort(book: Book, txn: Transaction, request: admin_pb2.ResolveRequest) -> Message:
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
    return admin_pb2.ResolveResponse(message=f"{txn.id} is aborted.", outcome=common_pb2.OUTCOME_ABORTED)


_FORCES = {
    admin_pb2.RESOLVE_ACTION_ABORT: participant_pb2.FORCE_KIND_ABORT,
    admin_pb2.RESOLVE_ACTION_COMMIT: participant_pb2.FORCE_KIND_COMMIT,
}


def _force_branch(book: Book, txn: Transaction | None, request: admin_pb2.ResolveRequest) -> Message:
    """Order a participant to end a branch in doubt; it records the order and reports it as heuristic."""
    kind = _FORCES.get(request.action)
    participant = book.participants.get(request.participant)
    if kind is None:
        refusal = cause_of(Reason.INVALID_ARGUMENT, "abandon is for the whole transaction: leave the participant out")
    elif participant is None:
        refusal = cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    elif txn is not None and txn.state not in (State.COMMITTING, State.HEURISTIC):
        refusal = cause_of(Reason.NOT_ACTIVE, f"{txn.id} is {txn.state.value}: its branches are not an operator's to end")
    elif not participant.ready:
        message = f"{request.participant} is not connected; on its machine, `troth log resolve` works offline"
        refusal = cause_of(Reason.PARTICIPANT_AWAY, message)
    else:
        book.ordered.add((participant.name, request.transaction_id))
        _send_force(book, participant, request.transaction_id, kind, request.who, request.why)
        return admin_pb2.ResolveResponse(
            message=f"{request.participant} was ordered to end its branch of {request.transaction_id}."
        )
    return admin_pb2.ResolveResponse(refusal=refusal)


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
        refusal = cause_of(Reason.NOT_ACTIVE, "only a heuristic outcome can be forgotten; nothing else needs it")
    if refusal is None and txn is not None:
        refusal = _still_owed(book, txn)
    if refusal is not None or txn is None:
        return admin_pb2.ForgetTransactionResponse(refusal=refusal)
    record = record_pb2.Forgotten(transaction_id=txn.id, who=request.who, why=request.why)
    done = events.Durable("forgotten", txn.id, (request.who, request.why))
    book.append(txn.id, book.record_of(forgotten=record), force=True, event=done)
    return admin_pb2.ForgetTransactionResponse()


def _still_owed(book: Book, txn: Transaction) -> common_pb2.Cause | None:
    """Forgetting never drops a decision that somebody has not acknowledged (rule 18): who was abandoned, and is away, may still
    hold the branch in doubt. Once it is back, its Hello has settled that; once another log has its name, it will not come back."""
    for report in txn.heuristic:
        participant = book.participants.get(report.participant)
        given_up = bool(report.who) and report.commit_decided and participant is not None
        if given_up and participant is not None and participant.log_id and not participant.ready:
            message = f"{participant.name} is away, and may still hold the branch: forget it when it is back, or replace it first"
            return cause_of(Reason.PARTICIPANT_AWAY, message)
    return None


def forgotten(book: Book, txn: Transaction, detail: tuple[str, str]) -> None:
    """The Forgotten record is durable: drop the transaction here and at the participants that still hold its branch."""
    del book.live[txn.id]
    book.late_heuristics -= txn.late
    for branch in txn.branches.values():
        if branch.step is BranchStep.HEURISTIC:
            _send_force(book, branch.participant, txn.id, participant_pb2.FORCE_KIND_FORGET, *detail)
    if txn.heuristic and txn.heuristic[0].commit_decided and txn.id not in book.finished:
        outcome = common_pb2.OUTCOME_COMMITTED
        retain(
            book, txn.id,
            Finished(outcome, txn.first_attempt_ms, book.clock_ms, tuple(txn.branches), None, txn.claim, None, True),
        )  # fmt: skip
    entry = book.keys.get(txn.claim.key) if txn.claim is not None else None
    if txn.claim is not None and entry is not None and entry.live is txn:
        if txn.id in book.finished:
            entry.live, entry.finished_ms = None, book.clock_ms
        else:
            del book.keys[txn.claim.key]  # COMMIT was never decided, and whoever forgot it saw to what was done


def _replace(book: Book, request: admin_pb2.ReplaceParticipantRequest) -> Message:
    """Let the next log under this name take it over. What the old log owed is gone with it, which `abandon` settles."""
    participant = book.participants.get(request.participant)
    refusal = _check_reason(request.who, request.why)
    if refusal is None and participant is None:
        refusal = cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
    if refusal is None and participant is not None and participant.ready:
        refusal = cause_of(Reason.NOT_ACTIVE, f"{participant.name} is connected: stop it first")
    if refusal is not None or participant is None:
        return admin_pb2.ReplaceParticipantResponse(refusal=refusal)
    participant.log_id = ""
    participant.incarnation = 0
    record = record_pb2.ParticipantBound(participant=participant.name, who=request.who, why=request.why)
    book.append(f"participant/{participant.name}", book.record_of(participant_bound=record), force=True)
    return admin_pb2.ReplaceParticipantResponse()


def _drain(book: Book, _: admin_pb2.DrainRequest) -> Message:
    book.draining = True
    decided = sum(txn.state is State.COMMITTING for txn in book.live.values())
    return admin_pb2.DrainResponse(undecided=undecided(book), unacknowledged=decided)


def undecided(book: Book) -> int:
    """Transactions that a drain waits for."""
    waits = (*UNDECIDED, State.DECIDING, State.OPENING, State.HANDED_OVER)
    return sum(txn.state in waits for txn in book.live.values())


_HANDLERS: dict[type, Callable[[Book, Any], Message]] = {
    admin_pb2.ListTransactionsRequest: _list,
    admin_pb2.ExplainRequest: _explain,
    admin_pb2.ResolveRequest: _resolve,
    admin_pb2.ForgetTransactionRequest: _forget,
    admin_pb2.ListParticipantsRequest: _participants,
    admin_pb2.ReplaceParticipantRequest: _replace,
    admin_pb2.DrainRequest: _drain,
}


def watch_finished(book: Book, transaction_id: str) -> client_pb2.WatchResponse:
    """What a watcher is told of a transaction that is not open."""
    done = book.finished.get(transaction_id)
    if done is None:
        words = f"Nothing is known of {transaction_id[:120]}, which does not mean aborted."
        return client_pb2.WatchResponse(state="UNKNOWN", explanation=words, outcome=common_pb2.OUTCOME_IN_DOUBT)
    state = common_pb2.Outcome.Name(done.outcome).removeprefix("OUTCOME_")
    return client_pb2.WatchResponse(state=state, explanation="Finished.", outcome=done.outcome)
