"""Who takes and who gives: fair shares of a cell's shards, with no leader.

Every node looks at the same table of nodes and shards and does its own part. With n shards and k nodes a fair share is n/k, rounded
down or up. A node that has less than the lower share claims free shards; one that has more than the upper gives some away, and so
does one that has the upper while another lacks the lower and nothing is free. Nobody else moves anything, so a cell at rest stays
at rest, and each step brings the shares closer. Views differ by moments, and a wrong guess costs a claim that is refused, or a
shard that moves twice; never a record: who may write is decided by the claim.

A canary is a node that takes only a part of all shards, at most its fair share, and the others share out the rest. Where all nodes
are canaries none is: shards that nobody has would be worse than a new version that has many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from troth.cell import CellSeen


@dataclass(frozen=True, slots=True)
class Plan:
    """What one node does next."""

    claim: tuple[str, ...] = ()
    """Free shards to be claimed."""
    give: tuple[str, ...] = ()
    """Shards of its own to be drained and given back."""
    settled: bool = True
    """Whether everybody has what is his: then it is enough to look again later."""


def plan(seen: CellSeen, me: str, *, had: Collection[str] = (), unable: Collection[str] = ()) -> Plan:
    """What the node `me` does in a cell.

    `had`     shards that it has or is claiming, whatever the store says yet
    `unable`  shards that it has lately failed to serve, and leaves to others for a while
    """
    quotas = _quotas(seen)
    nodes = sorted(quotas)
    keeps = Counter(shard.owner for shard in seen.shards if shard.held and not shard.leaving)
    own = [shard.name for shard in seen.shards if shard.name in had and not (shard.leaving and shard.owner == me)]
    free = [shard.name for shard in seen.shards if not shard.held and shard.name not in had]
    if me not in nodes:
        return Plan(give=tuple(own), settled=not own)
    keeps[me] = len(own)
    low, high = quotas[me]
    lacking = {node: max(0, quotas[node][0] - keeps[node]) for node in nodes}
    on_their_way = len(free) + sum(shard.leaving and shard.held for shard in seen.shards)
    wanted = sum(lacking.values())
    extra = len(free) - wanted
    claims = lacking[me]
    if extra > 0:
        takers = [node for node in nodes if keeps[node] + lacking[node] < quotas[node][1]]
        takers.sort(key=lambda node: (keeps[node], node))
        claims += me in takers[:extra]
    gives = max(0, len(own) - high)
    if not gives and len(own) == high > low:
        givers = [node for node in nodes if keeps[node] == quotas[node][1] > quotas[node][0]]
        gives = int(me in givers[: max(0, wanted - on_their_way)])
    usable = [name for name in _from(free, nodes.index(me), len(nodes)) if name not in unable]
    balanced = not free and not wanted and all(keeps[node] <= quotas[node][1] for node in nodes)
    return Plan(tuple(usable[:claims]), tuple(own[len(own) - gives :]) if gives else (), balanced)


def _quotas(seen: CellSeen) -> dict[str, tuple[int, int]]:
    """Of each node that takes part, how many shards are its fair share: at least, and at most."""
    parts = {node.name: node.canary for node in seen.nodes if node.lives and not node.draining}
    ordinary = [name for name, part in parts.items() if part >= 1] or list(parts)
    shards = len(seen.shards)
    few = {name: min(_part(shards, part), shards // len(parts)) for name, part in parts.items() if name not in ordinary}
    low, rest = divmod(shards - sum(few.values()), max(1, len(ordinary)))
    return {name: (few[name], few[name]) if name in few else (low, low + bool(rest)) for name in parts}


def _part(shards: int, part: float) -> int:
    """So many shards are this part of all; of any part above 0 at least one."""
    return max(1, round(shards * part)) if part > 0 else 0


def _from(names: list[str], place: int, places: int) -> list[str]:
    """The names from one's own part of them on, so that nodes that look at once do not reach for the same."""
    start = len(names) * place // places
    return names[start:] + names[:start]
