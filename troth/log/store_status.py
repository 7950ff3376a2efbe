"""What a store tells of its logs, whichever server it is on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogStatus:
    """One log of a store."""

    role: str
    name: str
    log_id: str
    epoch: int
    batches: int
    bytes: int
    owner: str
    """Who has it; empty for nobody."""
    lease_seconds: float
    """For how long; negative when the lease has lapsed."""
