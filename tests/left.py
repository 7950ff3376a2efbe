"""What the shells should have given back when nobody waits for anything: futures, tickets, streams, messages, places in crowds,
watchers, outboxes, queues and timers.

What is left behind does no harm in a test, and ends a process after months; so nothing that only looks at answers finds it. The
simulator's engine level asks at the end of every run, and so does every test of the shells when it has let go of its peers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from coordinator.server import Daemon
from participant_sdk.client.session import Session as ClientSession
from troth.engine import Engine


def _left(where: str, held: dict[str, Sized]) -> Iterator[str]:
    for what, there in held.items():
        if there:
            yield f"left: {where} still holds {len(there)} {what}"


def in_engine(where: str, engine: Engine) -> Iterator[str]:
    """Events and appends that wait, and a write that never ends. What nobody waits for may linger, for a known time."""
    due = [append for append in engine._queued if append.force or append.apply is not None or engine._lingers_until is None]
    yield from _left(where, {"events": engine._inbox, "appends": due})
    if engine._writing is not None:
        yield f"left: {where} still writes"


def in_daemon(daemon: Daemon) -> Iterator[str]:
    """What a daemon holds for peers that have all that they are owed."""
    context, sessions, streams = daemon._context, daemon._sessions._sessions, daemon._participants._streams
    yield from in_engine("C", daemon._engine)
    open_streams = len(streams) + sum(session.stream is not None for session in sessions.values())
    yield from _left(
        "C",
        {
            "numbers with unary callers": daemon._unary._waiting,
            "watches": context.watches.crowd,
            "tasks": daemon._tasks,
            "sessions that nobody ends": [one for one in sessions.values() if (one.stream is None) is (one.expiry is None)],
        },
    )
    if context.outboxes.held_bytes():
        yield f"left: C still holds {context.outboxes.held_bytes()} bytes in outboxes"
    places = {"outboxes": len(context.outboxes), "calls": context.calls.crowd.inside("calls")}
    for what, count in places.items():
        if count != open_streams:
            yield f"left: C counts {count} {what} for {open_streams} streams"
    if context.calls.crowd.inside("unary"):
        yield f"left: C counts {context.calls.crowd.inside('unary')} unary calls"


def in_participant(name: str, runtime: Any) -> Iterator[str]:
    """What a participant's runtime holds for a service and a coordinator that wait for nothing."""
    session = runtime._session
    machine = runtime.core._m
    yield from in_engine(name, runtime._engine)
    yield from _left(
        name,
        {
            "tickets": runtime._tickets,
            "calls": machine.call_tickets,
            "pieces of local work": machine.local,
            "lock owners to be told": machine.granted,
            "branches with deferred events": machine.rerun,
            "branches that are undone": machine.recovering,
            "messages": session._outbox or (),
            "jobs": runtime._driver._jobs._tasks if runtime._driver is not None else (),
            "locks": machine.locks._owners,
            "requests for locks": machine.locks._waiting,
        },
    )
    if session._reports_waiting or session._complete_due:
        yield f"left: {name} still has the end of its Hello to say"


def in_client(name: str, session: ClientSession) -> Iterator[str]:
    """What a client holds for callers who all have been told."""
    outbox = session._stream.outbox if session._stream is not None else ()
    held: dict[str, Sized] = {
        "transactions": session._open, "questions": session._questions, "callers in line": session._waiting, "messages": outbox,
    }  # fmt: skip
    yield from _left(name, held)
