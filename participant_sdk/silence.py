"""The log is told that the coordinator is away, by a client and by a participant in the same words."""

from __future__ import annotations

import math
from collections.abc import Callable

from troth.logs import Logger

TELL_AGAIN_SECONDS = 30.0
"""How often the log is told that the coordinator is still away."""


class Silence:
    """Tells the log that the coordinator is away: at once, then now and then for as long as it lasts, and when it is over.

    A caller hears of it only at the end of its own timeout, which may be minutes away.
    """

    def __init__(self, log: Logger, now: Callable[[], float], **about: str) -> None:
        self._log = log
        self._now = now
        self._about = about
        self._began = self._told = math.nan

    def goes_on(self, why: str) -> None:
        """There is no stream any more, or still none."""
        now = self._now()
        if math.isnan(self._began):
            self._began = now
            self._log.warning("no connection to the coordinator; trying again, with back-off", **self._about, why=why)
        elif now - self._told >= TELL_AGAIN_SECONDS:
            seconds = int(now - self._began)
            self._log.warning("still no connection to the coordinator", **self._about, seconds=seconds, why=why)
        else:
            return
        self._told = now

    def ends(self) -> None:
        """The stream stands."""
        if not math.isnan(self._began):
            self._log.warning("connected to the coordinator again", **self._about, seconds=int(self._now() - self._began))
            self._began = self._told = math.nan
