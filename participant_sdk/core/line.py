"""The line of calls of an interactive branch, and the bytes that all such lines hold.

Calls, their results and their work are kept until the branch is over: a repeat is answered from them, and a rollback needs them.
So they are bounded in bytes, over all branches. Past the bound no call is taken on. What a call has brought when it ended is not
known before it ran: one for which there is no room ends its branch, so that the bound holds whatever was returned.
"""

from __future__ import annotations

from participant_sdk.core.branches import Branch, CallEntry, State
from participant_sdk.core.events import Call
from participant_sdk.core.machine import Machine
from participant_sdk.core.work import Executed
from troth.errors import Reason
from troth.v1 import common_pb2


def stand_in_line(m: Machine, b: Branch, e: Call) -> None:
    """A new call waits until those before it have ended."""
    assert b.calls is not None
    entry = CallEntry(e, [e.ticket])
    b.calls.known[e.call_id] = entry
    b.calls.line.append(entry)
    m.call_tickets[e.ticket] = (b, entry)
    m.hold_bytes(b.calls, e.operation.ByteSize())


def answer(
    m: Machine, entry: CallEntry, *, result: common_pb2.Value | None = None, cause: common_pb2.Cause | None = None
) -> None:
    """Answer everybody who waits for a call, and whoever repeats it."""
    entry.done = True
    entry.result, entry.cause = result, cause
    tickets, entry.tickets = entry.tickets, []
    m.reply(tickets, result=result, cause=cause)


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
        answer(m, entry, cause=cause)
    b.calls.line.clear()


def no_room(m: Machine, more: int = 0) -> common_pb2.Cause | None:
    """Why so many more bytes cannot be held, if so."""
    if m.calls_bytes + more <= m.config.calls_bytes_max:
        return None
    return m.cause(Reason.OVERLOADED, f"calls_bytes_max is {m.config.calls_bytes_max}")


def bytes_of(e: Executed) -> int:
    """What is kept of a call that has ended well: its result, and its work, which may hold that once more."""
    return e.work.ByteSize() + e.work.results.ByteSize()
