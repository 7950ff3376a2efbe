"""Handlers: Prepare, and the vote."""

from __future__ import annotations

from typing import Any

from participant_sdk.core import records
from participant_sdk.core.branches import Branch, Kind, State
from participant_sdk.core.effects import EarlyVoted
from participant_sdk.core.events import LastCall, PrepareReceived
from participant_sdk.core.finishing import begin_commit, roll_back, say_one_phase
from participant_sdk.core.interactive import ask_for_order, call_lock_timeout, close_line, keep_found, lock_refusal, run_call
from participant_sdk.core.locks import Answer
from participant_sdk.core.machine import Machine
from participant_sdk.core.undeclared import declares_nothing, waited
from participant_sdk.core.work import NO_KEYS, Execute, Executed, ExecuteRefused, Mode, PrepareBranch, Release, Wanted
from troth.errors import LocalProtocolError, Reason, RemoteProtocolError
from troth.v1 import common_pb2, participant_pb2, record_pb2

YES = participant_pb2.VOTE_KIND_YES
NO = participant_pb2.VOTE_KIND_NO
READ_ONLY = participant_pb2.VOTE_KIND_READ_ONLY
COMMITTED = participant_pb2.VOTE_KIND_COMMITTED

_PREPARING, _PREPARED = State.PREPARING, State.PREPARED
_PREPARE, _GRANTED = Mode.PREPARE, Answer.GRANTED

# ---- Prepare comes


