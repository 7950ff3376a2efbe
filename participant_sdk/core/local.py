"""Local work: `participant.local`, `participant.read` and changes of the schema.

It stands in the same lines for the same locks as branches do, so it never sees undecided data; it never dies, because its
caller has no transaction to try again, and it is bounded by a time limit instead. A change of the schema asks for the whole
resource, which it gets when nothing is undecided.

While it waits it holds those up that come behind it, or it would never be served; but only by turns, one for all local work
that waits: for a moment all of it bars those behind, then all of it lets them pass. Had each a turn of its own, one of many would
bar at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from participant_sdk.core.effects import LocalReply
from participant_sdk.core.events import LocalWork, SchemaChange
from participant_sdk.core.locks import LOCAL, Answer, conflict
from participant_sdk.core.work import WHOLE, Keys, LocalDone, LocalRun
from troth.errors import LocalProtocolError, Reason
from troth.ready import Append
from troth.v1 import record_pb2

if TYPE_CHECKING:
    from participant_sdk.core.machine import Machine


@dataclass(slots=True)
class LocalEntry:
    """One piece of local work, waiting or running."""

    event: LocalWork | SchemaChange
    running: bool = False
    abandoned: bool = False
    """Whether its caller is gone."""


@dataclass(slots=True)
class Turns:
    """Local work that waits, and whether those behind it pass it at present."""

    waiting: dict[Any, None] = field(default_factory=dict)
    """Tickets, first come first."""
    passing: bool = False


@dataclass(frozen=True, slots=True)
class LocalOwner:
    """Local work as an owner of locks; never equal to a transaction id."""

    ticket: Any


def begin(m: Machine, event: LocalWork | SchemaChange) -> None:
    """Run it, or let it stand in line."""
    ticket = event.ticket
    if ticket in m.local or ticket in m.call_tickets:
        raise LocalProtocolError(f"the ticket {ticket!r} was used before")
    if m.stopping:
        m.local_reply(ticket, m.cause(Reason.SHUTTING_DOWN, "the participant is going down"))
        return
    keys = event.keys if isinstance(event, LocalWork) else WHOLE
    if _waits_for_itself(m, event.inside, keys):
        what = f"it would wait for {event.inside}, in which it is called: read there by an operation, or after its end"
        m.local_reply(ticket, m.cause(Reason.INVALID_ARGUMENT, what))
        return
    answer = m.locks.request(LocalOwner(ticket), LOCAL, keys)
    if answer is Answer.FULL:
        m.local_reply(ticket, m.cause(Reason.OVERLOADED, f"lock_waiters_max is {m.config.lock_waiters_max}"))
        return
    m.local[ticket] = LocalEntry(event)
    if answer is Answer.GRANTED:
        run(m, ticket)
    else:
        m.timers.set(("local", ticket), m.now.monotonic + m.config.local_wait_seconds)
        _take_turn(m, ticket)


def _take_turn(m: Machine, ticket: Any) -> None:
    """It bars and lets pass together with the others that wait; the first one begins."""
    m.turns.waiting[ticket] = None
    if len(m.turns.waiting) == 1:
        m.turns.passing = True
        turn(m)
    elif m.turns.passing:
        m.granted.extend(m.locks.let_pass(LocalOwner(ticket), True))


def turn(m: Machine) -> None:
    """What waits has barred those behind it long enough: they pass, for a while. Then they are barred again."""
    passing = m.turns.passing = not m.turns.passing
    seconds = m.config.local_pass_seconds if passing else m.config.local_bar_seconds
    m.timers.set(("turn", None), m.now.monotonic + seconds)
    for ticket in m.turns.waiting:
        m.granted.extend(m.locks.let_pass(LocalOwner(ticket), passing))


def _wait_no_longer(m: Machine, ticket: Any) -> None:
    m.timers.cancel(("local", ticket))
    m.turns.waiting.pop(ticket, None)
    if not m.turns.waiting:
        m.timers.cancel(("turn", None))  # the next one bars at once


def _waits_for_itself(m: Machine, inside: str, keys: Keys) -> bool:
    """Whether the caller's own transaction holds what it asks for: it cannot end before this is answered."""
    return inside in m.locks.owners() and conflict(keys, m.locks.held(inside))


def run(m: Machine, ticket: Any) -> None:
    """It has its locks."""
    entry = m.local.get(ticket)
    if entry is None:
        return  # it left the line in the step in which it was granted
    assert not entry.running
    entry.running = True
    _wait_no_longer(m, ticket)
    event = entry.event
    write = isinstance(event, SchemaChange) or event.write
    work = LocalRun(ticket, event.function, write, isinstance(event, SchemaChange))
    if not m.atomic:
        m.invoke(work)
        return
    m.ready.appends.append(Append(_record(event), "", force=write, apply=work))
    # The resource works in the order of the log: whoever gets the locks now comes behind.
    m.granted.extend(m.locks.release(LocalOwner(ticket)))


def _record(event: LocalWork | SchemaChange) -> record_pb2.ParticipantRecord | None:
    if isinstance(event, LocalWork):
        return None
    return record_pb2.ParticipantRecord(schema_changed=record_pb2.SchemaChanged(statement=event.statement))


def done(m: Machine, event: LocalDone) -> None:
    """It has run."""
    entry = m.local.get(event.ticket)
    if entry is None or not entry.running:
        raise LocalProtocolError(f"local work {event.ticket!r} does not run")
    del m.local[event.ticket]
    m.granted.extend(m.locks.release(LocalOwner(event.ticket)))
    if not m.atomic and event.error is None and (record := _record(entry.event)) is not None:
        m.ready.appends.append(Append(record))
    if not entry.abandoned:
        m.ready.effects.append(LocalReply(event.ticket, event.value, event.error))


def timed_out(m: Machine, ticket: Any) -> None:
    """It has waited long enough."""
    if ticket not in m.local or m.local[ticket].running:
        return
    _leave(m, ticket)
    seconds = m.config.local_wait_seconds
    m.local_reply(ticket, m.cause(Reason.TIMEOUT, f"the locks were not free within {seconds} s"))


def cancelled(m: Machine, ticket: Any) -> None:
    """Its caller is gone."""
    if m.local[ticket].running:
        m.local[ticket].abandoned = True
    else:
        _leave(m, ticket)


def stop(m: Machine) -> None:
    """Refuse what waits."""
    for ticket in [ticket for ticket, entry in m.local.items() if not entry.running]:
        _leave(m, ticket)
        m.local_reply(ticket, m.cause(Reason.SHUTTING_DOWN, "the participant is going down"))


def _leave(m: Machine, ticket: Any) -> None:
    del m.local[ticket]
    _wait_no_longer(m, ticket)
    m.granted.extend(m.locks.withdraw(LocalOwner(ticket)))
    m.granted.extend(m.locks.release(LocalOwner(ticket)))

