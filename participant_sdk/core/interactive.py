"""Handlers: enlisting, and the calls of interactive branches."""

from __future__ import annotations

from typing import Any

from participant_sdk.core import records
from participant_sdk.core.branches import Branch, CallEntry, Calls, Kind, State
from participant_sdk.core.events import Call
from participant_sdk.core.locks import Answer
from participant_sdk.core.machine import Machine
from participant_sdk.core.work import Execute, Executed, ExecuteRefused, Mode
from troth.errors import LocalProtocolError, Reason
from troth.v1 import common_pb2, participant_pb2

# ---- calls come


def call_unseen(m: Machine, b: Branch, e: Call) -> None:
    """Ask the coordinator to accept the branch; the call waits for that."""
    refusal = m.refuses_new() or _too_many(m)
    if refusal is not None:
        m.reply([e.ticket], cause=refusal)
        return
    b.first_attempt_ms = e.first_attempt_ms
    b.calls = Calls()
    m.adopt(b)
    b.state = State.ENLISTING
    _stand_in_line(m, b, e)
    m.timers.set(("enlist", b.transaction_id), m.now.monotonic + m.config.enlist_wait_seconds)
    enlist(m, b)


def call_active(m: Machine, b: Branch, e: Call) -> None:
    """Run it, or answer from knowledge."""
    if _new_call(m, b, e):
        _next_call(m, b)


def call_busy(m: Machine, b: Branch, e: Call) -> None:
    """Stand in line behind the call that runs or waits; a repeat joins it."""
    _new_call(m, b, e)


def call_late(m: Machine, b: Branch, e: Call) -> None:
    """Repeats are answered from knowledge; new work is refused, because the commit has begun."""
    if not _known(m, b, e):
        m.reply([e.ticket], cause=_not_active(m))


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
    refusal = _refusal(m, b)
    if refusal is not None:
        m.reply([e.ticket], cause=refusal)
        return False
    _stand_in_line(m, b, e)
    return True


def _refusal(m: Machine, b: Branch) -> common_pb2.Cause | None:
    if b.calls is None or any(kind is Kind.PREPARE for kind, _ in b.deferred):
        return _not_active(m)
    if m.stopping:
        return m.cause(Reason.SHUTTING_DOWN, "the participant is going down")
    if len(b.calls.known) >= m.config.operations_max:
        return m.cause(Reason.TOO_MANY_OPERATIONS, f"operations_max is {m.config.operations_max}")
    return _too_many(m)


def _too_many(m: Machine) -> common_pb2.Cause | None:
    if len(m.call_tickets) >= m.config.calls_waiting_max:
        return m.cause(Reason.OVERLOADED, f"calls_waiting_max is {m.config.calls_waiting_max}")
    return None


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


def _stand_in_line(m: Machine, b: Branch, e: Call) -> None:
    assert b.calls is not None
    entry = CallEntry(e, [e.ticket])
    b.calls.known[e.call_id] = entry
    b.calls.line.append(entry)
    m.call_tickets[e.ticket] = (b, entry)


# ---- enlisting


def enlist(m: Machine, b: Branch) -> None:
    """Ask the coordinator to accept the branch, again and again."""
    m.send("enlists", participant_pb2.Enlist(transaction_id=b.transaction_id))
    m.ask_later(b)
    b.attempts += 1


def ask_to_enlist(m: Machine, b: Branch, e: Any) -> None:
    """No answer yet: ask again."""
    enlist(m, b)


