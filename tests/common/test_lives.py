"""The lives that a log began, and those that it cannot tell."""

from __future__ import annotations

import pytest

from troth import lives
from troth.lives import Life, Lives


def test_a_life_is_known_by_its_number_and_nonce() -> None:
    known = Lives()
    known.add(Life(1, "aa", 0))
    known.add(Life(2, "bb", 7))
    assert known.began(1, "aa") and known.began(2, "bb")
    assert not any(known.began(*life) for life in ((2, "aa"), (3, "cc"), (0, "")))
    assert (len(known), [life.number for life in known]) == (2, [1, 2])


def test_of_lives_that_earlier_software_began_the_nonce_need_not_be_known() -> None:
    known = Lives()
    known.add(Life(3, "cc", 0), recorded=False)
    assert known.began(2, "whatever")
    assert not known.began(3, "dd")
    assert not known.began(4, "dd")


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "LIVES_MAX", 2)
    known = Lives()
    for number in (1, 2, 3):
        known.add(Life(number, "aa", 0))
    assert [life.number for life in known] == [2, 3]
    assert not known.began(1, "aa")


def test_a_life_ended_where_a_later_one_began() -> None:
    known = Lives()
    for life in (Life(1, "aa", 0), Life(4, "dd", 7), Life(5, "ee", 9)):
        known.add(life)
    assert [known.ended_at(number) for number in (1, 4, 5)] == [7, 9, None]
    assert not known.lacks(1, "aa", 7) and known.lacks(1, "aa", 8)
    assert not known.lacks(5, "ee", 1_000), "nobody but this process has told that"
    assert known.lacks(2, "bb", 0), "it never began that one"


def test_where_a_life_of_earlier_software_ended_a_later_one_tells() -> None:
    known = Lives()
    known.add(Life(2, "bb", 0), recorded=False)
    assert known.ended_at(1) is None
    known.add(Life(3, "cc", 7))
    assert known.ended_at(1) == known.ended_at(2) == 7


def test_the_present_life_is_the_newest_and_may_be_numbered_anew_before_it_begins() -> None:
    known = Lives()
    known.add(Life(1, "aa", 0))
    known.add(Life(2, "bb", 7))
    known.renumber(9)
    assert known.newest() == Life(9, "bb", 7) and known.ended_at(1) == 7
