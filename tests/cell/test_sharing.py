"""Fair shares without a leader: whatever the nodes begin with, and in whatever order they look, all shards are had, evenly."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from coordinator.cell.sharing import plan
from troth.cell import CellSeen, NodeSeen, ShardSeen

ROUNDS_MAX = 12


def seen(
    owners: dict[str, str], nodes: dict[str, bool], leaving: frozenset[str] = frozenset(), canaries: dict[str, float] | None = None
) -> CellSeen:  # fmt: skip
    """A cell: who has which shard, and which nodes live (all do), are draining, and take only a part."""
    parts = canaries or {}
    return CellSeen(
        tuple(NodeSeen(name, f"{name}:1", draining, True, 1.0, parts.get(name, 1.0)) for name, draining in nodes.items()),
        tuple(ShardSeen(name, owner, bool(owner), 1, name in leaving, 1.0) for name, owner in owners.items()),
    )


def mine(owners: dict[str, str], me: str) -> list[str]:
    return [shard for shard, owner in owners.items() if owner == me]


@pytest.mark.parametrize("seed", range(200))
def test_shares_become_fair_and_then_nothing_moves(seed: int) -> None:
    chance = Random(seed)
    nodes = {f"n{number}": False for number in range(chance.randint(1, 6))}
    owners = {f"s{number}": chance.choice([*nodes, ""]) for number in range(chance.choice([1, 2, 7, 16, 32]))}
    for name in chance.sample(list(nodes), chance.randint(0, len(nodes) - 1)):
        nodes[name] = True
    staying = [name for name, draining in nodes.items() if not draining]
    for _ in range(ROUNDS_MAX):
        moved = 0
        for me in chance.sample(list(nodes), len(nodes)):
            step = plan(seen(owners, nodes), me, had=mine(owners, me))
            assert all(owners[shard] == "" for shard in step.claim) and all(owners[shard] == me for shard in step.give)
            owners |= dict.fromkeys(step.claim, me) | dict.fromkeys(step.give, "")
            moved += len(step.claim) + len(step.give)
        if not moved:
            break
    counts = [len(mine(owners, name)) for name in staying]
    assert sum(counts) == len(owners) and max(counts) - min(counts) <= 1, f"seed {seed}: {Counter(owners.values())}"
    assert all(plan(seen(owners, nodes), name, had=mine(owners, name)).settled for name in staying)


def test_nodes_that_look_at_the_same_moment_reach_for_different_shards() -> None:
    owners, nodes = {f"s{number}": "" for number in range(16)}, dict.fromkeys(("a", "b", "c"), False)
    claims = [shard for name in nodes for shard in plan(seen(owners, nodes), name).claim]
    assert len(claims) == 16 and len(set(claims)) >= 14


def test_what_is_being_given_away_is_awaited_and_not_given_twice() -> None:
    owners, nodes = {f"s{number}": "a" for number in range(4)}, dict.fromkeys(("a", "b"), False)
    step = plan(seen(owners, nodes), "a", had=mine(owners, "a"))
    assert len(step.give) == 2
    later = plan(seen(owners, nodes, frozenset(step.give)), "a", had=[name for name in owners if name not in step.give])
    assert later.give == () and not later.settled


def test_a_shard_that_cannot_be_served_here_is_left_to_others() -> None:
    assert plan(seen({"s0": "", "s1": ""}, {"a": False}), "a", unable=["s0"]).claim == ("s1",)


def test_the_dead_have_no_share() -> None:
    cell = seen({"s0": "", "s1": "a"}, {"a": False, "b": False})
    dead = CellSeen((cell.nodes[0], NodeSeen("b", "b:1", False, False, -1.0)), cell.shards)
    assert plan(dead, "a", had=["s1"]).claim == ("s0",)
    assert plan(dead, "b").claim == ()


@pytest.mark.parametrize("seed", range(200))
def test_a_canary_has_its_part_and_the_others_the_rest(seed: int) -> None:
    """Whatever everybody begins with; and all shards are had, also where every node is a canary."""
    chance = Random(seed)
    nodes = {f"n{number}": False for number in range(chance.randint(1, 6))}
    owners = {f"s{number}": chance.choice([*nodes, ""]) for number in range(chance.choice([1, 2, 7, 16, 32]))}
    canaries = {name: chance.choice([0.0, 0.05, 0.25, 0.9]) for name in chance.sample(list(nodes), chance.randint(0, len(nodes)))}
    for _ in range(2 * ROUNDS_MAX):
        moved = 0
        for me in chance.sample(list(nodes), len(nodes)):
            step = plan(seen(owners, nodes, canaries=canaries), me, had=mine(owners, me))
            owners |= dict.fromkeys(step.claim, me) | dict.fromkeys(step.give, "")
            moved += len(step.claim) + len(step.give)
        if not moved:
            break
    ordinary = [name for name in nodes if name not in canaries] or list(nodes)
    few = {name: len(mine(owners, name)) for name in nodes if name not in ordinary}
    counts = [len(mine(owners, name)) for name in ordinary]
    assert "" not in owners.values() and max(counts) - min(counts) <= 1, f"seed {seed}: {Counter(owners.values())}"
    fair = len(owners) // len(nodes)
    assert few == {name: min(fair, max(1, round(len(owners) * canaries[name])) if canaries[name] else 0) for name in few}
    assert all(plan(seen(owners, nodes, canaries=canaries), name, had=mine(owners, name)).settled for name in nodes)