def enlisted(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """The branch is accepted: run the calls that waited. Or it is refused: so are they."""
    if e.HasField("refusal"):
        not_accepted(m, b, e.refusal)
        return
    m.timers.cancel(("enlist", b.transaction_id))
    b.order = e.order
    _next_call(m, b)


def enlist_timeout(m: Machine, b: Branch, e: Any) -> None:
    """The coordinator has not answered in time: refuse the calls."""
    seconds = m.config.enlist_wait_seconds
    not_accepted(m, b, m.cause(Reason.COORDINATOR_AWAY, f"the branch was not accepted within {seconds} s"))


def not_accepted(m: Machine, b: Branch, cause: common_pb2.Cause) -> None:
    """Refuse the calls of a branch that is not enlisted, and forget it."""
    refuse_line(m, b, cause)
    m.drop(b)


def learn_order(m: Machine, b: Branch, e: participant_pb2.Enlisted) -> None:
    """A repeated answer: learn the order, if it was not known."""
    if e.order and not b.order:
        b.order = e.order
        if b.state is State.ABORTED:
            m.index(b)


# ---- calls run


def _next_call(m: Machine, b: Branch) -> None:
    """Run the next call in line; without one the branch is ACTIVE and deferred events are taken."""
    assert b.calls is not None
    b.state = State.ACTIVE
    b.calls.current = None
    while b.calls.line:
        entry = b.calls.line.popleft()
        b.calls.current = entry
        answer = m.locks.request(b.transaction_id, (b.first_attempt_ms, b.transaction_id), entry.call.keys)
        if answer is Answer.GRANTED:
            run_call(m, b)
            return
        if answer is Answer.WAITS:
            b.state = State.WAITING
            m.timers.set(("lock", b.transaction_id), m.now.monotonic + m.config.lock_wait_seconds)
            return
        _answer(m, entry, cause=lock_refusal(m, answer))
        b.calls.current = None
    m.idle(b)


def lock_refusal(m: Machine, answer: Answer) -> common_pb2.Cause:
    """Why a lock request came to nothing."""
    if answer is Answer.FULL:
        return m.cause(Reason.OVERLOADED, f"lock_waiters_max is {m.config.lock_waiters_max}")
    return m.cause(Reason.CONFLICT, "an older transaction holds a lock that is needed")


def run_call(m: Machine, b: Branch) -> None:
    """The current call has its locks."""
    assert b.calls is not None and b.calls.current is not None
    b.state = State.EXECUTING
    call = b.calls.current.call
    work = Execute(
        b.transaction_id, call.call_id, (call.operation,), call.keys, b.first_attempt_ms, Mode.ACTIVE,
        earlier_changed=b.changed,
    )  # fmt: skip
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
    """Answer the call and run the next one."""
    calls = _current(b, e.call_id)
    if e.changed or not m.atomic:
        b.works = (*b.works, (e.call_id, e.work))
        b.begun = not m.atomic
    if e.changed:
        b.changed = True
        if m.atomic:
            m.keep(b)
    calls.succeeded += 1
    values = e.work.results.values
    end_call(m, b, result=values[0] if values else common_pb2.Value())


def call_refused(m: Machine, b: Branch, e: ExecuteRefused) -> None:
    """Answer the call; the branch goes on without it, unless all of its work is lost."""
    _current(b, e.call_id)
    if not e.branch_lost:
        end_call(m, b, cause=e.cause)
        return
    assert b.calls is not None and b.calls.current is not None
    _answer(m, b.calls.current, cause=e.cause)
    refuse_line(m, b, e.cause)
    b.cause = e.cause
    m.finish(b, State.ABORTED)


def _current(b: Branch, call_id: str) -> Calls:
    """The calls of a branch whose current call is this one."""
    calls = b.calls
    if calls is None or calls.current is None or calls.current.call.call_id != call_id:
        raise LocalProtocolError(f"{b.transaction_id}: the call {call_id!r} does not run")
    return calls


def end_call(m: Machine, b: Branch, *, result: common_pb2.Value | None = None, cause: common_pb2.Cause | None = None) -> None:
    """Answer the current call and run the next one."""
    assert b.calls is not None and b.calls.current is not None
    _answer(m, b.calls.current, result=result, cause=cause)
    _next_call(m, b)


def _answer(m: Machine, entry: CallEntry, *, result: common_pb2.Value | None = None, cause: common_pb2.Cause | None = None) -> None:
    entry.done = True
    entry.result, entry.cause = result, cause
    tickets, entry.tickets = entry.tickets, []
    m.reply(tickets, result=result, cause=cause)


# ---- calls go


def close_line(m: Machine, b: Branch) -> None:
    """The commit has begun: refuse every call that has not begun."""
    assert b.calls is not None
    if b.calls.line or b.state is State.WAITING:
        refuse_line(m, b, m.cause(Reason.NOT_ACTIVE, "the commit has begun"))


def refuse_line(m: Machine, b: Branch, cause: common_pb2.Cause) -> None:
    """Refuse every call that has not begun."""
    if b.calls is None:
        return
    if b.state is State.WAITING and b.calls.current is not None:
        m.leave_line(b)
        b.calls.line.appendleft(b.calls.current)
        b.calls.current = None
        b.state = State.ACTIVE
    for entry in b.calls.line:
        _answer(m, entry, cause=cause)
    b.calls.line.clear()


def cancelled(m: Machine, ticket: Any) -> None:
    """A caller is gone. The call is dropped when it has not begun and nobody else waits for it."""
    b, entry = m.call_tickets.pop(ticket)
    assert b.calls is not None
    entry.tickets.remove(ticket)
    if entry.tickets or (entry is b.calls.current and b.state is State.EXECUTING):
        return
    del b.calls.known[entry.call.call_id]
    if entry is b.calls.current:
        m.leave_line(b)
        _next_call(m, b)
    else:
        b.calls.line.remove(entry)
