"""Who waits for whom, over all services, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.core.model import State
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim_locks.history import in_circles

WAIT_SECONDS_MAX = 1.0
"""How long anybody may wait for locks in a run without faults."""
_WAITING = {True: frozenset({State.ACTIVE}), False: frozenset({State.PREPARING, State.OPENING, State.HANDED_OVER})}
"""In which states a transaction may wait for locks: interactive ones before their commit, one-shots in it."""


class Waits:
    """Looks again and again while the run goes on."""

    def __init__(self, coordinator: CoordinatorProcess, participants: Iterable[ParticipantProcess], *, calm: bool) -> None:
        self._coordinator = coordinator
        self._participants = list(participants)
        self._calm = calm
        self._since: dict[tuple[str, str], float] = {}
        self.violations: set[str] = set()
        self.longest = 0.0

    def look(self, now: float) -> None:
        """What is seen now."""
        edges: dict[str, set[str]] = {}
        waiting: dict[tuple[str, str], float] = {}
        for process in self._participants:
            if not process.alive:
                continue
            locks = process.core._m.locks
            for owner in locks.in_line():
                if isinstance(owner, str):
                    edges.setdefault(owner, set()).update(str(one) for one in locks.waits_for(owner))
                    waiting[process.name, owner] = self._since.get((process.name, owner), now)
        self._since = waiting
        self._circle(edges)
        for (name, owner), since in waiting.items():
            self.longest = max(self.longest, now - since)
            if self._calm and now - since > WAIT_SECONDS_MAX:
                self.violations.add(f"waits end: {owner} waits at {name} for more than {WAIT_SECONDS_MAX} s")

    def _circle(self, edges: dict[str, set[str]]) -> None:
        """An ending that is on its way leaves edges behind for so long, and so does the Prepare of interactive work, which
        breaks off whatever waits; they do not count."""
        if not self._coordinator.alive:
            return
        live = self._coordinator.core._book.live
        undecided = {name for name in edges if name in live and live[name].state in _WAITING[live[name].interactive]}
        circle = in_circles({name: edges[name] & undecided for name in undecided})
        if circle:
            self.violations.add(f"waits end: nobody of {sorted(circle)} can go on before another one of them")
