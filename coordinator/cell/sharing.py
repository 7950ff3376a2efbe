"""Who takes and who gives: fair shares of a cell's shards, with no leader.

Every node looks at the same table of nodes and shards and does its own part. With n shards and k nodes a fair share is n/k, rounded
down or up. A node that has less than the lower share claims free shards; one that has more than the upper gives some away, and so
does one that has the upper while another lacks the lower and nothing is free. Nobody else moves anything, so a cell at rest stays
at rest, and each step brings the shares closer. Views differ by moments, and a wrong guess costs a claim that is refused, or a
shard that moves twice; never a record: who may write is decided by the claim.
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
    nodes = sorted(node.name for node in seen.nodes if node.lives and not node.draining)
    keeps = Counter(shard.owner for shard in seen.shards if shard.held and not shard.leaving)
    own = [shard.name for shard in seen.shards if shard.name in had and not (shard.leaving and shard.owner == me)]
    free = [shard.name for shard in seen.shards if not shard.held and shard.name not in had]
    if me not in nodes:
        return Plan(give=tuple(own), settled=not own)
    keeps[me] = len(own)
    low, rest = divmod(len(seen.shards), len(nodes))
    high = low + bool(rest)
    lacking = {node: max(0, low - keeps[node]) for node in nodes}
    on_their_way = len(free) + sum(shard.leaving and shard.held for shard in seen.shards)
    wanted = sum(lacking.values())
    extra = len(free) - wanted
    claims = lacking[me]
    if extra > 0:
        takers = sorted((node for node in nodes if keeps[node] + lacking[node] < high), key=lambda node: (keeps[node], node))
        claims += me in takers[:extra]
    gives = max(0, len(own) - high)
    if not gives and len(own) == high > low:
        givers = [node for node in nodes if keeps[node] == high]
        gives = int(me in givers[: max(0, wanted - on_their_way)])
    usable = [name for name in _from(free, nodes.index(me), len(nodes)) if name not in unable]
    balanced = not free and not wanted and all(keeps[node] <= high for node in nodes)
    return Plan(tuple(usable[:claims]), tuple(own[len(own) - gives :]) if gives else (), balanced)


def _from(names: list[str], place: int, places: int) -> list[str]:
    """The names from one's own part of them on, so that nodes that look at once do not reach for the same."""
    start = len(names) * place // places
    return names[start:] + names[:start]
