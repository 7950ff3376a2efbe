"""Whom a branch in doubt holds up: what the lock table counts for people, within bounds, and what a question tells of it."""

from __future__ import annotations

from hashlib import sha256

import pytest

from participant_sdk.core import locks
from participant_sdk.core.blocking import blocks, shortened
from participant_sdk.core.held_up import KEYS_TOLD_MAX, HeldUp
from participant_sdk.core.locks import LOCAL, Answer, LockTable
from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, Keys
from tests.participant_core.test_locks import alone, by_age, shared

NOBODY = HeldUp(0, 0, ())


def test_who_waits_and_who_was_turned_away_is_counted_with_the_key_that_they_came_for() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), alone("x", "y")) is Answer.GRANTED
    assert table.request("free", by_age(6), alone("z")) is Answer.GRANTED
    assert table.held_up("a") == NOBODY == table.held_up("stranger")
    assert table.request("b", by_age(9), alone("y")) is Answer.DIES
    assert table.held_up("a") == NOBODY, "whoever dies of one that ends is told to nobody"
    assert table.request("b", by_age(4), alone("y", "w")) is Answer.WAITS
    table.stuck("a")
    assert table.request("c", by_age(3), alone("w", "x")) is Answer.DIES
    assert table.request("c", by_age(3), alone("x")) is Answer.DIES
    assert table.held_up("a") == HeldUp(1, 2, ("x", "y")) and table.held_up("free") == NOBODY
    assert table.release("a") == ["b"] and table.held_up("a") == NOBODY
    assert table.request("a", by_age(5), alone("x")) is Answer.GRANTED and table.held_up("a") == NOBODY, "it begins anew"


def test_who_only_reads_the_same_is_not_held_up() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), Keys(("y",), ("x",))) is Answer.GRANTED
    assert table.request("b", by_age(6), shared("x")) is Answer.GRANTED
    assert table.request("c", by_age(4), alone("x")) is Answer.WAITS
    assert table.request("d", by_age(3), shared("x")) is Answer.WAITS, "behind c"
    assert table.held_up("a") == HeldUp(1, 0, ("x",))
    table.stuck("b")
    assert table.request("e", by_age(2), alone("x")) is Answer.DIES
    assert table.held_up("b") == HeldUp(1, 1, ("x",)), "it is c that waits for it, too"


def test_the_whole_resource_is_a_key_as_well() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("b", by_age(4), alone("x")) is Answer.WAITS
    assert table.request("c", by_age(3), SHARED_WHOLE) is Answer.WAITS, "behind b"
    assert table.held_up("a") == HeldUp(1, 0, ("*",))
    table = LockTable(9)
    assert table.request("a", by_age(5), NO_KEYS) is Answer.GRANTED
    table.stuck("a")
    assert table.request("b", by_age(4), WHOLE) is Answer.DIES
    assert table.request("local", LOCAL, WHOLE) is Answer.WAITS
    assert table.held_up("a") == HeldUp(1, 1, ("*",))


def test_not_more_is_looked_at_and_kept_than_there_is_time_and_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOOKED_AT_MAX", 4)
    table = LockTable(99)
    for number in range(6):
        assert table.request(f"a{number}", by_age(50 + number), alone(f"k{number}")) is Answer.GRANTED
        table.stuck(f"a{number}")
        for _ in range(2):
            assert table.request("b", by_age(9), alone(f"k{number}")) is Answer.DIES
        assert table.held_up(f"a{number}").turned_away == (2 if number < 4 else 0)
    assert table.request("b", by_age(9), WHOLE) is Answer.DIES
    assert [table.held_up(f"a{number}").turned_away for number in range(6)] == [3, 3, 3, 3, 0, 0]
    for number in range(6):
        assert table.request(f"local{number}", LOCAL, WHOLE) is Answer.WAITS
    assert table.held_up("a0").waiting == 4
    many = LockTable(99)
    names = [f"k{number}" for number in range(5)]
    assert many.request("a", by_age(5), alone(*names)) is Answer.GRANTED
    many.stuck("a")
    for name in names:
        assert many.request("b", by_age(1), alone(name)) is Answer.DIES
    assert many.held_up("a") == HeldUp(0, 5, tuple(names[:KEYS_TOLD_MAX]))
    assert many.request("local", LOCAL, alone("k4")) is Answer.WAITS
    assert many.held_up("a").waiting == 0, "the fifth key was not looked at"


def test_of_a_key_it_is_told_what_it_is_and_not_whom_it_is_about() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), Keys(("account/alice/7", "bob"), ("rates",))) is Answer.GRANTED
    for key in ("account/alice/7", "bob"):
        assert table.request(key, by_age(1), alone(key)) is Answer.WAITS
    told = blocks(table, "a")
    digits = [sha256(key.encode()).hexdigest()[:16] for key in ("account/alice/7", "bob")]
    assert (told.lock_keys, told.waiting, told.turned_away) == (3, 2, 0)
    assert list(told.keys) == [f"account/#{digits[0]}", f"#{digits[1]}"]
    assert b"alice" not in told.SerializeToString() and b"bob" not in told.SerializeToString()
    assert shortened("*") == "*" and len(shortened("x" * 190 + "/y")) < 60
    assert not told.HasField("database"), "that is the resource's to tell"
