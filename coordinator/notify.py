"""What the service manager is told: ready, stopping, and that the process lives (systemd's sd_notify and its watchdog).

Where `NOTIFY_SOCKET` names a datagram socket, each message is one datagram of lines NAME=VALUE. The watchdog hears of us from a
task of the event loop: a loop that stands still lets it end the process, and the next start recovers. A store that is away, or a
disk that is slow, is no reason to: they are waited for on other threads, and a restart would bring nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

from troth.logs import get_logger

log = get_logger("troth.notify")

BEATS = 3
"""Signs of life in the time after which the watchdog would end us."""


class Notify:
    """The service manager's ear; deaf where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        self._watchdog_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if watched and self._path else 0.0

    def ready(self, status: str) -> None:
        """It serves, or serves again after a reload; `status` is for people (`systemctl status`)."""
        self._say("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """What it does, for people."""
        self._say(f"STATUS={status}")

    def stopping(self) -> None:
        """It was told to end, and drains."""
        self._say("STOPPING=1")

    async def beat(self) -> None:
        """Say that the loop lives, until cancelled; returns at once where nobody watches."""
        while self._watchdog_seconds:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_seconds / BEATS)

    def _say(self, *lines: str) -> None:
        if not self._path:
            return
        # A name that begins with @ is in Linux's abstract namespace.
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.setblocking(False)
                connection.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("the service manager was not told", error=str(error))
