"""Serves the console in the daemon's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn

from coordinator.console.app import Console
from coordinator.inside import Inside
from coordinator.shell_settings import ShellSettings
from troth.address import split_address
from troth.errors import ConfigError
from troth.logs import get_logger

log = get_logger("troth.console")

STOP_SECONDS = 2.0


class ConsoleServer:
    """One address."""

    def __init__(self, shell: ShellSettings, inside: Inside) -> None:
        self._shell = shell
        self.console = Console(inside, shell)
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def url(self) -> str:
        """Where people find it."""
        return f"http{'s' if self._shell.tls_certificate else ''}://{self.address}/"

    def start(self) -> None:
        """Listen. Raises `ConfigError` for an address that cannot be had."""
        host, port = split_address(self._shell.console_listen)
        try:
            family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.socket(family, kind)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
            text = f"console_listen is {self._shell.console_listen!r}: {error.strerror}"
            raise ConfigError(text, hint="Name an address that is free.") from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self.console.app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
            ssl_certfile=self._shell.tls_certificate or None, ssl_keyfile=self._shell.tls_key or None,
            timeout_graceful_shutdown=int(STOP_SECONDS), limit_concurrency=256, h11_max_incomplete_event_size=65_536,
        )  # fmt: skip
        self._server = QuietServer(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="troth-console")
        log.info("the console is served", url=self.url)

    async def stop(self) -> None:
        """Serve no more."""
        self.console.ending.set()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()


class QuietServer(uvicorn.Server):
    """Leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as the base class has it
        yield
