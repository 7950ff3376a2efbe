"""Which limits a node's shards share, and which each has whole (docs/decisions/0047)."""

from __future__ import annotations

from coordinator.config import load
from coordinator.core.settings import CoreSettings


def test_keys_are_divided_among_shards_and_what_is_admitted_is_not() -> None:
    config = load(environment={}, flags={"keys_max": 1_000_001, "name": "c1"}, memory_bytes=0).config
    shards = [config.of_shard(f"c1-{number:02}", 16) for number in range(16)]
    assert {shard.core.keys_max for shard in shards} == {62_501}
    assert sum(shard.core.keys_max for shard in shards) >= config.core.keys_max
    assert {shard.core.open_transactions_max for shard in shards} == {CoreSettings().open_transactions_max}
    assert [shard.shell.name for shard in shards] == [f"c1-{number:02}" for number in range(16)]
    assert config.of_shard("c1", 1) == config


def test_a_shard_has_room_for_a_key_however_many_there_are() -> None:
    config = load(environment={}, flags={"keys_max": 3}, memory_bytes=0).config
    assert config.of_shard("c1-999", 1_000).core.keys_max == 1
