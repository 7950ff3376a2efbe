"""Known-bad changes to who waits for whom, and to how long locks are held; each must be caught by a run of this level."""

from __future__ import annotations

from typing import Any

from coordinator.core.book import Book
from participant_sdk.core import interactive, voting
from participant_sdk.core import locks as lock_table
from participant_sdk.core.locks import LockTable, Rank
from participant_sdk.core.machine import Machine
from participant_sdk.core.work import Keys
from tests.sim.mutant import Mutant, Patch, adder, nothing, to

MUTANTS: list[Mutant] = []

_mutant = adder(MUTANTS)


# ---- who waits for whom


def _lines_that_are_jumped(self: LockTable, request: Any) -> Any:
    return []


_mutant("the order of the line is ignored", "23", (LockTable, "_conflicting_waiters", to(_lines_that_are_jumped)))
_mutant(
    "everybody may wait for everybody", "23", (LockTable, "_may_wait", to(staticmethod(lambda rank, other: True))),
    (LockTable, "_must_not_wait", to(lambda self, request, blockers: False)),
)  # fmt: skip
_mutant(
    "the younger waits for the older", "23",
    (LockTable, "_may_wait", to(staticmethod(lambda rank, other: rank.age > other.age or rank.sequence == other.sequence != ""))),
)  # fmt: skip


def _granted_backwards(original: Any) -> Any:
    def candidates(self: LockTable, freed: Keys) -> Any:
        return list(reversed(original(self, freed)))

    return candidates


_mutant(
    "who came last is served first", "23", (LockTable, "_candidates", _granted_backwards),
    (LockTable, "_conflicting_waiters", to(_lines_that_are_jumped)),
)  # fmt: skip


def _waits_for_what_it_finds(original: Any) -> Any:
    def wanted(m: Machine, b: Any, e: Any) -> None:
        if b.one_phase or b.deferred:
            original(m, b, e)
            return
        b.found = b.found.joined(e.keys)
        rank = Rank((b.first_attempt_ms, b.transaction_id), (0, ""), b.transaction_id.rsplit(".", 2)[0])
        answer = m.locks.request(b.transaction_id, rank, e.keys)
        if answer is lock_table.Answer.GRANTED:
            voting.run_prepare(m, b)
        else:
            b.state = voting.State.WAITING
            m.timers.set(("lock", b.transaction_id), m.now.monotonic + m.config.lock_wait_seconds)

    return wanted


def _wanted_patches() -> tuple[Patch, ...]:
    from participant_sdk.core.branches import Kind, State
    from participant_sdk.core.transitions import TABLE

    return ((TABLE[State.PREPARING], Kind.WANTED, _waits_for_what_it_finds),)


_mutant("a one-shot with several branches waits for what it finds", "23", *_wanted_patches())


# ---- what is locked


def _not_alone(one: Keys, other: Keys) -> bool:
    """Shared keys are taken for free whoever has them alone."""
    return any(key in other.exclusive for key in one.exclusive)


def _shared_is_always_free(original: Any) -> Any:
    def conflicting(self: LockTable, request: Any) -> Any:
        held = self._owners
        yield from (other for other in original(self, request) if _not_alone(request.keys, held[other].keys))

    return conflicting


_mutant(
    "a shared lock is granted over one that somebody has alone", "23", (lock_table, "conflict", to(_not_alone)),
    (LockTable, "_conflicting_holders", _shared_is_always_free),
)  # fmt: skip


def _takes_whatever_it_finds(self: LockTable, owner: Any, keys: Keys) -> bool:
    return True


_mutant("a found key is taken for granted", "23", (LockTable, "take_if_free", to(_takes_whatever_it_finds)))
_mutant(
    "an operation runs with the keys that it declared", "23", (LockTable, "take_if_free", to(_takes_whatever_it_finds)),
    (Keys, "lacks", to(lambda self, other: False)),
)  # fmt: skip


# ---- how long


def _lets_go_at_its_vote(original: Any) -> Any:
    def vote_yes(m: Machine, b: Any) -> None:
        original(m, b)
        m.release_locks(b)

    return vote_yes


_mutant("locks are let go at the vote", "23", (voting, "_vote_yes", _lets_go_at_its_vote))


def _lets_readers_go(original: Any) -> Any:
    def vote_yes(m: Machine, b: Any) -> None:
        original(m, b)
        if not m.locks.held(b.transaction_id).exclusive:
            m.release_locks(b)

    return vote_yes


_mutant("locks of who only read are let go at the vote, asked for or not", "23", (voting, "_vote_yes", _lets_readers_go))


def _does_not_ask_to_hold(original: Any) -> Any:
    def send_prepare(self: Book, txn: Any, *arguments: Any, **options: Any) -> None:
        txn.hold_read_locks = False
        original(self, txn, *arguments, **options)

    return send_prepare


_mutant("the coordinator does not pass on that read locks are to be held", "23", (Book, "send_prepare", _does_not_ask_to_hold))


def _lets_go_of_a_call(original: Any) -> Any:
    def call_executed(m: Machine, b: Any, e: Any) -> None:
        original(m, b, e)
        if b.state is interactive.State.ACTIVE and not m.locks.held(b.transaction_id).exclusive:
            m.release_locks(b)

    return call_executed


def _executed_patches() -> tuple[Patch, ...]:
    from participant_sdk.core.branches import Kind, State
    from participant_sdk.core.transitions import TABLE

    return ((TABLE[State.EXECUTING], Kind.EXECUTED, _lets_go_of_a_call),)


_mutant("an interactive call that only read lets its locks go", "23", *_executed_patches())
_mutant("nobody is told that locks are free", "23", (LockTable, "_grant", to(lambda self, freed: [])))
_mutant("locks are not let go at the end", "23", (Machine, "release_locks", to(nothing)))
