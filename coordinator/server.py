"""The daemon with its log in a file: one shard, one port, one data directory.

Start: take the directory, bind the port, recover, hear the participants, serve. The port is bound before the log is opened, so that
a second daemon on the same port changes nothing. End: refuse new work, wait for what is undecided, say Goodbye to every stream,
stop. What is decided and not yet acknowledged goes on after the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path

from coordinator import descriptors
from coordinator.cell.routing import Routes
from coordinator.config import Config
from coordinator.core.core import CoordinatorCore
from coordinator.directory import DataDirectory
from coordinator.history.history import History, bounds_of
from coordinator.history.sqlite import SqliteHistory
from coordinator.observing import Observing
from coordinator.port import Port
from coordinator.reloading import Read, Reloading
from coordinator.services import fills
from coordinator.services.context import CoordinatorCoreView
from coordinator.shard import Shard
from troth.errors import TrothError
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog
from troth.seals import SECRET_BYTES


class Daemon(Shard):
    """One running coordinator, with a port of its own."""

    def __init__(
        self, config: Config, core: CoordinatorCoreView, coordinator_log: Log, directory: DataDirectory, nonce: str,
        history: History | None = None, read: Read | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, core, coordinator_log, nonce)
        self._context.common.keep_history(history)
        self._directory = directory
        if read is not None:
            common = self._context.common
            common.reloading = Reloading(config, read, self._use_everywhere, common.auditing)
        self._routes = Routes(self.name, (self.name,), self._context.common)
        self._port = Port(config, self._routes)
        self._observing = Observing(config, self._routes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: tuple[asyncio.Task[None], ...] = ()
        self.on_readiness = self._show_readiness

    @property
    def address(self) -> str:
        """Where it listens; valid after `start`."""
        return self._port.address

    @property
    def admin_address(self) -> str:
        """Where the admin service is, when it is not at `address`. Valid after `start`."""
        return self._port.admin_address

    @property
    def token_address(self) -> str:
        """Where it listens for those who show a token; empty for nowhere. Valid after `start`."""
        return self._port.token_address

    def log_bytes(self) -> int | None:
        """The file with its WAL."""
        return self._directory.log_bytes()

    @property
    def observing(self) -> Observing:
        """What lets people look at it."""
        return self._observing

    async def start(self) -> None:
        """Take the directory and the port, recover, and serve. Raises `TrothError` with everything released."""
        self._directory.lock()
        try:
            self._context.common.auditing.begin()
            self._directory.remove_address()
            self._port.open()
            await self.begin()
            if self._context.common.history is not None:
                await self._context.common.history.start()
            self._routes.add(self)
            await self._port.start()
            await self.epoch_durable()
            self._show_readiness()
            await asyncio.gather(*self._tasks)
            watches = (descriptors.watch(self._context.common), fills.watch(self._context))
            self._watching = tuple(map(asyncio.create_task, watches))
            await self._observing.start()
            self._directory.write_address(self.address)
        except TrothError:
            await self._release()
            raise

    def _show_readiness(self) -> None:
        """Ready is who takes new work."""
        task = asyncio.create_task(self._port.show(self.ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _use_everywhere(self, config: Config) -> None:
        self._context.common.use(config)
        self.use(config)

    async def stop(self) -> None:
        """Say Goodbye to every stream, stop the server, make durable what is queued, release the directory."""
        await self.say_goodbye()
        await self._release()

    async def abandon(self) -> None:
        """The log has failed: stop at once, and say nothing more to anybody."""
        await self._release()

    async def _release(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await self._observing.stop()
        self._directory.remove_address()
        await self._port.close()
        with contextlib.suppress(TrothError):
            await self.close()
        if self._context.common.history is not None:
            await self._context.common.history.stop()
        with contextlib.suppress(TrothError):
            self._context.common.auditing.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._directory.unlock()


def make_daemon(config: Config, read: Read | None = None) -> Daemon:
    """A daemon on the real core, and on a log in the data directory. `read` reads its settings again. Call it inside
    the running loop."""
    nonce = secrets.token_hex(4)
    core = CoordinatorCore(config.core, config.shell.name, nonce, secrets.token_bytes(SECRET_BYTES))
    directory = DataDirectory(Path(config.shell.data_directory))
    file_log = SqliteLog(directory.log_file, role="coordinator", name=config.shell.name)
    history = History(SqliteHistory(directory.path), bounds_of(config)) if config.shell.history_seconds else None
    return Daemon(config, core, file_log, directory, nonce, history, read)
