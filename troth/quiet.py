"""Lines of the log that a peer can cause: so many of a kind, and then a count.

One frame may hold thousands of messages, each of which deserves a line; a peer that dials again at once deserves one for each
attempt. What is told ten times in ten seconds tells nothing more the eleventh time, and a log that grows with what a peer sends
is a way to fill a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINES_MAX = 10
"""Lines of one kind in one interval."""
INTERVAL_SECONDS = 10.0


@dataclass(slots=True)
class _Kind:
    began: float
    told: int = 0
    left_out: int = 0


class Quiet:
    """Tells at most `LINES_MAX` lines of a kind in `INTERVAL_SECONDS`; the next one that is told says how many were not.

    The kind is the line's text, which is one of the program's own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def tell(self, write: Callable[..., Any], text: str, **fields: Any) -> None:
        """Write a line, unless there were enough of its kind."""
        now = self._clock()
        kind = self._kinds.setdefault(text, _Kind(now))
        if now - kind.began >= INTERVAL_SECONDS:
            kind.began, kind.told = now, 0
        if kind.told == LINES_MAX:
            kind.left_out += 1
            return
        kind.told += 1
        if kind.left_out:
            fields["left_out"], kind.left_out = kind.left_out, 0
        write(text, **fields)
