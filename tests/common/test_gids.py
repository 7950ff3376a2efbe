"""Names of prepared branches: taken apart exactly as they were made, and never longer than a database takes."""

from __future__ import annotations

import pytest

from troth.gids import GID_BYTES_MAX, Gid, gid_of, gid_prefix, parse_gid
from troth.ids import ID_BYTES_MAX, NAME_BYTES_MAX

ID = "c1.7.9f2c4e1a.3.42"


@pytest.mark.parametrize("participant", ["payments", "payments/0", "payments/12", "a_b-c"])
def test_a_name_says_whose_it_is_and_which(participant: str) -> None:
    assert parse_gid(gid_of(participant, ID)) == Gid(participant, ID)


def test_nobody_is_taken_for_somebody_whose_name_begins_with_his() -> None:
    names = ["payments", "payments-2", "payments/1", "payments/10", "pay"]
    gids = [gid_of(name, ID) for name in names]
    for name in names:
        assert [gid for gid in gids if gid.startswith(gid_prefix(name))] == [gid_of(name, ID)]


def test_the_longest_names_fit_and_stay_different() -> None:
    longest = "x" * NAME_BYTES_MAX + "/999999"
    gids = {gid_of(longest, "t" * (ID_BYTES_MAX - 1) + last) for last in "12"}
    assert len(gids) == 2
    assert all(len(gid) <= GID_BYTES_MAX and parse_gid(gid) is not None for gid in gids)


OTHERS = ["", "tm1", "troth:payments", "troth::0:x", "troth:payments:0:", "troth:a:b:c:d", "other:payments:0:x"]


@pytest.mark.parametrize("gid", OTHERS)
def test_names_of_others_are_left_alone(gid: str) -> None:
    assert parse_gid(gid) is None
