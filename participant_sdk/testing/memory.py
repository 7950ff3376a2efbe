"""The coordinator of a cluster, on a log in memory that outlives its crashes."""

from __future__ import annotations

from coordinator.core.settings import CoreSettings
from participant_sdk.embedded.coordinator import InProcessCoordinator
from troth.log.contract import Log
from troth.log.memory import Disk, MemoryLog

NAME = "coordinator"
SETTINGS = CoreSettings(resend_first_seconds=0.05, resend_cap_seconds=1.0, watermark_interval_seconds=0.05, hearing_seconds=0.05,
    recovery_grace_seconds=1.0)
"""A test does not wait as long as production does."""


class MemoryCoordinator(InProcessCoordinator):
    """The coordinator of a cluster."""

    def __init__(self, settings: CoreSettings = SETTINGS) -> None:
        super().__init__(NAME, settings, self.make_log)
        self._disk = Disk()

    def make_log(self) -> Log:
        """The log of the next life; a subclass may have it in a file."""
        return MemoryLog(self._disk, role="coordinator", name=NAME)

    async def crash(self) -> None:
        """Die: what was not synced is lost, and nobody hears anything any more."""
        self._disk.crash()
        await self.stop()
