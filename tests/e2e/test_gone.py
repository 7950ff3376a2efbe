"""What a process finds around it: standard output whose reader is gone, variables that name a proxy."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from participant_sdk.client import Client, call

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
PROXY = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
SERVICE = """
import asyncio, logging, signal, sys
from participant_sdk import Participant, SqliteResource
SCHEMA = "CREATE TABLE IF NOT EXISTS kept (n INTEGER PRIMARY KEY NOT NULL)"
logging.basicConfig(stream=sys.stdout, level=logging.DEBUG)
directory, coordinator = sys.argv[1:]
resource = SqliteResource(f"{directory}/s.db", schema=SCHEMA)
store = Participant("store", resource=resource, data_directory=directory, coordinator=coordinator)
@store.operation(locks=[])
def fail(db) -> None:
    raise ValueError("said on a pipe that nobody reads")
@store.operation(locks=["kept"])
def add(db) -> int:
    db.execute("INSERT INTO kept SELECT 1 + count(*) FROM kept")
    return db.one("SELECT count(*) FROM kept")[0]
async def main():
    async with store:
        await store.wait_connected()
        print("READY", flush=True)
        serving = asyncio.ensure_future(store.serve())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        await asyncio.wait((serving,))
asyncio.run(main())
"""

Spawn = Callable[..., "asyncio.Future[Process]"]


class Process:
    """A process whose standard output and error are one pipe, which the test can leave."""

    def __init__(self, pid: asyncio.subprocess.Process, reading: int) -> None:
        self.running = pid
        self._reading = reading

    @classmethod
    async def spawn(cls, *command: str, **extra: str) -> Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("TROTH_", "GRPC_"))}
        reading, writing = os.pipe()
        started = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=writing, stderr=writing, env={**clean, "PYTHONPATH": str(ROOT), **extra}
        )
        os.close(writing)
        return cls(started, reading)

    async def said(self, text: str) -> str:
        """Read until a text was said; returns the line."""
        heard = ""
        async with asyncio.timeout(SECONDS):
            while text not in heard or not heard.endswith("\n"):
                part = await asyncio.to_thread(os.read, self._reading, 4096)
                assert part, heard
                heard += part.decode()
        return next(line for line in heard.splitlines() if text in line)

    def leave(self) -> None:
        """Nobody reads any more."""
        os.close(self._reading)
        self._reading = -1

    async def ended(self, number: signal.Signals) -> int:
        """Send a signal; returns the exit status."""
        self.running.send_signal(number)
        async with asyncio.timeout(SECONDS):
            return await self.running.wait()

    async def stop(self) -> None:
        if self.running.returncode is None:
            self.running.kill()
            await self.running.wait()
        if self._reading >= 0:
            self.leave()


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[..., object]]:
    started: list[Process] = []

    async def start(*command: str, **extra: str) -> Process:
        started.append(await Process.spawn(*command, **extra))
        return started[-1]

    yield start
    for process in started:
        await process.stop()


def serving(directory: Path, listen: str = "127.0.0.1:0") -> tuple[str, ...]:
    return ("-m", "coordinator.cli", "serve", "--data-directory", str(directory), "--listen", listen)


def address_in(line: str) -> str:
    return line.split(" on ")[1].split()[0]


async def add(address: str) -> object:
    async with Client(address) as client:
        done = await client.run(call("store", "add"), timeout=30.0, attempts=20)
        return done.results["store"]


async def test_a_service_whose_output_nobody_reads_goes_on_and_ends_when_told(spawn: Spawn, tmp_path: Path) -> None:
    daemon = await spawn(*serving(tmp_path / "c1"))
    address = address_in(await daemon.said("serving on"))
    service = await spawn("-c", SERVICE, str(tmp_path), address)
    await service.said("READY")
    service.leave()
    assert await add(address) == [1]
    async with Client(address) as client:
        with pytest.raises(Exception, match="OPERATION_FAILED"):
            await client.run(call("store", "fail"))
    await daemon.ended(signal.SIGKILL)  # it has to say that the coordinator is away
    daemon = await spawn(*serving(tmp_path / "c1", address))
    await daemon.said("serving on")
    assert await add(address) == [2]
    assert await service.ended(signal.SIGTERM) == 0


async def test_a_daemon_whose_output_nobody_reads_goes_on_and_ends_when_told(spawn: Spawn, tmp_path: Path) -> None:
    daemon = await spawn(*serving(tmp_path / "c1"), "--log-level", "debug")
    address = address_in(await daemon.said("serving on"))
    daemon.leave()
    service = await spawn("-c", SERVICE, str(tmp_path), address)
    await service.said("READY")
    assert await add(address) == [1]
    await service.ended(signal.SIGKILL)
    service = await spawn("-c", SERVICE, str(tmp_path), address)
    await service.said("READY")
    assert await add(address) == [2]
    assert await daemon.ended(signal.SIGTERM) == 0


async def test_a_proxy_for_the_web_is_not_asked(spawn: Spawn, tmp_path: Path) -> None:
    daemon = await spawn(*serving(tmp_path / "c1"), **PROXY)
    address = address_in(await daemon.said("serving on"))
    service = await spawn("-c", SERVICE, str(tmp_path), address, **PROXY)
    await service.said("READY")
    caller = await spawn("-c", f"import asyncio; from test_gone import add; print(asyncio.run(add({address!r})))", **PROXY,
                         PYTHONPATH=f"{ROOT}{os.pathsep}{Path(__file__).parent}")  # fmt: skip
    assert await caller.said("[1]")
    status = await spawn("-m", "coordinator.cli", "status", "--coordinator", address, **PROXY)
    assert await status.said("coordinator")
    assert await status.running.wait() == 0
