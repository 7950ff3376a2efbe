"""The participant's process: started, killed and started again, by ourselves or by a command of its author."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Protocol

from coordinator.conform.case import Broken

STOP_SECONDS = 10.0


class Process(Protocol):
    """What a case may do to the participant's process."""

    can_restart: bool
    """Whether `restart` does anything."""

    async def start(self) -> None:
        """Start it, if that is ours to do."""

    async def restart(self) -> None:
        """Kill it, without a chance to say or write anything more, and start it again on the same files."""

    async def stop(self) -> None:
        """End it, if we started it."""


class ByHand:
    """Somebody else started it, and nobody can restart it."""

    can_restart = False

    async def start(self) -> None:
        """Nothing to do."""

    async def restart(self) -> None:
        """Cases that need this are skipped."""
        raise AssertionError("nobody can restart it")

    async def stop(self) -> None:
        """Nothing to do."""


class ByCommand:
    """Somebody else started it; a command of theirs kills it and starts it again."""

    can_restart = True

    def __init__(self, command: str) -> None:
        self._command = command

    async def start(self) -> None:
        """Nothing to do."""

    async def restart(self) -> None:
        """Run the command. Raises `Broken` when it fails."""
        process = await asyncio.create_subprocess_shell(self._command)
        if await process.wait() != 0:
            raise Broken(f"the restart command ended with status {process.returncode}: {self._command}")

    async def stop(self) -> None:
        """Nothing to do."""


class Child:
    """Our own child, with a process group of its own, which is killed as a whole."""

    can_restart = True

    def __init__(self, command: str, address: str) -> None:
        self._command = command
        self._environment = {**os.environ, "TROTH_COORDINATOR": address}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it. Its standard output goes to our standard error."""
        self._process = await asyncio.create_subprocess_shell(
            self._command, env=self._environment, start_new_session=True, stdin=asyncio.subprocess.DEVNULL, stdout=2
        )

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self._signal(signal.SIGKILL)
        await self.start()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._signal(signal.SIGTERM)
        except TimeoutError:
            await self._signal(signal.SIGKILL)

    async def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        await self._process.wait()
