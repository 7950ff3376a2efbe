"""A coordinator that is alone: its log is in a file, it serves until it is told to stop, and ends when its log fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.config import Config
from coordinator.reloading import Read
from coordinator.server import Daemon, make_daemon
from troth.errors import TrothError
from troth.logs import get_logger

log = get_logger("troth.config")

Tell = Callable[[str], None]


class Alone:
    """Runs the daemon of one process. `tell` says to people what it does, `serving` that it serves; `read` reads its settings
    again."""

    def __init__(self, config: Config, tell: Tell, serving: Tell, read: Read | None = None) -> None:
        self._config = config
        self._read = read
        self._tell, self._serving = tell, serving
        self._stopping = asyncio.Event()
        self._daemon: Daemon | None = None

    def stop(self) -> None:
        """End: drain, and then stop. A second call does not wait for undecided transactions."""
        if self._stopping.is_set() and self._daemon is not None:
            self._daemon.hurry.set()
        self._stopping.set()

    def reload(self) -> None:
        """Read the settings again, because a signal asks for it; the log tells what came of it."""
        if self._daemon is not None and (reloading := self._daemon.context.common.reloading) is not None:
            reloading.on_signal()

    async def run(self) -> TrothError | None:
        """Serve until `stop`; returns the error that ended it before. Raises `TrothError` when it cannot begin."""
        daemon = self._daemon = make_daemon(self._config, self._read)
        await _start(daemon)
        self._serving(f"serving on {daemon.address} (coordinator {daemon.name}, epoch {daemon.epoch})")
        self._tell(what_is_allowed(self._config))
        if not await failed_before(self._stopping.wait(), daemon):
            self._tell(f"draining: {daemon.undecided} undecided, waiting up to {daemon.config.shell.drain_seconds:g} s for them")
            if not await failed_before(daemon.drain(), daemon):
                await daemon.stop()
        if not daemon.failed.done():
            return None
        with contextlib.suppress(TrothError):
            await daemon.abandon()
        return daemon.failed.result()


def what_is_allowed(config: Config) -> str:
    """What the limit on keys comes to, for people."""
    rate, kept = config.keyed_per_second(), config.keys_seconds()
    return f"allows {rate:.0f} keyed transactions a second (keys_max {config.core.keys_max}, each kept {kept:.0f} s)"


async def _start(daemon: Daemon) -> None:
    """Recovery makes much, and nothing of it is garbage: a collection need not look at it, then or later."""
    gc.disable()
    try:
        await daemon.start()
        gc.freeze()
    finally:
        gc.enable()


async def failed_before(what: Coroutine[Any, Any, object], daemon: Daemon) -> bool:
    """Whether the log failed while something was awaited."""
    task = asyncio.create_task(what)
    await asyncio.wait((task, daemon.failed), return_when=asyncio.FIRST_COMPLETED)
    if daemon.failed.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True
    await task
    return False
