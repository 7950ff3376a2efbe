"""Whether what was committed is as if it had happened one after the other, over all services.

The classic test (Bernstein, Hadzilacos & Goodman, "Concurrency Control and Recovery in Database Systems", 1987, theorem 2.1): an
edge leads from one committed transaction to another for each pair of accesses to one account, in their order, of which at least
one is a change. The history is serialisable if the graph has no cycle. Each service has a part of the graph only, and each part
may be without one.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.sim_locks.bank import Access


def precedence(accesses: Iterable[Access], committed: set[str]) -> dict[str, set[str]]:
    """Who must come before whom, by the accesses at one service."""
    edges: dict[str, set[str]] = {}
    seen: dict[str, list[Access]] = {}
    for access in accesses:
        if access.transaction_id not in committed:
            continue
        earlier = seen.setdefault(access.account, [])
        for other in earlier:
            if other.transaction_id != access.transaction_id and (other.changed or access.changed):
                edges.setdefault(other.transaction_id, set()).add(access.transaction_id)
        earlier.append(access)
    return edges


def joined(parts: Iterable[dict[str, set[str]]]) -> dict[str, set[str]]:
    """Several graphs in one."""
    whole: dict[str, set[str]] = {}
    for part in parts:
        for node, others in part.items():
            whole.setdefault(node, set()).update(others)
    return whole


def in_circles(edges: dict[str, set[str]]) -> set[str]:
    """Everybody who is in a cycle, or between two of them; nobody when there is none. Who leads to nobody is peeled off, again and
    again, and so is who is reached by nobody."""
    alive = {*edges, *(other for others in edges.values() for other in others)}
    while True:
        reached = {other for node in alive for other in edges.get(node, ()) if other in alive}
        kept = {node for node in alive & reached if not edges.get(node, set()).isdisjoint(alive)}
        if kept == alive:
            return alive
        alive = kept
