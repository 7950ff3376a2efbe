"""Known-bad changes to keys, and to what is to be given back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from coordinator.core import (
    arrivals,
    beginning,
    book,
    checks,
    deciding,
    dropped,
    events,
    finishing,
    kept,
    keys,
    late,
    one_phase,
    operator,
    recovery,
    requests,
)
from coordinator.core import core as coordinator_core
from coordinator.core.book import Book
from coordinator.core.model import Participant, State, Transaction
from tests.sim.mutant import SCRIPTED, Mutant, adder, nothing, to
from troth import clock
from troth.errors import Reason, RequestError
from troth.keys import first_body_hash

KEPT: list[Mutant] = []

_mutant = adder(KEPT)

_scripted = adder(SCRIPTED)


# ---- what is asked under a key

_mutant("a question under a key is answered of the id that it names", "22", (requests, "get_by_key", to(lambda b, event: False)))


def _refused_first(original: Any) -> Any:
    def join(b: Book, session: Any, event: Any, claim: Any) -> bool:
        if len(b.live) >= b.settings.open_transactions_max:
            raise RequestError(Reason.OVERLOADED, "mutant")
        joined: bool = original(b, session, event, claim)
        return joined

    return join


_mutant("a retry is shed before its key is looked at", "22", (requests, "join", _refused_first))
_mutant("a retry waits for a settlement past its own time", "22", (one_phase, "tell_joiners", to(lambda b, txn: math.inf)))


def _frees_any(original: Any) -> Any:
    def evicted(b: Book, names: list[str]) -> None:
        done = [b.finished[name] for name in names]
        original(b, names)
        for one in done:
            if one.claim is not None:
                b.keys.pop(one.claim.key, None)

    return evicted


def _ageless(original: Any) -> Any:
    def check_key(b: Book, number: int, request: Any) -> None:
        if request.first_attempt_ms:
            original(b, number, request)

    return check_key


# Clients of the runs say when they began, and send a request as they sent it before: left to their transcript.
_scripted("a key needs no first attempt", "10", (beginning, "check_key", _ageless), (requests, "check_key", _ageless))
_scripted("the order of its branches is part of a request", "10", (keys, "body_hash", to(first_body_hash)))
_mutant("what is dropped frees a key that another holds by now", "10", (finishing, "evicted", _frees_any))
_scripted(
    "a key is kept by the end of its transaction alone", "12",
    (finishing, "_over", lambda original: _by_end_alone(original)),
)  # fmt: skip


def _by_end_alone(original: Any) -> Any:
    def over(b: Book) -> Any:
        whole = {name: b.finished[name] for name in b.keyed_commits}
        b.finished.update({name: replace(done, first_attempt_ms=0) for name, done in whole.items()})
        try:
            return original(b)
        finally:
            b.finished.update(whole)

    return over


def _believing(original: Any) -> Any:
    def start(self: clock.DurableClock, durable_ms: int, now: Any, *, loose: bool = False) -> None:
        original(self, max(durable_ms, now.wall_ms), now, loose=loose)

    return start


_mutant("what the wall clock says at a boot is believed", "12", (clock.DurableClock, "start", _believing))


def _by_age_alone(original: Any) -> Any:
    def check_age(b: Book, first_attempt_ms: int, *, keyed: bool) -> None:
        original(b, first_attempt_ms, keyed=False)

    return check_age


def _by_the_durable_clock(original: Any) -> Any:
    def is_old(b: Book, first_attempt_ms: int) -> bool:
        return b.clock_ms - first_attempt_ms > b.settings.retention_seconds * 1000

    return is_old


# Of these the machine's clock must go ahead and back within one run, and past the retention: left to their transcript.
_scripted("a new log holds to the first reading of its clock", "12", (recovery, "is_new", to(lambda replay: False)))
_scripted("a dropped key is new when two clocks agree", "12", (checks, "_check_age", _by_age_alone))
_scripted("the durable clock alone tells an age", "12", (checks, "is_old", _by_the_durable_clock))

# ---- votes that the protocol does not have there: every participant of the runs keeps to it, so these are left to their transcript

_scripted("what is no vote is dropped without a word", "2", (deciding, "_ended_by_itself", to(nothing)))
_scripted("a vote that takes another one back is a repeat", "2", (deciding, "_voted_otherwise", to(nothing)))
_scripted("a commit of what nobody knows is dropped without a word", "2", (late, "committed", to(nothing)))

# ---- what the retention has dropped, and what was never there

_mutant("a dropped commit is not known by its id", "19", (dropped.Dropped, "covers", to(lambda self, parsed: False)))
_mutant("an order for what never was becomes a record", "18", (operator, "_has_no_branch", to(nothing)), (
    late, "acknowledged", lambda original: _as_if_unordered(original),
))  # fmt: skip


def _as_if_unordered(original: Any) -> Any:
    def acknowledged(b: Book, participant: Participant, what: Any, *, ordered: bool, **more: Any) -> None:
        original(b, participant, what, ordered=False, **more)

    return acknowledged


def _untold(original: Any) -> Any:
    def tell(b: Book, participant: Participant, txn: Transaction, order: int) -> None:
        original(b, participant, txn, order)
        participant.in_doubt.discard(txn.id)

    return tell


_scripted(
    "a heuristic outcome is forgotten while somebody is told the decision", "18",
    (arrivals, "_tell_in_doubt", lambda original: _untold(original)),
)  # fmt: skip

# ---- what is given back


def _one_too_many(original: Any) -> Any:
    def see(b: Book, event: Any) -> None:
        original(b, events.AnswersSeen(event.session, event.below + 1))

    return see


_mutant("an answer is dropped one too early", "15", (coordinator_core._HANDLERS, events.AnswersSeen, _one_too_many))


def _bytes_kept(original: Any) -> Any:
    def drop(self: Book, session: Any, number: int) -> None:
        before = self.unseen_bytes
        original(self, session, number)
        self.unseen_bytes = before

    return drop


def _results_kept(original: Any) -> Any:
    def evicted(b: Book, names: list[str]) -> None:
        before = b.result_bytes
        original(b, names)
        b.result_bytes = before

    return evicted


_mutant("bytes of seen answers are not given back", "15, bounds", (book.Book, "drop_answer", _bytes_kept))
_mutant("bytes of dropped results are not given back", "12, bounds", (finishing, "evicted", _results_kept))
_mutant("a watcher that has left is told for ever", "bounds", (book.Book, "unwatch", to(nothing)))
_mutant("what was aborted under a key is kept for it", "bounds", (finishing, "_holds_key", to(lambda done: done.claim is not None)))
_mutant("questions are counted for ever", "bounds", (book.Book, "close", lambda original: _asked_for_ever(original)))
_scripted(
    "one-phase commits of a list count against its limit", "bounds",
    (arrivals, "_taken_at_once", to(lambda b, participant, report: False)),
)  # fmt: skip


def _asked_for_ever(original: Any) -> Any:
    def close(self: Book, txn: Transaction) -> None:
        asked = txn.id in self.asking
        original(self, txn)
        if asked:
            self.asking.add(txn.id)

    return close


# ---- results under keys


def _forgetting(original: Any) -> Any:
    def conclude(self: Any, now: Any) -> None:
        original(self, now)
        for one in (*self.book.live.values(), *self.book.finished.values()):
            self.book.give_back(one.claim)

    return conclude


def _unsaid(original: Any) -> Any:
    def record(b: Book, txn: Transaction, *rest: Any) -> Any:
        made = original(b, txn, *rest)
        said = getattr(made, made.WhichOneof("kind"))
        if said.HasField("claim"):
            said.claim.ClearField("result")
        return made

    return record


def _first_said(original: Any) -> Any:
    first: dict[tuple[Book, str], bytes] = {}  # by the book itself: the id of one that is gone is given again

    def take(b: Book, txn: Transaction, request: Any) -> Any:
        if txn.claim is not None and request.result:
            request.result = first.setdefault((b, txn.claim.key), request.result)
        return original(b, txn, request)

    return take


def _of_another(original: Any) -> Any:
    def answer_of(b: Book, entry: Any) -> Any:
        answer = original(b, entry)
        others = [done.claim.result for done in b.finished.values() if done.claim is not None and done.claim.key != entry.claim.key]
        answer.result = next(filter(None, others), answer.result)
        return answer

    return answer_of


def _not_given_back(original: Any) -> Any:
    def evicted(b: Book, names: list[str]) -> None:
        before = b.kept_bytes
        original(b, names)
        b.kept_bytes = before

    return evicted


def _without_counting(original: Any) -> Any:
    def take(b: Book, txn: Transaction, request: Any) -> None:
        if txn.claim is not None and request.result:
            txn.claim.result = request.result
            b.kept_bytes += len(request.result)

    return take


def _unforced(b: Book, txn: Transaction) -> None:
    finishing.finish(b, txn, State.COMMITTED)


_mutant("a result is lost by a restart", "result", (recovery.Replay, "conclude", _forgetting))
_mutant("a decision is recorded without its result", "result", (book.Book, "decided_record", _unsaid))
_mutant("a key is opened without its result", "result", (one_phase, "key_opened", _unsaid), (recovery, "key_opened", _unsaid))
_mutant("an end is recorded without its result", "result", (kept, "ended_record", _unsaid), (finishing, "ended_record", _unsaid))
_mutant("what an aborted attempt left stays under its key", "result", (deciding, "take", _first_said))
_mutant("a result is given back under another key", "result", (keys, "_answer_of", _of_another))
_mutant(
    "a result is told before it is durable where nothing has changed", "result",
    (deciding, "finish_unchanged", to(_unforced)), (one_phase, "finish_unchanged", to(_unforced)),
)  # fmt: skip
_mutant("bytes of forgotten results are not given back", "result, bounds", (finishing, "evicted", _not_given_back))
_mutant("results under keys are bounded by nothing", "result, bounds", (deciding, "take", _without_counting))
