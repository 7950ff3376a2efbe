"""Known-bad changes to deferred enlisting: who is taken into a commit, and who is found without having been taken."""

from __future__ import annotations

from typing import Any

from coordinator.core import arrivals, deciding, effects, requests
from coordinator.core.book import Book
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input, State
from participant_sdk.core import interactive, sessions
from participant_sdk.core.branches import Kind
from participant_sdk.core.branches import State as P
from participant_sdk.core.transitions import TABLE as T
from tests.sim.mutant import SCRIPTED, Mutant, adder, nothing, to
from troth.v1 import participant_pb2

DEFERRED: list[Mutant] = []

_mutant = adder(DEFERRED)

_scripted = adder(SCRIPTED)


# ---- the commit


def _believed(original: Any) -> Any:
    def name(b: Book, txn: Any, named: Any) -> Any:
        return original(b, txn, [item for item in named if not item.unknown])

    return name


_mutant(
    "a commit that names too few is believed", "4",
    (deciding, "name_branches", _believed), (requests, "name_branches", _believed),
)  # fmt: skip


def _whichever(original: Any) -> Any:
    def name(b: Book, txn: Any, item: Any) -> Any:
        known = b.participants.get(item.participant)
        if item.incarnation and known is not None:
            item.incarnation = known.incarnation
        return original(b, txn, item)

    return name


_scripted("the incarnation that a commit names is not compared", "3", (deciding, "_name_branch", _whichever))


def _only_named(original: Any) -> Any:
    def commit(b: Book, txn: Any, request: Any) -> None:
        named = {item.participant for item in request.acknowledged}
        for name in [name for name in txn.branches if name not in named]:
            b.end_branch(txn, txn.branches.pop(name))
        original(b, txn, request)

    return commit


_scripted("an announced branch is overlooked", "4", (C, (State.ACTIVE, Input.COMMIT), _only_named))

# ---- who is announced



def _without_an_end(original: Any) -> Any:
    def announced(b: Book, transaction_id: str) -> Any:
        txn = original(b, transaction_id)
        if txn is not None:
            b.timers.cancel(txn.id)
        return txn

    return announced


_scripted("an announced transaction waits for its client for ever", "15", (arrivals, "announced", _without_an_end))


# ---- the participant's side

# It goes on to ask with its order, and hears ABORT then: it is late, and not wrong.
_scripted("a refused announcement leaves the branch as it is", "5, 8", (T[P.ACTIVE], Kind.ENLISTED, to(interactive.learn_order)))
_mutant(
    "an active branch never announces itself", "8, 15",
    *((T[state], kind, to(nothing)) for state in (P.WAITING, P.EXECUTING, P.ACTIVE) for kind in (Kind.ENLIST_TIMEOUT, Kind.ASK)),
)  # fmt: skip


def _as_told(original: Any) -> Any:
    return lambda self, coordinator, transaction_id: True


_mutant(
    "work is done for another life of the coordinator, and survives it", "6, 9",
    (sessions.Sessions, "stands_in_life", _as_told), (T[P.ACTIVE], Kind.LOST, to(nothing)),
)  # fmt: skip


def _orderless(original: Any) -> Any:
    def refuse(b: Book, participant: Any, transaction_id: str, reason: Any) -> None:
        before = participant.next_order
        original(b, participant, transaction_id, reason)
        participant.next_order = before
        last = b.ready.effects[-1] if b.ready.effects else None
        if isinstance(last, effects.Send) and isinstance(last.message, participant_pb2.Enlisted):
            last.message.order = 0

    return refuse


_mutant(
    "the tombstone of a refused branch gets no order", "19",
    (arrivals, "refuse_enlist", _orderless), (deciding, "refuse_enlist", _orderless),
)  # fmt: skip
_mutant("a number that was answered begins late once more", "15", (requests, "is_unused", to(lambda b, session, number: True)))
