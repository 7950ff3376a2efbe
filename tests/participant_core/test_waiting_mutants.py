"""Each rule of waiting is needed: with it broken, the tests of one table or of several find it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from participant_sdk.core import blocking
from participant_sdk.core.locks import STUCK, LockTable, Rank
from participant_sdk.core.work import NO_KEYS, Keys
from tests.participant_core import test_held_up, test_locks, test_waiting
from tests.participant_core.test_waiting import STEP, Town

QUICKLY = settings(max_examples=3000, deadline=None, phases=[Phase.generate], database=None)


@QUICKLY
@given(test_locks.STEPS, st.frozensets(test_locks.OWNERS, max_size=2))
def _one_table(steps: Any, local: frozenset[int]) -> None:
    test_locks.test_any_sequence.hypothesis.inner_test(steps, local)  # type: ignore[attr-defined]  # hypothesis puts it there


@QUICKLY
@given(st.lists(STEP, max_size=60))
def _several_tables(steps: Any) -> None:
    test_waiting.test_no_cycle_and_everybody_gets_on.hypothesis.inner_test(steps)  # type: ignore[attr-defined]  # as above


def _ranked(change: Callable[[Town, Any, int, Rank], Rank]) -> Callable[[Any], Any]:
    return lambda original: lambda self, txn, place: change(self, txn, place, original(self, txn, place))


def _requests(change: Callable[[Keys], Keys]) -> Callable[[Any], Any]:
    return lambda original: lambda self, owner, rank, keys: original(self, owner, rank, change(keys))


def _crowds() -> None:
    for seed in range(4000):
        test_waiting.a_crowd(seed)


def _never_itself(original: Any) -> Any:
    return lambda self, request: (rank for rank in original(self, request) if rank is not STUCK)


def _waits_for_what_it_finds(original: Any) -> Any:
    def find(self: Town, txn: Any, place: int, keys: Keys) -> None:
        if txn.over or place not in txn.granted or txn.interactive or len(txn.keys) == 1:
            original(self, txn, place, keys)
        else:
            rank = self._rank(txn, place)._replace(sequence=test_waiting.SEQUENCE)
            self._more(txn, place, self.tables[place].request(txn.name, rank, keys))

    return find


def _keeps_while_it_waits(original: Any) -> Any:
    def find(self: Town, txn: Any, place: int, keys: Keys) -> None:
        if txn.over or place not in txn.granted or txn.interactive or len(txn.keys) > 1:
            original(self, txn, place, keys)
        else:
            self._more(txn, place, self.tables[place].request(txn.name, self._rank(txn, place), keys))

    return find


def _taken_past_the_line(original: Any) -> Any:
    def take_if_free(self: LockTable, owner: Any, keys: Keys) -> bool:
        free = not any(key in self._exclusive or key in self._shared for key in (*keys.exclusive, *keys.shared))
        if free:
            self._take(owner, self._owners[owner].rank, keys)
        return free

    return take_if_free


def _never_given_back(original: Any) -> Any:
    def release(self: LockTable, owner: Any) -> Any:
        held = self._owners.get(owner)
        if held is not None and held.exclusive:
            held.exclusive.pop()
        return original(self, owner)

    return release


def _told_when_it_is_over(original: Any) -> Any:
    def release(self: LockTable, owner: Any) -> Any:
        before = dict(self._turned_away)
        granted = original(self, owner)
        self._turned_away.update(before)
        return granted

    return release


def _line_jumped(original: Any) -> Any:
    def conflicting(self: LockTable, request: Any) -> Any:
        return []

    return conflicting


MUTANTS: dict[str, tuple[Any, Any, str, Callable[[Any], Any]]] = {
    "a one-shot answers for itself alone": (
        _several_tables, Town, "_rank", _ranked(lambda self, txn, place, rank: rank._replace(eldest=rank.age)),
    ),
    "who came out of order waits in order": (
        _several_tables, Town, "_rank", _ranked(lambda self, txn, place, rank: rank._replace(sequence=test_waiting.SEQUENCE)),
    ),
    "everybody waits for everybody": (
        _several_tables, LockTable, "_may_wait", lambda original: staticmethod(lambda rank, other: True),
    ),
    "the younger waits": (
        _several_tables, LockTable, "_may_wait", lambda original: staticmethod(lambda rank, other: rank.age > other.eldest),
    ),
    "whoever stands behind one that is nowhere else does not look past it": (
        _crowds, LockTable, "_ranks_through", lambda original: lambda self, request: iter(()),
    ),
    "it looks past it, and takes itself for nobody": (
        test_locks.test_nobody_waits_for_itself_through_others, LockTable, "_ranks_through", _never_itself,
    ),
    "a one-shot with several branches waits for what it finds": (_crowds, Town, "find", _waits_for_what_it_finds),
    "one that is nowhere else keeps what it has while it waits": (
        test_waiting.test_who_is_nowhere_else_lets_go_before_it_waits, Town, "find", _keeps_while_it_waits,
    ),
    "what is free is taken past those in line": (
        test_locks.test_what_is_free_is_taken_past_nobody, LockTable, "take_if_free", _taken_past_the_line,
    ),
    "a lock is not given back": (_several_tables, LockTable, "release", _never_given_back),
    "shared is taken for nothing": (_one_table, LockTable, "request", _requests(lambda keys: Keys(keys.exclusive))),
    "nothing is locked": (_one_table, LockTable, "request", _requests(lambda keys: NO_KEYS)),
    "who was turned away is told to nobody": (
        test_held_up.test_who_waits_and_who_was_turned_away_is_counted_with_the_key_that_they_came_for, LockTable, "_turn_away",
        lambda original: lambda self, asked, blockers: None,
    ),
    "who was turned away is told when that is over": (
        test_held_up.test_who_waits_and_who_was_turned_away_is_counted_with_the_key_that_they_came_for, LockTable, "release",
        _told_when_it_is_over,
    ),
    "whom a key is about is told": (
        test_held_up.test_of_a_key_it_is_told_what_it_is_and_not_whom_it_is_about, blocking, "shortened",
        lambda original: lambda key: key,
    ),
    "the line is jumped": (_one_table, LockTable, "_conflicting_waiters", _line_jumped),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, where, what, change = MUTANTS[name]
    monkeypatch.setattr(where, what, change(getattr(where, what)))
    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        run()
