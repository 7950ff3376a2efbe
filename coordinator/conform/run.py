"""Runs cases, one after the other, and tells of each what was found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from coordinator.conform import (
    calls,
    decisions,
    durable,
    forces,
    frames,
    hello,
    matrix,
    parked,
    positions,
    settling,
    votes,
    watermarks,
)
from coordinator.conform.case import CALLS, CASES, NEEDS, PARKS, READS, REFUSES, RESTART, SLOW, Broken, Case
from coordinator.conform.peer import Peer

MODULES = (hello, votes, decisions, settling, watermarks, forces, matrix, calls, parked, frames, durable, positions)
"""They have added their cases by being imported, in this order."""

CASE_PATIENCE = 12
"""How many answers a case may wait for with all patience: the bound of a participant that is slow at everything."""
KEPT = "kept"
BROKEN = "broken"
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one case."""

    name: str
    rule: str
    verdict: str
    """`kept`, `broken` or `skipped`."""
    detail: str = ""
    """What the participant did instead, or what the case needs."""


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases whose name begins with one of the patterns; all, when there are none. The order is that of the modules."""
    modules = [module.__name__ for module in MODULES]
    cases = sorted(CASES, key=lambda case: modules.index(case.run.__module__))
    return [case for case in cases if not patterns or any(case.name.startswith(pattern) for pattern in patterns)]


async def run(peer: Peer, cases: Sequence[Case]) -> AsyncIterator[Verdict]:
    """Run cases against a participant that has been started. Raises `Broken` when it never comes, or comes no more."""
    missing = _missing(peer)
    await peer.ready()
    for case in cases:
        lacks = [NEEDS[need] for need in sorted(case.needs & missing)]
        if lacks:
            yield Verdict(case.name, case.rule, SKIPPED, f"needs {' and '.join(lacks)}")
            continue
        yield await _one(peer, case)


async def _one(peer: Peer, case: Case) -> Verdict:
    try:
        async with asyncio.timeout(CASE_PATIENCE * peer.patience_seconds):
            await peer.ready()
            await case.run(peer)
    except (Broken, TimeoutError) as broken:
        peer.lose()  # the next case begins with a session of its own
        return Verdict(case.name, case.rule, BROKEN, str(broken) or "it came to no end")
    return Verdict(case.name, case.rule, KEPT)


def _missing(peer: Peer) -> set[str]:
    operations = peer.operations
    given = {
        REFUSES: operations.refuses, READS: operations.reads, SLOW: operations.slow, PARKS: operations.parks, CALLS: peer.caller,
        RESTART: peer.process.can_restart,
    }  # fmt: skip
    return {need for need, there in given.items() if not there}
