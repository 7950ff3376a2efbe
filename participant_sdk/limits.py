"""What a participant takes on at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from troth.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a participant takes on, and how long things wait in it."""

    open_branches_max: int = 100_000
    """Branches that are not finished; a further one is refused as OVERLOADED."""
    calls_waiting_max: int = 10_000
    """Interactive calls that have not been answered; a further one is OVERLOADED."""
    calls_bytes_max: int = 64 * 1024 * 1024
    """Bytes of the arguments, results and undo of the interactive calls of all unfinished branches. A further call is OVERLOADED;
    one that brings more than there is room for ends its branch so."""
    operations_max: int = 10_000
    """Calls of one branch."""
    lock_wait_seconds: float = 2.0
    """Longest wait of a branch for locks; then it is a CONFLICT, and the client tries again."""
    local_wait_seconds: float = 10.0
    """Longest wait of `read` and `local` for locks; then it is a TIMEOUT."""
    enlist_after_seconds: float = 0.02
    """How long interactive work may last before the coordinator is told of it; a commit that comes sooner is told of it anyway."""
    enlist_wait_seconds: float = 5.0
    """Longest wait of a call for the coordinator's acceptance, where it has to be awaited; then it is COORDINATOR_AWAY."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            wanted = int if isinstance(one.default, int) else (int, float)
            if not isinstance(value, wanted) or isinstance(value, bool) or not 0 < value < math.inf:
                raise ConfigError(f"{one.name} is {value!r}", hint="Limits are numbers above zero; counts and bytes are whole.")
