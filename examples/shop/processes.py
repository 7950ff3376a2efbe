"""The shop's four processes: the coordinator and three services. Starts them, kills them, starts them again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc

from participant_sdk import Tls
from troth.v1 import admin_pb2, admin_pb2_grpc

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COORDINATOR, OPERATOR = "coordinator", "operator"
SERVICES = ("orders", "inventory", "payments")
DIRECT = (("grpc.enable_http_proxy", 0),)
"""For channels between our own processes: a proxy for the web has no business there."""
READY_SECONDS = 60.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.02
"""How often a starting process is looked at."""


class ProcessFailed(Exception):
    """A process ended by itself, or did not become ready. The text says which, and what it said."""


class Process:
    """One process, its directory, and where it listens. It listens at the same place whenever it starts again."""

    def __init__(self, name: str, command: list[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.address = ""
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._log = directory.with_suffix(".log")
        self._place = socket.socket()
        weakref.finalize(self, self._place.close)

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """The id of the process that was started last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def serving(self) -> bool:
        """Whether it has said, since it was started, where it listens."""
        return self.running and self._address_file.exists()

    async def start(self, failpoints: str = "") -> bool:
        """Start it and wait until it is ready. Returns False when it was killed before that.

        Raises `ProcessFailed` when it ended in another way.
        """
        await self.spawn(failpoints)
        return await self.ready()

    async def spawn(self, failpoints: str = "") -> None:
        """Start it, with `failpoints` armed as `troth.failpoints` says."""
        assert not self.running, f"{self.name} is running"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._address_file.unlink(missing_ok=True)
        listen = self.address or self._take_place()
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C goes to the one who started us, who then stops everything in order.
            self._process = await asyncio.create_subprocess_exec(
                *(part.format(listen=listen) for part in self._command),
                cwd=ROOT,
                env={**self._environment, "SHOP_LISTEN": listen, "TROTH_FAILPOINTS": failpoints},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self) -> bool:
        """Wait until it serves. Returns False when it was killed before that. Raises `ProcessFailed`."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not self._address_file.exists():
                    if not self.running:
                        return self._was_killed()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise ProcessFailed(f"{self.name} was not ready after {READY_SECONDS:.0f} s{self._last_words()}") from None
        self.address = self._address_file.read_text().strip()
        return True

    async def ended(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        assert self._process is not None, f"{self.name} was never started"
        return await self._process.wait()

    def kill(self) -> None:
        """Kill it with SIGKILL, now."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is running."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """Stop it with SIGTERM, and wait for that. Raises `ProcessFailed` when it does not end in order."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            status = await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
            raise ProcessFailed(f"{self.name} did not stop in {STOP_SECONDS:.0f} s{self._last_words()}") from None
        if status != 0:
            raise ProcessFailed(f"{self.name} ended with status {status} after SIGTERM{self._last_words()}")

    def unexpected_end(self, status: int) -> ProcessFailed:
        """The error for an end that nobody ordered."""
        return ProcessFailed(f"{self.name} ended by itself, with status {status}{self._last_words()}")

    def _take_place(self) -> str:
        """Take a free port, and keep it also while the process is down.

        Otherwise somebody who dials anything then may be given this port for the connection, and the process could not come back.
        On Linux a socket that does not listen keeps everybody out but who sets SO_REUSEADDR as well, as a server does.
        """
        if sys.platform == "linux":
            self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._place.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self._place.getsockname()[1]}"
        return self.address or "127.0.0.1:0"

    @property
    def _address_file(self) -> Path:
        return self.directory / "address"

    def _was_killed(self) -> bool:
        status = self._process.returncode if self._process is not None else None
        if status != -signal.SIGKILL:
            raise self.unexpected_end(status or 0)
        return False

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:] if self._log.exists() else []
        return "; its last words:\n    " + "\n    ".join(lines) if lines else ""


class Cluster:
    """The coordinator and the three services, with all their files below one directory.

    `settings` are the coordinator's, as NAME=VALUE. `identity` tells how a service, or an operator, shows who it is to a
    coordinator that wants to know.
    """

    def __init__(self, directory: Path, settings: Sequence[str] = (), identity: Callable[[str], Tls] | None = None) -> None:
        self.directory = directory
        self._identity = identity
        command = [*_troth_serve(directory / COORDINATOR), *(part for one in settings for part in ("--set", one))]
        self.coordinator = Process(COORDINATOR, command, directory / COORDINATOR, _clean())
        self.services: dict[str, Process] = {}

    @property
    def processes(self) -> dict[str, Process]:
        """All processes by name, the coordinator first."""
        return {COORDINATOR: self.coordinator, **self.services}

    async def start(self, failpoints: Mapping[str, str] | None = None) -> None:
        """Start everything; `failpoints` by the name of the process."""
        armed = failpoints or {}
        if not await self.coordinator.start(armed.get(COORDINATOR, "")):
            raise ProcessFailed("the coordinator was killed before it had started")
        for name in SERVICES:
            environment = _clean() | {
                "SHOP_DIRECTORY": str(self.directory / name),
                "SHOP_COORDINATOR": self.coordinator.address,
                **self._shown_by(name),
            }
            command = [sys.executable, str(HERE / f"{name}.py")]
            self.services[name] = Process(name, command, self.directory / name, environment)
        await asyncio.gather(*(self.services[name].start(armed.get(name, "")) for name in SERVICES))
        await self._all_known()

    async def _all_known(self) -> None:
        """Wait until the coordinator has seen every service once: before that it calls their names unknown."""
        async with self._channel() as channel, asyncio.timeout(READY_SECONDS):
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            while True:
                listed = await admin.ListParticipants(admin_pb2.ListParticipantsRequest(), wait_for_ready=True)
                if {one.participant for one in listed.participants if one.connected} >= set(SERVICES):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    def _channel(self) -> grpc.aio.Channel:
        if self._identity is None:
            return grpc.aio.insecure_channel(self.coordinator.address, DIRECT)
        return grpc.aio.secure_channel(self.coordinator.address, self._identity(OPERATOR).channel_credentials(), DIRECT)

    def _shown_by(self, name: str) -> dict[str, str]:
        """What a service is told of who it is."""
        if self._identity is None:
            return {}
        tls = self._identity(name)
        return {"SHOP_AUTHORITIES": str(tls.authorities), "SHOP_CERTIFICATE": str(tls.certificate), "SHOP_KEY": str(tls.key)}

    async def stop(self) -> None:
        """Stop everything in order: the services first, since they have more to say."""
        await asyncio.gather(*(service.stop() for service in self.services.values()))
        await self.coordinator.stop()

    def kill(self) -> list[str]:
        """Kill everything at once; returns the names of what was running."""
        running = [process for process in self.processes.values() if process.running]
        for process in running:
            process.kill()
        return [process.name for process in running]


def _troth_serve(data_directory: Path) -> list[str]:
    script = Path(sys.executable).with_name("troth")
    # Without an installed command (in a development environment, say) the same from the source tree.
    troth = [str(script)] if script.exists() else [sys.executable, "-m", "coordinator.cli"]
    return [*troth, "serve", "--data-directory", str(data_directory), "--listen", "{listen}"]


def _clean() -> dict[str, str]:
    """The environment without settings that are not ours; the source tree can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TROTH_", "SHOP_"))}
    return kept | {"PYTHONPATH": str(ROOT)}
