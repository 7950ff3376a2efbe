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
    timeline = admin_pb2.Timeline()
    tell_timeline(timeline, moments, now_ms)
    return timeline


def tell_timeline(timeline: admin_pb2.Timeline, moments: Moments, now_ms: int) -> None:
    """The same, into a message that is empty. The history has one for each transaction: fields are set one by one, which takes a
    third of the time that messages made by keyword take, and thousandths are rounded as integers."""
    began = moments.steps[0][1] if moments.steps else moments.now
    timeline.began_ms = now_ms - int((moments.now - began) * 1000)
    add_step = timeline.steps.add
    for state, at in moments.steps:
        one = add_step()
        one.state = _STATES[state]
        one.at_ms = round((at - began) * 1_000_000) / 1000
    add_branch = timeline.branches.add
    for name, voted, over, step in moments.branches:
        branch = add_branch()
        branch.participant = name
        branch.voted_ms = round((voted - began) * 1_000_000) / 1000 if voted else -1.0
        branch.over_ms = round((over - began) * 1_000_000) / 1000 if over else -1.0
        branch.state = _BRANCHES[step]
    if moments.repeated_at:
        timeline.repeated_ms.extend([round((at - began) * 1_000_000) / 1000 for at in moments.repeated_at])
    timeline.took_ms = round((moments.now - began) * 1_000_000) / 1000


_STATES = {state: state.value for state in State}
_BRANCHES = {step: step.value for step in BranchStep}
"""Read once: the value of a member of an enum is a property."""