def prepare_unseen(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Take the locks and run the operations; or vote NO."""
    message = e.message
    if message.incarnation != m.incarnation:
        m.vote(b, NO, _restarted(m))
        return
    refusal = e.refusal or m.refuses_new()
    _take_over(m, b, e)
    m.adopt(b)
    if message.interactive:
        b.state = State.ACTIVE
        _vote_on_calls(m, b, 0)
        return
    if refusal is not None:
        vote_no(m, b, refusal)
        return
    if m.found.any:
        b.found = m.found.recall(b.first_attempt_ms, e.operations)
    if e.undeclared:
        declares_nothing(m, b, e.undeclared)
    _lock(m, b)


def _lock(m: Machine, b: Branch) -> None:
    """Ask for all locks of the operations at once; then run them, let them wait, or vote NO."""
    assert b.prepare is not None
    message = b.prepare.message
    keys = b.prepare.keys.joined(b.found) if b.found is not NO_KEYS else b.prepare.keys
    answer = m.locks.request(b.transaction_id, m.one_shot_rank(b, message), keys)
    if answer is _GRANTED:
        run_prepare(m, b)
        return
    waited(m, b, keys)
    if answer is Answer.WAITS:
        b.state = State.WAITING
        seconds = min(m.config.lock_wait_seconds, message.timeout_ms / 1000 or m.config.lock_wait_seconds)
        m.timers.set(("lock", b.transaction_id), m.now.monotonic + seconds)
    else:
        vote_no(m, b, lock_refusal(m, answer))


def prepare_calls(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote on interactive work. Calls that have not begun are refused; if operations of Prepare wait, this is a repeat."""
    if b.prepare is not None:
        return
    _check_interactive(b, e)
    close_line(m, b)
    assert b.calls is not None
    m.timers.cancel(("enlist", b.transaction_id))
    _take_over(m, b, e)
    if e.message.incarnation != m.incarnation:
        vote_no(m, b, _restarted(m))
    else:
        _vote_on_calls(m, b, b.calls.succeeded)


def prepare_behind_call(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Prepare never overtakes a running operation (rule 4): await it. Calls that have not begun are refused."""
    _check_interactive(b, e)
    close_line(m, b)
    m.defer(b, Kind.PREPARE, e)


def prepare_repeated(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Nothing: the vote will come. One that was prepared early has not voted here yet: take it when that is durable."""
    if b.early and not b.one_phase:
        _check_interactive(b, e)
        m.defer(b, Kind.PREPARE, e)


def prepare_prepared(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote YES again; a one-phase commit answers when it is done."""
    if b.early and not b.one_phase:
        prepare_early(m, b, e)
    elif not b.one_phase:
        m.vote(b, YES)


def prepare_committed(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote again."""
    m.vote(b, COMMITTED if b.one_phase else YES)


def prepare_read_only(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote READ_ONLY again."""
    m.vote(b, READ_ONLY)


def prepare_rolled_back(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote NO, with the cause of then."""
    m.learn_order(b, e.message.order)
    m.vote(b, NO, b.cause or m.cause(Reason.ROLLED_BACK, "the branch was rolled back before"))


def prepare_parked(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Say that an operator is needed."""
    m.acknowledge(b, participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD, b.detail)


def prepare_expired(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Vote NO: it was finished and forgotten."""
    m.vote(b, NO, m.cause(Reason.EXPIRED, "the branch lies below the watermark"))


def _check_interactive(b: Branch, e: PrepareReceived) -> None:
    if e.operations:
        raise RemoteProtocolError(f"{b.transaction_id}: operations in the Prepare of an interactive branch")


def _restarted(m: Machine) -> common_pb2.Cause:
    return m.cause(Reason.PARTICIPANT_RESTARTED, f"this is incarnation {m.incarnation}; unprepared work of an earlier one is gone")


def _take_over(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """Learn what Prepare says about the branch."""
    message = e.message
    b.prepare = e
    b.stream = e.stream
    b.order = b.order or message.order
    b.first_attempt_ms = message.first_attempt_ms or b.first_attempt_ms
    b.one_phase = message.one_phase
    b.peers = message.peers
    b.incarnation = m.incarnation


# ---- interactive branches


def _vote_on_calls(m: Machine, b: Branch, succeeded: int) -> None:
    """No half branches: the client must have seen as many operations as there were (rule 4)."""
    assert b.prepare is not None
    message = b.prepare.message
    if message.operation_count != succeeded:
        vote_no(m, b, _another_count(m, message, succeeded))
    elif m.external and b.begun:
        b.state = State.PREPARING
        m.invoke(PrepareBranch(b.transaction_id, tuple(work for _, work in b.works)))
    elif not b.changed and (b.one_phase or not message.hold_read_locks):
        _vote_read_only(m, b)
    elif b.one_phase and not m.external:
        b.state = State.ONE_PHASE
        release = Release(b.transaction_id) if m.atomic else None
        m.append(records.finished(b, common_pb2.OUTCOME_COMMITTED), b, "committed", apply=release)
    else:
        _append_prepared(m, b)


def _another_count(m: Machine, message: participant_pb2.Prepare, succeeded: int) -> common_pb2.Cause:
    return m.cause(Reason.OPERATION_COUNT, f"the client saw {message.operation_count} operations, here were {succeeded}")


def _append_prepared(m: Machine, b: Branch) -> None:
    """Write what earlier records do not say; the vote waits for it."""
    b.state = _PREPARING
    if m.atomic:
        work = record_pb2.BranchWork()
        m.locks.held(b.transaction_id).into(work)
        b.works = (*b.works, ("", work))
    else:
        if b.calls is not None or not b.works:  # otherwise operations of Prepare are all there is
            b.works = (("", records.merged(b, m.locks.held(b.transaction_id))),)
        work = b.works[0][1]
        if m.external:
            b.resource_branch = work.resource_branch
    m.append(records.prepared(b, work), b, "prepared")


# ---- early prepare


def last_call(m: Machine, b: Branch, e: LastCall) -> None:
    """Prepare what has changed something, and vote with the call's answer. What only read keeps its locks until it is asked."""
    if not b.changed or m.stopping or b.deferred:
        say_no_early_vote(m, b, e)
        return
    assert b.calls is not None
    b.early, b.operation_count, b.early_tickets = True, b.calls.succeeded, (e.ticket,)
    m.timers.cancel(("enlist", b.transaction_id))
    message = participant_pb2.Prepare(
        transaction_id=b.transaction_id, operation_count=b.operation_count, interactive=True, hold_read_locks=True,
        incarnation=m.incarnation,
    )  # fmt: skip
    _take_over(m, b, PrepareReceived(0, message, ()))
    _vote_on_calls(m, b, b.operation_count)


def last_call_again(m: Machine, b: Branch, e: LastCall) -> None:
    """Say once more that it is prepared, or when it is; of a branch that was not prepared early there is nothing to say."""
    if not b.early or b.one_phase:
        say_no_early_vote(m, b, e)
    elif b.state is _PREPARED:
        m.ready.effects.append(EarlyVoted(e.ticket, b.operation_count, b.incarnation))
    else:
        b.early_tickets = (*b.early_tickets, e.ticket)


def say_no_early_vote(m: Machine, b: Branch, e: LastCall) -> None:
    """Nothing is prepared early: the commit will ask."""
    m.ready.effects.append(EarlyVoted(e.ticket, 0, 0))


def prepare_early(m: Machine, b: Branch, e: PrepareReceived) -> None:
    """It is asked all the same, since its vote was left out of the commit. The count is looked at now: with another one it votes
    NO, and waits to be told ABORT, because its YES is out. A decision that is handed over is written first; where people, or
    a decision, have ended it before, there is nothing to be handed over, and its YES stands."""
    m.learn_order(b, e.message.order)
    m.locks.finishing(b.transaction_id)
    b.peers = b.peers or e.message.peers
    if e.message.operation_count != b.operation_count:
        m.vote(b, NO, _another_count(m, e.message, b.operation_count))
    elif e.message.one_phase and b.state is _PREPARED:
        b.one_phase, b.stream, b.state = True, e.stream, _PREPARING
        m.append(records.prepared(b, b.works[-1][1]), b, "prepared")
    else:
        m.vote(b, YES)


def _answer_early(m: Machine, b: Branch, count: int) -> None:
    for ticket in b.early_tickets:
        m.ready.effects.append(EarlyVoted(ticket, count, b.incarnation if count else 0))
    b.early_tickets = ()


# ---- operations in Prepare


def locked(m: Machine, b: Branch, e: Any) -> None:
    """The locks are there: run what waited for them."""
    m.timers.cancel(("lock", b.transaction_id))
    if b.prepare is not None:
        run_prepare(m, b)
    else:
        run_call(m, b)


def lock_timeout(m: Machine, b: Branch, e: Any) -> None:
    """It waited for locks long enough."""
    if b.prepare is None:
        call_lock_timeout(m, b)
    else:
        vote_no(m, b, m.cause(Reason.CONFLICT, "the locks were not free in time"))


def run_prepare(m: Machine, b: Branch) -> None:
    """The locks are there: run the operations, and make the vote durable with them."""
    assert b.prepare is not None
    message = b.prepare.message
    decides = b.one_phase and not m.external
    b.state = State.ONE_PHASE if decides else _PREPARING
    work = Execute(
        b.transaction_id,
        "",
        b.prepare.operations,
        b.prepare.keys.joined(b.found) if b.found is not NO_KEYS else b.prepare.keys,
        b.first_attempt_ms,
        Mode.ONE_PHASE if decides else _PREPARE,
        message.hold_read_locks and not b.one_phase,
    )
    if not m.atomic:
        m.invoke(work)
        return
    record = records.finished(b, common_pb2.OUTCOME_COMMITTED) if decides else records.prepared(b)
    m.append(record, b, apply=work)
    if decides:
        # The resource works in the order of the log: whoever gets the locks now comes behind, and finds it committed.
        m.release_locks(b)


def prepare_executed(m: Machine, b: Branch, e: Executed) -> None:
    """The operations succeeded (ATOMIC: and the record is durable)."""
    _of_prepare(m, b, e.call_id)
    assert b.prepare is not None
    if b.calls is None:
        b.results = e.work.results.SerializeToString()
    b.begun = e.changed and not m.atomic
    # Of a branch that changed nothing the resource has nothing any more, but its results may be asked for.
    b.works = (*b.works, ("", e.work)) if b.begun else (("", e.work),)
    if not e.changed and (b.one_phase or not b.prepare.message.hold_read_locks):
        _vote_read_only(m, b)
    elif m.atomic:
        _vote_yes(m, b)
    else:
        _append_prepared(m, b)


def prepare_wanted(m: Machine, b: Branch, e: Wanted) -> None:
    """They need more keys and have left nothing. In one place only: ask anew for everything, at the end of the line. Else take
    them if they are free at once, or vote NO: the next attempt asks for them. What was deferred comes first."""
    _of_prepare(m, b, e.call_id)
    assert b.prepare is not None
    refusal = keep_found(m, b, b, b.prepare.operations, e.keys)
    if refusal is not None:
        vote_no(m, b, refusal)
    elif b.deferred:
        b.state = State.WAITING
        m.idle(b)
    elif b.one_phase:
        m.release_locks(b)
        _lock(m, b)
    elif m.locks.take_if_free(b.transaction_id, e.keys):
        run_prepare(m, b)
    else:
        vote_no(m, b, m.cause(Reason.CONFLICT, "a lock that it was found to need is not free; the next attempt will wait for it"))


def prepare_refused(m: Machine, b: Branch, e: ExecuteRefused) -> None:
    """The operations failed and left nothing behind: vote NO."""
    _of_prepare(m, b, e.call_id)
    b.works, b.begun = (), False
    vote_no(m, b, e.cause)


def prepared_durable(m: Machine, b: Branch, e: Any) -> None:
    """PREPARED is durable: vote YES, or commit when the decision was handed over."""
    if b.one_phase:
        m.keep(b)
        begin_commit(m, b)
    else:
        _vote_yes(m, b)


def one_phase_executed(m: Machine, b: Branch, e: Executed) -> None:
    """The operations succeeded (ATOMIC: and are committed, durably)."""
    _of_prepare(m, b, e.call_id)
    b.results = e.work.results.SerializeToString()
    b.works = (("", e.work),)
    if not e.changed:
        _vote_read_only(m, b)
    elif m.atomic:
        one_phase_durable(m, b, e)
    else:
        m.append(records.finished(b, common_pb2.OUTCOME_COMMITTED), b, "committed")


def one_phase_durable(m: Machine, b: Branch, e: Any) -> None:
    """The one-phase commit is durable: say so."""
    m.keep(b)
    b.durable = True
    m.finish(b, State.COMMITTED)
    say_one_phase(m, b)


def _of_prepare(m: Machine, b: Branch, call_id: str) -> None:
    if call_id or b.prepare is None or (b.calls is not None and not m.external):
        raise LocalProtocolError(f"{b.transaction_id}: {call_id!r} is not what runs")


# ---- votes


def _vote_yes(m: Machine, b: Branch) -> None:
    """From here the participant never decides alone (rule 8)."""
    m.keep(b)
    b.state = _PREPARED
    b.prepare = None
    b.attempts = 0
    if b.early:
        m.timers.set(("ask", b.transaction_id), m.now.monotonic + m.config.enlist_after_seconds)
        _answer_early(m, b, b.operation_count)
    else:
        m.ask_later(b)
        m.vote(b, YES)
    m.idle(b)


def _vote_read_only(m: Machine, b: Branch) -> None:
    """Nothing was changed: let go of everything and leave phase two."""
    m.finish(b, State.READ_ONLY)
    m.vote(b, READ_ONLY)


def vote_no(m: Machine, b: Branch, cause: common_pb2.Cause) -> None:
    """Roll back and vote NO. Remembered: a repeated Prepare must not get another vote. If nobody has asked yet, it is told then."""
    if not b.early_tickets:
        m.vote(b, NO, cause)
        roll_back(m, b, cause)
        return
    _answer_early(m, b, 0)
    roll_back(m, b, cause)
    ask_for_order(m, b)
