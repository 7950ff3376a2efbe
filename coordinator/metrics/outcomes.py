"""Counts how transactions end and where their time goes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from coordinator.core.effects import Over
from coordinator.core.model import State, outcome_name
from coordinator.metrics.families import PHASES
from troth.errors import Reason
from troth.histogram import SECONDS, Histogram

OTHER = "OTHER"
"""In place of a reason that a participant has made up: labels must not grow without end."""

_PHASE_OF = {
    State.ACTIVE: "work", State.PREPARING: "vote", State.DECIDING: "decide", State.COMMITTING: "commit",
    State.HANDED_OVER: "one_phase",
}  # fmt: skip


class Outcomes:
    """Hears of each transaction that is over."""

    def __init__(self) -> None:
        self.over: Counter[tuple[str, str]] = Counter()
        self.phases = {name: Histogram(SECONDS) for name in PHASES}

    def hear(self, over: Over) -> None:
        """Count one. What is only news of an earlier one is not."""
        reason = over.cause.reason if over.cause is not None else ""
        self.over[outcome_name(over.outcome), reason if not reason or reason in Reason.__members__ else OTHER] += 1
        steps, phases = over.moments.steps, self.phases
        for (state, at), (_, until) in pairwise(steps):
            name = _PHASE_OF.get(state)
            if name is not None:
                phases[name].add(until - at)
        if len(steps) > 1:
            phases["whole"].add(steps[-1][1] - steps[0][1])
