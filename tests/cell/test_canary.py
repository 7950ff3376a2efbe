"""A node that takes only a part of the shards, beside nodes that know of no such thing."""

from __future__ import annotations

from pathlib import Path

from coordinator.cell.node import REST_LEASES, CellNode
from coordinator.config import load
from troth.cell import CellSeen, NodeSeen, ShardSeen


def seen(held: bool) -> CellSeen:
    """A cell of one shard that is left to others."""
    shard = ShardSeen("s0", "old" if held else "", held, 1, False, 1.0)
    return CellSeen((NodeSeen("new", "n:1", False, True, 1.0, 0.0),), (shard,))


async def test_shards_that_a_canary_leaves_and_nobody_takes_are_taken(tmp_path: Path) -> None:
    """Those of an older version count it in as any other, so they leave it a share that it does not want."""
    flags = {"store": "host=nowhere", "canary": 0.0, "data_directory": str(tmp_path)}
    config = load(environment={}, flags=flags).config
    node = CellNode(config, tell=lambda what: None, serving=lambda what: None)
    assert node._store.canary == 0.0
    limit = REST_LEASES * config.shell.lease_seconds
    for now, held, takes in ((0.0, False, False), (limit / 2, True, False), (limit, False, False), (2.1 * limit, False, True)):
        node._look_after_the_rest(seen(held), (), now)
        assert node._takes_all is takes, f"at {now}"
    node._use(config)
    assert not node._takes_all, "an operator who reloads tries again"
