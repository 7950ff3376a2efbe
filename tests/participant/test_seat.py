"""A stream is left when, and only when, its shard is known to be at another node by a newer claim."""

from __future__ import annotations

from participant_sdk.seat import Seat, Seats
from troth.v1 import common_pb2


def directory(claim: int, address: str = "a:1", *, leaving: bool = False) -> common_pb2.Directory:
    """A cell of two shards; of one of them this is said."""
    one = common_pb2.ShardPlace(coordinator="c1-00", address=address, claim=claim, leaving=leaving)
    return common_pb2.Directory(cell="c1", shards=[one, common_pb2.ShardPlace(coordinator="c1-01", address="a:1", claim=1)])


def ended_after(*news: common_pb2.Directory, welcomed_by: common_pb2.Directory) -> int:
    """How often a stream is ended that was welcomed by a node which said that, when other streams bring news."""
    seats, ended = Seats(), []
    seats.learn(news[0])
    seat = Seat(seats)
    seat.hear(welcomed_by)
    seat.welcomed("c1-00", welcomed_by)
    with seat.held(lambda: ended.append(1)):
        for one in news[1:]:
            seats.learn(one)
    seats.learn(directory(99, "late:1"))
    return len(ended)


def test_a_newer_claim_of_another_node_ends_it() -> None:
    assert ended_after(directory(2), directory(3, "b:1"), welcomed_by=directory(2)) == 1


def test_a_node_that_was_followed_before_it_welcomed_us_is_left_at_once() -> None:
    assert ended_after(directory(3, "b:1"), welcomed_by=directory(2)) == 1


def test_nothing_else_ends_it() -> None:
    moments = directory(2, leaving=True), directory(2, ""), directory(3, ""), directory(1, "b:1")
    assert ended_after(directory(2), *moments, welcomed_by=directory(2)) == 0
    assert ended_after(directory(2), welcomed_by=directory(3, "b:1")) == 0


def test_with_a_coordinator_that_is_alone_there_is_nothing_to_leave_for() -> None:
    seat, ended = Seat(), []
    seat.welcomed("c1", common_pb2.Directory())
    with seat.held(lambda: ended.append(1)):
        pass
    assert (seat.shard, ended) == ("", [])
