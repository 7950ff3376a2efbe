"""Which races a run came to: counted as the coordinator meets them, so that a sweep can say that it met them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.core import effects as out
from coordinator.core import events as into
from coordinator.core.beginning import is_unused
from coordinator.core.book import Book
from coordinator.core.model import State
from tests.sim.world import World
from troth.v1 import participant_pb2

DECIDED = (State.DECIDING, State.COMMITTING)
FORCED = (participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT, participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT)
CAUSES = {
    "PARTICIPANT_RESTARTED": "two incarnations in one transaction",
    "TIMEOUT": "a participant that did not answer in time",
    "CONFLICT": "conflicting locks",
    "OVERLOADED": "new transactions shed",
    "OPERATOR_ABORT": "operator's abort against the votes",
    "EXPIRED": "retry after the retention",
    "CLOCK_SKEW": "first attempt in the future",
}
"""What an answer's cause tells of the race that was run."""


def watch_event(world: World, book: Book, event: Any) -> None:
    """Look at an event before the coordinator takes it."""
    watch = _EVENTS.get(type(event))
    if watch is not None:
        watch(world, book, event)


def _run(world: World, book: Book, event: into.Run) -> None:
    entry = book.keys.get(event.request.key)
    if entry is not None and entry.live is not None and entry.live.state is State.SETTLING:
        world.reach("key retry against a restarted coordinator")


def _abort(world: World, book: Book, event: into.Abort) -> None:
    txn = book.live.get(f"{event.session}.{event.request.number}")
    if txn is not None and txn.state is State.HANDED_OVER:
        world.reach("one-phase against a client's abort")


def _opened(world: World, book: Book, event: into.SessionOpened) -> None:
    session = book.sessions.get(event.session)
    if session is not None and any(txn.state in DECIDED for txn in session.live.values()):
        world.reach("reconnected between decision and answer")


def _said(world: World, book: Book, event: into.FromParticipant) -> None:
    if isinstance(event.message, participant_pb2.Acknowledgement) and event.message.kind in FORCED:
        world.reach("forced branch reported to the coordinator")
    elif isinstance(event.message, participant_pb2.Enlist):
        prefix, _, number = event.message.transaction_id.rpartition(".")
        session = book.sessions.get(prefix)
        if session is not None and is_unused(book, session, int(number)):
            world.reach("branch announced before its client was heard of")


def _durable(world: World, book: Book, event: into.Durable) -> None:
    if event.what == "horizon" and any(txn.state is State.COMMITTING for txn in book.live.values()):
        world.reach("retention passed while in doubt")


_EVENTS: dict[type, Callable[[World, Book, Any], None]] = {
    into.Run: _run,
    into.Abort: _abort,
    into.SessionOpened: _opened,
    into.FromParticipant: _said,
    into.Durable: _durable,
}


def watch_effect(world: World, book: Book, effect: Any) -> None:
    """Look at an effect before it is carried out."""
    if isinstance(effect, out.Send):
        message: Any = effect.message
        if effect.field == "enlisted" and message.refusal.reason == "ENLIST_CLOSED":
            world.reach("enlist against the commit")
        elif effect.field == "settles":
            txn = book.live.get(message.transaction_id)
            if txn is not None and txn.session is not None and txn.deadline <= world.now:
                world.reach("one-phase against the timer")
    elif isinstance(effect, out.Answered):
        race = CAUSES.get(effect.answer.cause.reason)
        if race is not None:
            world.reach(race)
