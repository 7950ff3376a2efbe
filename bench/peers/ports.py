"""Servers that cannot say which port they got: they are told one, and are ready when they accept connections there."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from bench.processes import LOOK_SECONDS, READY_SECONDS, Process, ProcessFailed


def free_port() -> int:
    """One that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Accepting(Process):
    """Such a server."""

    port: int

    async def ready(self) -> None:
        """Wait until it accepts connections. Raises `ProcessFailed`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while self.lives:
                    with suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                        writer.close()
                        return
                    await asyncio.sleep(LOOK_SECONDS)
        raise ProcessFailed(f"{self.name} is not ready: {self.said()[-1000:]}")
