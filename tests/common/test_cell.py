"""Cells: names of shards, the shard of a key, and what is known of where shards are."""

from __future__ import annotations

from collections import Counter

import pytest

from troth.cell import Places, coordinator_of, shard_names, shard_of_key, staying
from troth.errors import ConfigError
from troth.v1 import common_pb2


def directory(*places: tuple[str, int, bool], cell: str = "c1") -> common_pb2.Directory:
    """A directory of the shards c1-00, c1-01, …, each with an address, a claim, and whether it is leaving."""
    return common_pb2.Directory(
        cell=cell,
        shards=[
            common_pb2.ShardPlace(coordinator=f"c1-{number:02}", address=address, claim=claim, leaving=leaving)
            for number, (address, claim, leaving) in enumerate(places)
        ],
    )


def test_a_shard_has_a_name_of_its_own_and_a_cell_of_one_is_a_coordinator_as_before() -> None:
    assert shard_names("c1", 1) == ("c1",)
    assert shard_names("c1", 3) == ("c1-00", "c1-01", "c1-02")
    assert shard_names("c1", 101)[-1] == "c1-100"
    assert coordinator_of("c1-02.7.9f2c4e1a.3.42") == "c1-02"


@pytest.mark.parametrize(("cell", "shards"), [("c1", 0), ("c1", 1_001), ("c" * 61, 2), ("C1", 2)])
def test_what_cannot_be_a_cell_is_refused(cell: str, shards: int) -> None:
    with pytest.raises(ConfigError):
        shard_names(cell, shards)


def test_the_shard_of_a_key_is_the_same_in_every_language() -> None:
    """The examples of protos/README.md."""
    assert [shard_of_key(key, 16) for key in ("order-1", "order-2", "Zürich")] == [12, 3, 5]
    assert shard_of_key("order-1", 1) == 0
    spread = Counter(shard_of_key(f"key-{number}", 16) for number in range(16_000))
    assert len(spread) == 16 and min(spread.values()) > 850


def test_a_directory_is_made_of_the_newest_of_all_that_came() -> None:
    places = Places()
    assert (places.of_key("order-1"), places.address("c1-00"), len(places)) == ("", "", 0)
    assert places.learn(directory(("a:1", 1, False), ("b:1", 4, False)))
    assert not places.learn(directory(("a:1", 1, False), ("b:1", 4, False)))
    assert places.learn(directory(("a:1", 1, True), ("", 3, False)))
    assert [one.leaving for one in places.directory().shards] == [True, False]
    assert places.address("c1-01") == "b:1", "an older claim is no news"
    assert not places.learn(directory(("a:1", 1, False), ("b:1", 4, False))), "who gives a shard away keeps it no more"
    assert places.learn(directory(("", 1, False), ("b:1", 4, False)))
    assert not places.learn(directory(("a:1", 1, True), ("b:1", 4, False)))
    assert [one.coordinator for one in staying(places.directory().shards)] == ["c1-01"]
    assert places.learn(directory(("c:1", 2, False), ("b:1", 4, False)))
    assert (places.address("c1-00"), places.names, places.cell) == ("c:1", ["c1-00", "c1-01"], "c1")
    assert places.of_key("order-1") in places.names


def test_a_directory_of_another_cell_changes_nothing() -> None:
    places = Places()
    places.learn(directory(("a:1", 1, False), ("b:1", 1, False)))
    assert not places.learn(directory(("x:1", 9, False), ("y:1", 9, False), cell="c2"))
    assert not places.learn(directory(("x:1", 9, False), ("y:1", 9, False), ("z:1", 9, False)))
    assert places.address("c1-00") == "a:1"
    assert places.place("c1-07") is None
