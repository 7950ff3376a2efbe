"""How the time of a transaction passed, for people: read off while it is open, and once more when it is over."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.core.model import BranchStep, State, Transaction
from troth.ready import Instant
from troth.v1 import admin_pb2

REPEATS_MAX = 32
"""Repeats of one transaction that are remembered."""


class Moments(NamedTuple):
    """What a timeline is made from; all times in seconds of the monotonic clock."""

    steps: tuple[tuple[State, float], ...]
    branches: tuple[tuple[str, float, float, BranchStep], ...]
    """Of each its participant, when it voted, when it was over, and where it is."""
    repeated_at: tuple[float, ...]
    now: float


def moments_of(txn: Transaction, now: Instant) -> Moments:
    """What is known by now. Taken apart later, since the core has no time for that whenever a transaction ends."""
    branches = tuple([(name, one.voted_at, one.over_at, one.step) for name, one in txn.branches.items()])
    return Moments(tuple(txn.steps), branches, txn.repeated_at, now.monotonic)


def note_repeat(txn: Transaction, now: Instant) -> None:
    """Messages are repeated."""
    if len(txn.repeated_at) < REPEATS_MAX:
        txn.repeated_at = (*txn.repeated_at, now.monotonic)


def timeline_of(moments: Moments, now_ms: int) -> admin_pb2.Timeline:
    """The timeline; `now_ms` is the coordinator's clock at `moments.now`."""
    began = moments.steps[0][1] if moments.steps else moments.now

    def after(at: float) -> float:
        return round((at - began) * 1000, 3)

    return admin_pb2.Timeline(
        began_ms=now_ms - int((moments.now - began) * 1000),
        steps=[admin_pb2.Step(state=state.value, at_ms=after(at)) for state, at in moments.steps],
        branches=[
            admin_pb2.BranchTimes(
                participant=name, voted_ms=after(voted) if voted else -1.0, over_ms=after(over) if over else -1.0, state=step.value
            )
            for name, voted, over, step in moments.branches
        ],
        repeated_ms=map(after, moments.repeated_at),
        took_ms=after(moments.now),
    )
