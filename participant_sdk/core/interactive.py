"""Handlers: enlisting, and the calls of interactive branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from participant_sdk.core import records
from participant_sdk.core.branches import Branch, CallEntry, Calls, Kind, State
from participant_sdk.core.events import Call
from participant_sdk.core.finishing import inquire, roll_back
from participant_sdk.core.line import answer, bytes_of, no_room, refuse_line, stand_in_line
from participant_sdk.core.locks import Answer, Rank
from participant_sdk.core.machine import Machine
from participant_sdk.core.undeclared import declares_nothing, waited
from participant_sdk.core.work import Execute, Executed, ExecuteRefused, Keys, Mode, Wanted
from troth.errors import LocalProtocolError, Reason
from troth.v1 import common_pb2, participant_pb2

# ---- calls come


def call_unseen(m: Machine, b: Branch, e: Call) -> None:
    """Run it, if its caller is told who did the work; otherwise ask the coordinator first. What lasts is announced."""
    refusal = m.refuses_new() or _too_many(m, e)
    if refusal is not None:
        m.reply([e.ticket], cause=refusal)
        return
    b.first_attempt_ms = e.first_attempt_ms
    b.calls = Calls()
    m.adopt(b)
    stand_in_line(m, b, e)
    m.timers.set(("enlist", b.transaction_id), m.now.monotonic + m.config.enlist_after_seconds)
    next_call(m, b)


def call_active(m: Machine, b: Branch, e: Call) -> None:
    """Run it, or answer from knowledge."""
    if _new_call(m, b, e):
        next_call(m, b)


def call_busy(m: Machine, b: Branch, e: Call) -> None:
    """Stand in line behind the call that runs or waits; a repeat joins it."""
    _new_call(m, b, e)


def call_late(m: Machine, b: Branch, e: Call) -> None:
    """Repeats are answered from knowledge; new work is refused, because the commit has begun, or its caller had said that there
    would be none."""
    if not _known(m, b, e):
        said = "its caller has made the last call to this service before"
        m.reply([e.ticket], cause=m.cause(Reason.NOT_ACTIVE, said) if b.early else _not_active(m))


def call_rolled_back(m: Machine, b: Branch, e: Call) -> None:
    """Refuse late work of a branch that was rolled back (rule 5)."""
    m.reply([e.ticket], cause=m.cause(Reason.ROLLED_BACK, "the branch was rolled back before"))


def call_expired(m: Machine, b: Branch, e: Call) -> None:
    """Refuse work below the watermark."""
    m.reply([e.ticket], cause=m.cause(Reason.EXPIRED, "the branch lies below the watermark"))


def _new_call(m: Machine, b: Branch, e: Call) -> bool:
    """Put a call into the line, unless it is known or refused."""
    if _known(m, b, e):
        return False
    refusal = _refusal(m, b, e)
    if refusal is not None:
        m.reply([e.ticket], cause=refusal)
        return False
    stand_in_line(m, b, e)
    return True


def _refusal(m: Machine, b: Branch, e: Call) -> common_pb2.Cause | None:
    if b.calls is None or any(kind is Kind.PREPARE for kind, _ in b.deferred):
        return _not_active(m)
    if m.stopping:
        return m.cause(Reason.SHUTTING_DOWN, "the participant is going down")
    if len(b.calls.known) >= m.config.operations_max:
        return m.cause(Reason.TOO_MANY_OPERATIONS, f"operations_max is {m.config.operations_max}")
    return _too_many(m, e)


def _too_many(m: Machine, e: Call) -> common_pb2.Cause | None:
    if len(m.call_tickets) >= m.config.calls_waiting_max:
        return m.cause(Reason.OVERLOADED, f"calls_waiting_max is {m.config.calls_waiting_max}")
    return no_room(m, e.operation.ByteSize())


def _not_active(m: Machine) -> common_pb2.Cause:
    return m.cause(Reason.NOT_ACTIVE, "the transaction is committing, or over")


def _known(m: Machine, b: Branch, e: Call) -> bool:
    """Answer a repeat from knowledge, or let it join what runs."""
    entry = None if b.calls is None else b.calls.known.get(e.call_id)
    if entry is None:
        return False
    if entry.done:
        m.reply([e.ticket], result=entry.result, cause=entry.cause)
    else:
        entry.tickets.append(e.ticket)
        m.call_tickets[e.ticket] = (b, entry)
    return True


# ---- enlisting


def enlist(m: Machine, b: Branch) -> None:
    """Announce the branch to the coordinator, again and again until it is answered."""
    m.send(b, "enlists", participant_pb2.Enlist(transaction_id=b.transaction_id))
    m.ask_later(b)
    b.attempts += 1


def announce(m: Machine, b: Branch, e: Any) -> None:
    """It lasts: announce it, so that abort, timeout and a dead client find it."""
    if not b.order:
        enlist(m, b)


def _await_enlisted(m: Machine, b: Branch) -> None:
    """The line waits until the coordinator has answered."""
    b.state = State.ENLISTING
    m.timers.set(("enlist", b.transaction_id), m.now.monotonic + m.config.enlist_wait_seconds)
    enlist(m, b)


def enlist_timeout(m: Machine, b: Branch, e: Any) -> None:
    """The coordinator has not answered in time: refuse the calls."""
    seconds = m.config.enlist_wait_seconds
    not_accepted(m, b, m.cause(Reason.COORDINATOR_AWAY, f"the branch was not accepted within {seconds} s"))


def not_accepted(m: Machine, b: Branch, cause: common_pb2.Cause) -> None:
    """Refuse the calls that wait in ENLISTING. A branch that has answered none is forgotten; any other goes on."""
    assert b.calls is not None
    answered = any(entry.done for entry in b.calls.known.values())
    refuse_line(m, b, cause)
    if answered:
        b.state = State.ACTIVE
        m.idle(b)
    else:
        m.drop(b)


def learn_order(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """The order is told, if it was not known."""
    m.learn_order(b, e.order)


def ask_active(m: Machine, b: Branch, e: Any) -> None:
    """Ask whether the transaction is still live; of a branch that has not been accepted, announce it again."""
    if b.order:
        inquire(m, b, participant_pb2.BRANCH_STATE_ACTIVE)
    else:
        enlist(m, b)


def enlisted(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """Its order is known now. Or it is refused, and that is final: roll back."""
    m.learn_order(b, e.order)
    if e.HasField("refusal"):
        roll_back(m, b, e.refusal)
    else:
        m.timers.cancel(("enlist", b.transaction_id))


def enlisted_in_line(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """The branch is accepted: run the calls that waited. Or it is refused, and so are they; what there was is rolled back."""
    m.learn_order(b, e.order)
    m.timers.cancel(("enlist", b.transaction_id))
    if not e.HasField("refusal"):
        next_call(m, b)
        return
    not_accepted(m, b, e.refusal)
    if b.state is State.ACTIVE:
        roll_back(m, b, e.refusal)


def enlisted_behind_call(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """Its order is known now. A refusal is taken when what runs has ended."""
    m.learn_order(b, e.order)
    if e.HasField("refusal"):
        m.defer(b, Kind.ENLISTED, e)


# ---- calls run


def next_call(m: Machine, b: Branch) -> None:
    """Run the next call in line; without one the branch is ACTIVE and deferred events are taken."""
    assert b.calls is not None
    b.state = State.ACTIVE
    b.calls.current = None
    while b.calls.line:
        if not b.order and not (b.calls.line[0].call.told and m.sessions.stands_in_life(b.coordinator, b.transaction_id)):
            _await_enlisted(m, b)
            return
        entry = b.calls.line.popleft()
        b.calls.current = entry
        entry.found = m.found.recall(b.first_attempt_ms, (entry.call.operation,))
        if entry.call.undeclared:
            declares_nothing(m, b, entry.call.undeclared)
        refusal = _lock(m, b, entry)
        if refusal is None:
            return
        answer(m, entry, cause=refusal)
        b.calls.current = None
    m.idle(b)


def _lock(m: Machine, b: Branch, entry: CallEntry) -> common_pb2.Cause | None:
    """Ask for the locks of the current call, and run it or let it wait, for them or for Enlisted. Returns why it can do neither."""
    age = (b.first_attempt_ms, b.transaction_id)
    keys = entry.call.keys.joined(entry.found)
    answer = m.locks.request(b.transaction_id, Rank(age, age), keys)
    if answer is Answer.GRANTED:
        run_call(m, b)
        return None
    waited(m, b, keys)
    if answer is Answer.WAITS:
        b.state = State.WAITING
        m.timers.set(("lock", b.transaction_id), m.now.monotonic + m.config.lock_wait_seconds)
    elif answer is Answer.FULL or not _ask_before_dying(m, b):
        return lock_refusal(m, answer)
    return None


def _ask_before_dying(m: Machine, b: Branch) -> bool:
    """Whether the current call waits for Enlisted before it dies of a lock: its holder may have ended long ago for all but us."""
    assert b.calls is not None and b.calls.current is not None
    if b.order or not m.stream_of(b):
        return False
    b.calls.line.appendleft(b.calls.current)
    b.calls.current = None
    _await_enlisted(m, b)
    return True


def lock_refusal(m: Machine, answer: Answer) -> common_pb2.Cause:
    """Why a lock request came to nothing."""
    if answer is Answer.FULL:
        return m.cause(Reason.OVERLOADED, f"lock_waiters_max is {m.config.lock_waiters_max}")
    return m.cause(Reason.CONFLICT, "an older transaction holds a lock that is needed")


def run_call(m: Machine, b: Branch) -> None:
    """The current call has its locks."""
    assert b.calls is not None and b.calls.current is not None
    b.state = State.EXECUTING
    call, keys = b.calls.current.call, b.calls.current.call.keys.joined(b.calls.current.found)
    work = Execute(
        b.transaction_id, call.call_id, (call.operation,), keys, b.first_attempt_ms, Mode.ACTIVE, earlier_changed=b.changed
    )
    if m.atomic:
        m.append(records.active(b, call.call_id), b, force=False, apply=work)
    else:
        m.invoke(work)


def call_lock_timeout(m: Machine, b: Branch) -> None:
    """The current call waited for locks long enough."""
    m.leave_line(b)
    seconds = m.config.lock_wait_seconds
    end_call(m, b, cause=m.cause(Reason.CONFLICT, f"the locks were not free within {seconds} s"))


def call_executed(m: Machine, b: Branch, e: Executed) -> None:
    """Answer the call and run the next one; or roll the branch back, if there is no room for what it brought."""
    calls = _current(b, e.call_id)
    if e.changed or not m.atomic:
        b.works = (*b.works, (e.call_id, e.work))
        b.begun = not m.atomic
    if e.changed:
        b.changed = True
        if m.atomic:
            m.keep(b)
    refusal = no_room(m, bytes_of(e))
    if refusal is not None and calls.current is not None:
        answer(m, calls.current, cause=refusal)
        roll_back(m, b, refusal)
        ask_for_order(m, b)
        return
    m.hold_bytes(calls, bytes_of(e))
    calls.succeeded += 1
    values = e.work.results.values
    end_call(m, b, result=values[0] if values else common_pb2.Value())


def call_refused(m: Machine, b: Branch, e: ExecuteRefused) -> None:
    """Answer the call; the branch goes on without it, unless all of its work is lost. Before it dies of a row it asks."""
    _current(b, e.call_id)
    if not e.branch_lost:
        if e.cause.reason != Reason.CONFLICT.name or not _ask_before_dying(m, b):
            end_call(m, b, cause=e.cause)
        return
    assert b.calls is not None and b.calls.current is not None
    answer(m, b.calls.current, cause=e.cause)
    refuse_line(m, b, e.cause)
    b.cause = e.cause
    m.finish(b, State.ABORTED)
    ask_for_order(m, b)


def ask_for_order(m: Machine, b: Branch, e: Any = None) -> None:
    """Ask for its order until that is told: without one no watermark of this epoch lets the tombstone be forgotten.

    So it is with what is rolled back without anybody's word, or by a restart. Question and answer may be lost (seed 4165).
    """
    if not b.order:
        enlist(m, b)


def call_wanted(m: Machine, b: Branch, e: Wanted) -> None:
    """It needs more keys and has left nothing: it asks for them as for any others and runs again. What was deferred goes first."""
    entry = _current(b, e.call_id).current
    assert entry is not None
    refusal = keep_found(m, b, entry, (entry.call.operation,), e.keys)
    if refusal is None and b.deferred:
        refusal = m.cause(Reason.CONFLICT, "it would have to run again, and the transaction is ending")
    refusal = refusal or _lock(m, b, entry)
    if refusal is not None:
        end_call(m, b, cause=refusal)


def keep_found(
    m: Machine, b: Branch, place: Branch | CallEntry, operations: Sequence[common_pb2.Operation], keys: Keys
) -> common_pb2.Cause | None:
    """Add keys that operations were found to need, for this attempt and for the next. Returns why they are refused."""
    if place.finds >= m.config.finds_max:
        text = f"locks were asked for one after the other more than {m.config.finds_max} times: lock() takes several keys"
        return m.cause(Reason.OPERATION_FAILED, text)
    place.finds += 1
    place.found = place.found.joined(keys)
    m.found.remember(b.first_attempt_ms, operations, place.found)
    return None


def _current(b: Branch, call_id: str) -> Calls:
    """The calls of a branch whose current call is this one."""
    calls = b.calls
    if calls is None or calls.current is None or calls.current.call.call_id != call_id:
        raise LocalProtocolError(f"{b.transaction_id}: the call {call_id!r} does not run")
    return calls


def end_call(m: Machine, b: Branch, *, result: common_pb2.Value | None = None, cause: common_pb2.Cause | None = None) -> None:
    """Answer the current call and run the next one."""
    assert b.calls is not None and b.calls.current is not None
    answer(m, b.calls.current, result=result, cause=cause)
    next_call(m, b)


# ---- calls go


def close_line(m: Machine, b: Branch) -> None:
    """The commit has begun: refuse every call that has not begun."""
    assert b.calls is not None
    m.locks.finishing(b.transaction_id)
    if b.calls.line or b.state is State.WAITING:
        refuse_line(m, b, m.cause(Reason.NOT_ACTIVE, "the commit has begun"))


def cancelled(m: Machine, ticket: Any) -> None:
    """A caller is gone. The call is dropped when it has not begun and nobody else waits for it."""
    b, entry = m.call_tickets.pop(ticket)
    assert b.calls is not None
    entry.tickets.remove(ticket)
    if entry.tickets or (entry is b.calls.current and b.state is State.EXECUTING):
        return
    del b.calls.known[entry.call.call_id]
    m.hold_bytes(b.calls, -entry.call.operation.ByteSize())
    if entry is b.calls.current:
        m.leave_line(b)
        next_call(m, b)
    else:
        b.calls.line.remove(entry)
