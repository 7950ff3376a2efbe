"""AC4: when nothing is wrong any more, everybody votes YES and everything commits, and soon.

What a resend heals is not seen by the other checkers, so the probe looks at the time as well: it is over before any resend. Then
the client loses its stream while its requests are on the way: that alone may abort nothing.
"""

from __future__ import annotations

from functools import partial

from tests.sim.bank import operation
from tests.sim.clients import COMMITTED, Work
from tests.sim_engine.client import Action, ClientProcess
from tests.sim_engine.roles import CoordinatorProcess, ParticipantProcess

SOON_SECONDS = 0.15
"""Less than the first resend of anybody."""
AFTER_BREAK_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
_NO_ROOM = frozenset({
    "OVERLOADED", "INVALID_TIMEOUT", "PAYLOAD_TOO_LARGE", "TOO_MANY_PARTICIPANTS", "TOO_MANY_OPERATIONS", "CONFLICT", "TIMEOUT",
})  # fmt: skip
"""How what comes at once is refused where limits are narrow; the client is told, and something else is AC4's concern."""


class Probe:
    """Transfers over all accounts, at the same moment."""

    def __init__(
        self, coordinator: CoordinatorProcess, participants: dict[str, ParticipantProcess], client: ClientProcess, *, narrow: bool
    ) -> None:
        self._coordinator = coordinator
        self._narrow = narrow
        self._participants = participants
        self._client = client
        self._waiting: list[Action] = []
        self.violations: list[str] = []

    def go(self) -> None:
        """Twice: on good streams, and with the client's stream breaking."""
        self._round("on good streams", SOON_SECONDS)
        world = self._client.world
        world.after(world.random.uniform(0.0, 0.004), self._break)
        self._round("with its stream broken", AFTER_BREAK_SECONDS)
        world.run_until(world.now + 2.0)

    def _break(self) -> None:
        for stream in list(self._client.network.streams):
            if stream.dialler is self._client.life:
                stream.break_(late=False)

    def _round(self, how: str, seconds: float) -> None:
        world = self._client.world
        for work in self._transfers():
            first_attempt_ms = self._coordinator.core._book.clock_ms
            action = Action(work, "", False, first_attempt_ms, TIMEOUT_SECONDS, self._client.history)
            action.on_end = partial(self._ended, action, how)
            self._waiting.append(action)
            if not self._client.begin(action):
                self.violations.append("AC5: the client is down after all faults have ended")
        world.run_until(world.now + seconds)
        for action in self._waiting:
            self.violations.append(f"AC4: {action.ids} took more than {seconds} seconds {how}")
        self._waiting.clear()

    def _ended(self, action: Action, how: str, outcome: int, why: str) -> None:
        if action in self._waiting:
            self._waiting.remove(action)
        if outcome != COMMITTED and not (self._narrow and why in _NO_ROOM):
            self.violations.append(f"AC4: {action.ids} did not commit {how}: {why}")

    def _transfers(self) -> list[Work]:
        """One unit for each row of accounts, from whoever has one."""
        found: list[Work] = []
        names = sorted(self._participants)
        for i in range(len(self._participants[names[0]].rows.accounts)):
            giver = next((name for name in names if self._participants[name].rows.accounts[f"{name}/{i}"] > 0), None)
            if giver is not None:
                taker = names[(names.index(giver) + 1) % len(names)]
                found.append({giver: [operation("debit", f"{giver}/{i}", 1)], taker: [operation("credit", f"{taker}/{i}", 1)]})
        return found
