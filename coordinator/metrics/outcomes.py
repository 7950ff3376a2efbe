"""Counts how transactions end, what is refused before it is one, and where their time goes."""

from __future__ import annotations

from collections import Counter

from coordinator.core.effects import Over
from coordinator.core.model import State, outcome_name
from coordinator.history.entry import sampled_trace_id
from coordinator.metrics.families import PHASES
from coordinator.metrics.objective import MET, MISSED, is_met, is_ours
from troth.errors import Reason
from troth.histogram import SECONDS, Histogram
from troth.v1 import common_pb2

SERVICE, CALLER = "service", "caller"
"""Whose fault a refusal is."""

OTHER = "OTHER"
"""In place of a reason that a participant has made up: labels must not grow without end."""

_PHASE_OF = {
    State.ACTIVE: "work", State.PREPARING: "vote", State.DECIDING: "decide", State.COMMITTING: "commit",
    State.HANDED_OVER: "one_phase",
}  # fmt: skip


_REASONS = frozenset({"", *Reason.__members__})
"""What may stand in a label."""

_End = tuple[common_pb2.Outcome.ValueType, str]
"""An outcome and a reason."""


class Outcomes:
    """Hears of each transaction that is over, and of each request that never became one.

    To hear is all that a transaction pays: one count by its end and one in the histogram of each phase. What these counts mean, and
    what they are called, is worked out when somebody reads.
    """

    def __init__(self) -> None:
        self._ends: dict[_End, int] = {}
        self.refused: Counter[tuple[str, str]] = Counter()
        """By reason, and by whose fault it was."""
        self.phases = {name: Histogram(SECONDS) for name in PHASES}
        self._of_state = {state: self.phases[name] for state, name in _PHASE_OF.items()}
        self._whole = self.phases["whole"]

    def hear(self, over: Over) -> None:
        """Count one. An end that turns out to be another (MIXED, or dealt with) is counted again, as that."""
        cause = over.cause
        end = (over.outcome, "" if cause is None else cause.reason)
        if end in self._ends:
            self._ends[end] += 1
        else:
            self._count_new(end)
        if over.trace is not None and (trace := sampled_trace_id(over.trace)):
            for histogram, seconds in self._took(over):
                histogram.add_traced(seconds, trace, over.at_ms / 1000)
        else:
            for histogram, seconds in self._took(over):
                histogram.add(seconds)

    def hear_refused(self, reason: Reason, by_caller: bool) -> None:
        """Count one."""
        self.refused[reason.name, SERVICE if is_ours(reason, by_caller) else CALLER] += 1

    def _count_new(self, end: _End) -> None:
        """The first of its kind, or one whose reason somebody has made up."""
        outcome, reason = end
        end = (outcome, reason if reason in _REASONS else OTHER)
        self._ends[end] = self._ends.get(end, 0) + 1

    def _took(self, over: Over) -> list[tuple[Histogram, float]]:
        """What each phase took, and the whole."""
        took: list[tuple[Histogram, float]] = []
        steps = over.moments.steps
        if len(steps) > 1:
            of_state = self._of_state
            state, began = before = steps[0]
            for before in steps[1:]:
                if state in of_state:
                    took.append((of_state[state], before[1] - began))
                state, began = before
            took.append((self._whole, began - steps[0][1]))
        return took

    # ---- read

    @property
    def over(self) -> Counter[tuple[str, str]]:
        """How many transactions are over, by outcome and reason."""
        return Counter({(outcome_name(outcome), reason): count for (outcome, reason), count in self._ends.items()})

    @property
    def objective(self) -> Counter[str]:
        """How many times the objective was met, and missed; the latter also by what was refused by our fault."""
        found = Counter({MET: 0, MISSED: sum(count for (_, fault), count in self.refused.items() if fault == SERVICE)})
        for (outcome, reason), count in self._ends.items():
            found[MET if is_met(outcome, reason) else MISSED] += count
        return found
