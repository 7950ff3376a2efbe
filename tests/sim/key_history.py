"""What the coordinator said of attempts with idempotency keys, and when it said it first. `tests.sim.keys` judges it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.clients import ABORTED, COMMITTED
from troth.v1 import client_pb2

NOTHING_OF_THE_KEY = frozenset({"KEY_REUSED", "INVALID_KEY", "INVALID_ARGUMENT", "CLOCK_SKEW", "EXPIRED"})
"""What says that the request is wrong, or too old to know: no client takes it for "aborted"."""


@dataclass
class Told:
    """The first time that something was said to one attempt."""

    at: float
    holder: str
    """The transaction that it was said of."""


@dataclass
class KeyHistory:
    """What was said of attempts with keys, when the coordinator said it first."""

    told: dict[tuple[str, int], Told] = field(default_factory=dict)
    """By the attempt and the outcome."""

    def answered(self, attempt: str, answer: client_pb2.Answer, now: float) -> None:
        """The coordinator answers an attempt, or a question about it."""
        if answer.outcome in (COMMITTED, ABORTED) and answer.cause.reason not in NOTHING_OF_THE_KEY:
            self.told.setdefault((attempt, answer.outcome), Told(now, answer.transaction_id))

    def begun(self, session: str, response: client_pb2.BeginResponse, now: float) -> None:
        """The coordinator answers a begin."""
        attempt = f"{session}.{response.number}"
        if response.HasField("holder"):
            self.answered(attempt, response.holder, now)
        elif response.HasField("refusal"):
            self.answered(attempt, client_pb2.Answer(outcome=ABORTED, cause=response.refusal), now)
