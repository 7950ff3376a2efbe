"""Counts how transactions end, what is refused before it is one, and where their time goes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from coordinator.core.effects import Over
from coordinator.core.model import State, outcome_name
from coordinator.history.entry import sampled_trace_id
from coordinator.metrics.families import PHASES
from coordinator.metrics.objective import Objective, is_ours
from troth.errors import Reason
from troth.histogram import SECONDS, Histogram

SERVICE, CALLER = "service", "caller"
"""Whose fault a refusal is."""

OTHER = "OTHER"
"""In place of a reason that a participant has made up: labels must not grow without end."""

_PHASE_OF = {
    State.ACTIVE: "work", State.PREPARING: "vote", State.DECIDING: "decide", State.COMMITTING: "commit",
    State.HANDED_OVER: "one_phase",
}  # fmt: skip


class Outcomes:
    """Hears of each transaction that is over, and of each request that never became one."""

    def __init__(self) -> None:
        self.over: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        """By reason, and by whose fault it was."""
        self.objective = Objective()
        self.phases = {name: Histogram(SECONDS) for name in PHASES}

    def hear(self, over: Over) -> None:
        """Count one. An end that turns out to be another (MIXED, or dealt with) is counted again, as that."""
        self.objective.hear(over)
        reason = over.cause.reason if over.cause is not None else ""
        self.over[outcome_name(over.outcome), reason if not reason or reason in Reason.__members__ else OTHER] += 1
        steps = over.moments.steps
        took = [(_PHASE_OF[state], until - at) for (state, at), (_, until) in pairwise(steps) if state in _PHASE_OF]
        if len(steps) > 1:
            took.append(("whole", steps[-1][1] - steps[0][1]))
        trace = "" if over.trace is None else sampled_trace_id(over.trace)
        for name, seconds in took:
            if trace:
                self.phases[name].add_traced(seconds, trace, over.at_ms / 1000)
            else:
                self.phases[name].add(seconds)

    def hear_refused(self, reason: Reason, by_caller: bool) -> None:
        """Count one."""
        self.refused[reason.name, SERVICE if is_ours(reason, by_caller) else CALLER] += 1
        self.objective.hear_refused(reason, by_caller)
