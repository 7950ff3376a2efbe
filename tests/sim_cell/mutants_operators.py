"""Known-bad changes to what operators of a cell are told, and to what becomes of their orders when shards change hands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coordinator.cell import merging
from coordinator.core import arrivals, core, events, forgetting, hello, listing, operator, recovery
from coordinator.core.effects import Administered
from tests.sim.mutant import Mutant, adder, to
from tests.sim_cell.desk import Call, Desk
from tests.sim_cell.nodes import Cell
from tests.sim_cell.owned import Owned
from troth.ids import service_of
from troth.v1 import admin_pb2, record_pb2

MUTANTS: list[Mutant] = []

_mutant = adder(MUTANTS)

TRUE = "what an operator is told is true, and durable"
LISTED = "nothing is left that nobody can list"


# ---- before it is durable


def _answered_at_once(book: Any, event: events.Administer) -> None:
    book.ready.effects.append(Administered(event.ticket, operator._HANDLERS[type(event.request)](book, event.request)))


_mutant("an order is answered before it is durable", TRUE, (core._HANDLERS, events.Administer, to(_answered_at_once)))


def _found_at_once(original: Any) -> Any:
    def administer(book: Any, event: events.Administer) -> None:
        original(book, event)
        book.ready.effects += book.answers_held
        book.answers_held = []

    return administer


_mutant("what is only being written is answered as done", TRUE, (core._HANDLERS, events.Administer, _found_at_once))
_mutant(
    "an order is taken by who was fenced, and answered from its memory", TRUE,
    (core._HANDLERS, events.Administer, to(_answered_at_once)), (Owned, "may_speak", to(lambda self: True)),
    (Owned, "hold", to(lambda self: True)),
)  # fmt: skip


# ---- several shards


def _done_if_one_has(answers: Sequence[Any]) -> Any:
    response = type(answers[0])()
    refusals = [answer.refusal for answer in answers if answer.HasField("refusal")]
    if len(refusals) == len(answers):
        response.refusal.CopyFrom(refusals[0])
    return response


def _without_the_silent(original: Any) -> Any:
    def together(self: Call, answers: Sequence[Any]) -> Any:
        heard = [answer for answer in answers if answer is not None]
        return original(self, heard or answers)

    return together


def _without_the_last(original: Any) -> Any:
    return lambda request, pages: original(request, pages[:-1])


def _whole_pages(original: Any) -> Any:
    """Each page up to its own end, be there more behind it that comes before."""
    return lambda places, cut, limit, *, newest_first=False: len(places)


_mutant("an order that one shard has refused is told as done", TRUE, (merging, "orders", to(_done_if_one_has)))
_mutant("a shard that does not answer is left out", TRUE, (Call, "together", _without_the_silent))
_mutant("a listing misses a shard", LISTED, (merging, "transactions", _without_the_last))
_mutant("pages of shards are put together to their ends", LISTED, (merging, "_kept", _whole_pages))
_mutant(
    "a transaction is asked about where its key would be", "any node knows whose a transaction is",
    (Desk, "shards_of", lambda original: lambda self, request: _by_hash(original(self, request), self.cell)),
)  # fmt: skip


def _by_hash(shards: Sequence[str], cell: Cell) -> Sequence[str]:
    return shards if len(shards) > 1 else (cell.of_key(shards[0]),)


# ---- the next owner


def _reads_no_end(self: Any, report: record_pb2.Heuristic, at_ms: int) -> str:
    return report.transaction_id


def _forgets_nothing(self: Any, forgotten: record_pb2.Forgotten, at_ms: int) -> str:
    return forgotten.transaction_id


_mutant("the next owner does not read how branches were ended", LISTED, (recovery._READERS, "heuristic", to(_reads_no_end)))
_mutant("the next owner does not read what was forgotten", TRUE, (recovery._READERS, "forgotten", to(_forgets_nothing)))


# ---- participants


def _routes_to_nobody(original: Any) -> Any:
    """The service of the last slot that was forgotten stays."""

    def forget(book: Any, participant: Any, record: Any) -> None:
        original(book, participant, record)
        book.slots.setdefault(service_of(participant.name), [])

    return forget


_mutant(
    "a service stays when its last slot is forgotten", "work is refused, and nobody ends", (forgetting, "drop", _routes_to_nobody),
    (recovery, "drop", _routes_to_nobody),
)  # fmt: skip


def _of_whoever_is_known(book: Any, name: str, stream: int, identity: Any) -> None:
    participant = book.participants[name]
    if participant.identity == identity:
        participant.bound = identity
        if participant.stream == stream:
            hello._welcome(book, participant)


_mutant("who was forgotten while it was bound is looked for", "nobody ends", (hello, "bound", to(_of_whoever_is_known)))


def _waits_for_ever(original: Any) -> Any:
    """Who was given up is waited for whenever it is away, however often it was back."""

    def heard_out(book: Any, participant: Any) -> None:
        given_up = set(participant.given_up)
        original(book, participant)
        participant.given_up |= given_up

    return heard_out


_mutant(
    "who was given up is waited for again, each time that it is away", LISTED, (arrivals, "heard_out", _waits_for_ever),
    (hello, "heard_out", _waits_for_ever),
)  # fmt: skip


def _taken_all_the_same(book: Any, request: Any) -> None:
    return None


_mutant("an order is taken by a start that is refused", "21", (operator, "_not_begun", to(_taken_all_the_same)))


# That who was forgotten has nothing that is asked for is caught by tests.coordinator_core.test_forgetting: since a log that takes a
# name over is not believed (decision 81) it takes a service of two slots one of which was forgotten, and here 4,000 seeds had none.


# ---- seeing


def _slow_by_itself(original: Any) -> Any:
    def wanted(request: admin_pb2.ListTransactionsRequest) -> Any:
        found = original(request)
        if found is None:
            return None
        return lambda one, names, until_ms: until_ms >= one.first_attempt_ms and found(one, names, until_ms)

    return wanted


_mutant("a key of a client whose clock is ahead is not found", LISTED, (listing, "_wanted", _slow_by_itself))

