"""How a participant is, for the probes of a supervisor, and how one that failed for good ends the program around it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import Enum

from troth.errors import TrothError


class Condition(Enum):
    """What a participant does."""

    NEW = "it was not started"
    CONNECTED = "it takes work from the coordinator"
    AWAY = "it has no session with the coordinator, and dials again; local work goes on"
    STOPPED = "it was closed"
    FAILED = "it serves no more, and will not by itself: the process should end, and be started again"


@dataclass(frozen=True, slots=True)
class Health:
    """How a participant is at one moment."""

    condition: Condition
    error: TrothError | None = None
    """Why it failed."""
    unfinished: int = 0
    """Branches that have no outcome yet, or have not carried it out."""
    in_doubt: int = 0
    """Those of them that have voted YES, and hold their locks until the coordinator says how it ended."""
    lock_holders: int = 0
    """Transactions and local work that hold locks."""
    lock_waiters: int = 0
    """Those that wait for some."""

    @property
    def alive(self) -> bool:
        """For liveness: `False` is for whom only a restart helps. A coordinator that is away is no reason to restart."""
        return self.condition is not Condition.FAILED

    @property
    def ready(self) -> bool:
        """For readiness: whether transactions reach it."""
        return self.condition is Condition.CONNECTED


def terminate(error: TrothError) -> None:
    """End this process as its supervisor would, by SIGTERM to itself: for `Participant(..., on_failure=terminate)`.

    A web server then finishes its requests and leaves in its own way; one that handles no SIGTERM ends at once.
    """
    os.kill(os.getpid(), signal.SIGTERM)
