"""Sessions: one with a coordinator that is alone, one with each shard of a cell."""

from __future__ import annotations

import pytest

from participant_sdk.core.sessions import Sessions
from troth.errors import LocalProtocolError

CELL = frozenset(("c1-00", "c1-01"))


def test_a_coordinator_that_is_alone_replaces_who_was_before() -> None:
    sessions = Sessions()
    sessions.begin("c1", 1, frozenset(), "a life")
    sessions.begin("c2", 2, frozenset(), "a life")
    assert (sessions.coordinator_of(1), sessions.coordinator_of(2)) == (None, "c2")
    assert sessions.stream_of("c1") == 2, "what is in doubt with the first one is told to the second"
    sessions.end(1)
    sessions.end(2)
    assert (sessions.stream_of("c2"), sessions.newest) == (0, 0)


def test_shards_stand_beside_each_other_and_a_newer_stream_of_one_replaces_its_own() -> None:
    sessions = Sessions()
    sessions.begin("c1-01", 2, CELL, "a life")
    sessions.begin("c1-00", 1, CELL, "a life")
    sessions.check_newer("c1-00", 3)
    sessions.begin("c1-00", 3, CELL, "a life")
    assert [sessions.coordinator_of(stream) for stream in (1, 2, 3)] == [None, "c1-01", "c1-00"]
    sessions.end(3)
    assert sessions.stream_of("c1-00") == 0, "nobody else of the cell is told what is its own"
    assert sessions.stream_of("c0") == 2, "what is nobody's of the cell is told to the newest"


@pytest.mark.parametrize("stream", [1, 2, 3])
def test_a_stream_is_newer_than_all_of_its_coordinator_and_nobody_elses(stream: int) -> None:
    sessions = Sessions()
    sessions.begin("c1-00", 2, CELL, "a life")
    sessions.begin("c1-01", 3, CELL, "a life")
    with pytest.raises(LocalProtocolError):
        sessions.check_newer("c1-00", stream)
