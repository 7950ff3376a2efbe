"""What is kept of the keys that attempts have found: of the same attempt again, and within its bounds."""

from __future__ import annotations

from participant_sdk.core.found import Found
from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, Keys
from troth.v1 import common_pb2


def work(*texts: str) -> list[common_pb2.Operation]:
    """Operations with arguments."""
    return [common_pb2.Operation(name=text, arguments=text.encode()) for text in texts]


def test_an_attempt_is_known_by_its_age_and_its_work() -> None:
    found = Found(9, 999)
    assert found.recall(1, work("a")) == NO_KEYS
    found.remember(1, work("a", "b"), Keys(("x",)))
    assert found.recall(1, work("a", "b")) == Keys(("x",))
    assert found.recall(2, work("a", "b")) == found.recall(1, work("b", "a")) == found.recall(1, work("ab")) == NO_KEYS
    found.remember(1, work("a", "b"), Keys(("x",), ("y",)))
    assert found.recall(1, work("a", "b")) == Keys(("x",), ("y",)) and len(found) == 1


def test_it_is_bounded_in_count_and_in_bytes() -> None:
    found = Found(2, 10)
    for age in (1, 2, 3):
        found.remember(age, work("a"), Keys(("x",)))
    assert [len(found.recall(age, work("a")).exclusive) for age in (1, 2, 3)] == [0, 1, 1]
    found.remember(4, work("a"), Keys(("x" * 10,)))
    assert len(found) == 1 and found.recall(4, work("a")).exclusive
    found.remember(4, work("a"), Keys(("y" * 10,)))
    assert found.recall(4, work("a")) == Keys(("y" * 10,)), "in place of what was there"
    found.remember(5, work("a"), Keys(("x" * 11,)))
    assert len(found) == 0


def test_keys_are_joined_as_they_are_declared() -> None:
    assert Keys(("b",), ("c",)).joined(Keys(("a", "c"), ("d",))) == Keys(("a", "b", "c"), ("d",))
    assert Keys(("b",)).joined(NO_KEYS) == Keys(("b",))
    assert SHARED_WHOLE.joined(Keys((), ("a",))) == SHARED_WHOLE and SHARED_WHOLE.joined(Keys(("a",))) == WHOLE


def test_what_is_held_covers_what_is_asked_for() -> None:
    held = Keys(("a",), ("b",))
    assert not held.lacks(Keys(("a",), ("a", "b"))) and held.lacks(Keys(("b",))) and held.lacks(Keys((), ("c",)))
    assert not WHOLE.lacks(Keys(("x",), ("y",))) and not WHOLE.lacks(WHOLE)
    assert not SHARED_WHOLE.lacks(Keys((), ("y",))) and SHARED_WHOLE.lacks(Keys(("x",)))
