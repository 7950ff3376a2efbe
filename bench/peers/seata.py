"""Seata: its server with a synced store, two services that take part by try, confirm and cancel, and callers, all in Java.

That mode is the nearest to "prepare at two services, then commit": the caller begins a transaction, calls each service, which
registers its branch and answers that it has tried, and commits; the server then has each service confirm. Its AT mode is about
databases that it rewrites statements for, and its sagas have no prepare.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result, Span
from bench.peers.ports import Accepting, free_port
from bench.processes import STOP_SECONDS, Process, ProcessFailed, Together, cpu_seconds, memory_kib

SOURCES = Path(__file__).parent / "java"
WARM_CALLERS, WARM_TRANSACTIONS, WARM_SECONDS_MAX = 64, 20_000, 60.0
"""Before anything is measured: Java compiles what has run some thousand times, and on a busy machine that takes long."""
REGISTRY = 'registry { type = "file"\n file { name = "file.conf" } }\nconfig { type = "file"\n file { name = "file.conf" } }\n'
SERVICES = """service {{
  vgroupMapping.bench = "default"
  default.grouplist = "127.0.0.1:{port}"
}}
transport.enableRmClientBatchSendRequest = "false"
"""
"""Services send each message by itself: by default they gather them, and that took half as much CPU again for 16 and 128 callers.
That the server gathers answers, that callers do, and that the server asks both branches at once, brought nothing that was seen."""
Counts = struct.Struct(">4q")
"""Tried, committed, rolled back and synced, as a service tells them."""
FORCES = """<?xml version="1.0" encoding="UTF-8"?>
<configuration version="2.0">
  <event name="jdk.FileForce"><setting name="enabled">true</setting><setting name="threshold">0 ms</setting></event>
</configuration>
"""
"""What the Java runtime is told to record: each sync of a file."""


def jars() -> Path | str:
    """Where Seata's are; or why it cannot be measured."""
    directory = os.environ.get("TEST_SEATA_JARS", "")
    if not directory:
        return "it could not be fetched; see above"
    absent = [program for program in ("java", "javac", "jcmd", "jfr") if shutil.which(program) is None]
    return f"there is no {', no '.join(absent)}: a JDK has them" if absent else Path(directory)


async def compiled(directory: Path, jars: Path) -> Path:
    """Compile the services and the callers into a directory, which javac makes. Raises `ProcessFailed`."""
    sources = [str(file) for file in sorted(SOURCES.glob("*.java"))]
    await _said("javac", "-cp", f"{jars / 'client'}/*", "-d", str(directory), *sources)
    return directory


class Server(Accepting):
    """Seata's server, with its own defaults but for the store; it is ready when it accepts connections."""

    def __init__(self, directory: Path, jars: Path, store: Mapping[str, str]) -> None:
        self.port, console = free_port(), free_port()
        settings = {
            "server.address": "127.0.0.1", "server.port": str(console), "seata.server.service-port": str(self.port),
            "logging.level.root": "warn", "logging.file.path": str(directory / "logs"), **store,
        }  # fmt: skip
        command = ["-Xms1g", "-Xmx2g", *(f"-D{name}={value}" for name, value in settings.items())]
        command += ["-cp", f"{jars / 'server'}/*", "io.seata.server.ServerApplication", "-h", "127.0.0.1"]
        super().__init__("server", directory, command, "java")


class Seata(Together):
    """The server, the services and the callers. Use it as an async context manager."""

    def __init__(self, directory: Path, jars: Path, classes: Path, store: Mapping[str, str], *, synced: bool) -> None:
        super().__init__()
        self._directory, self._jars, self._classes, self._synced = directory, jars, classes, synced
        self.server = Server(directory / "server", jars, store)
        self._services: list[Process] = []
        self._load: asyncio.subprocess.Process | None = None
        self.done = 0
        """Transactions that callers saw committed so far."""
        self.warmed = 0
        """How many of them there were before anything was measured."""

    async def _start(self) -> None:
        settings = self._directory / "settings"
        settings.mkdir(parents=True)
        (settings / "registry.conf").write_text(REGISTRY)
        (settings / "file.conf").write_text(SERVICES.format(port=self.server.port))
        classes = f"{settings}:{self._classes}:{self._jars / 'client'}/*"
        self._stack.push_async_callback(self.server.stop)
        await self.server.start()
        for name in ("left", "right"):
            directory = self._directory / name
            command = ["-cp", classes, "Service", str(directory), name, str(self._synced).lower()]
            one = Process(name, directory, command, "java")
            self._services.append(one)
            self._stack.push_async_callback(one.stop)
            await one.start()
        ports = [one.address.rpartition(":")[2] for one in self._services]
        log = self._stack.enter_context((self._directory / "load.log").open("wb"))
        self._load = await asyncio.create_subprocess_exec(
            "java", "-cp", classes, "Load", *ports, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        self._stack.push_async_callback(self._end_load)
        await self._warm()

    async def _warm(self) -> None:
        end = time.monotonic() + WARM_SECONDS_MAX
        while self.done < WARM_TRANSACTIONS and time.monotonic() < end:
            await self.run("warm", WARM_CALLERS, Span(3.0, 0.1))
        self.warmed = self.done

    async def _end_load(self) -> None:
        assert self._load is not None and self._load.stdin is not None
        self._load.stdin.close()
        try:
            await asyncio.wait_for(self._load.wait(), STOP_SECONDS)
        except TimeoutError:
            self._load.kill()
            await self._load.wait()

    @property
    def pids(self) -> dict[str, int]:
        """Its processes."""
        assert self._load is not None
        return {"load": self._load.pid, "server": self.server.pid, **{one.name: one.pid for one in self._services}}

    async def run(self, name: str, callers: int, span: Span, others: Mapping[str, int] | None = None) -> Result:
        """Measure so many callers. Raises `ProcessFailed` where the services have not done what the callers were told."""
        assert self._load is not None and self._load.stdin is not None
        pids = {**self.pids, **(others or {})}
        self._load.stdin.write(f"{callers} {span.warm_seconds} {span.seconds}\n".encode())
        await self._line("began")
        before = {one: cpu_seconds(pid) for one, pid in pids.items()}
        await self._line("ended")
        cpu = {one: cpu_seconds(pid) - before[one] for one, pid in pids.items()}
        done, failed, every, seconds, p50, p99, p999 = (float(word) for word in (await self._line()).split())
        self.done += int(every)
        await self._agree()
        return Result(
            name, callers, int(done), int(failed), done / seconds, p50, p99, p999,
            cpu_us={one: value / max(1.0, done) * 1e6 for one, value in cpu.items()},
            memory_mib={one: memory_kib(pid) / 1024 for one, pid in pids.items()},
        )  # fmt: skip

    async def _line(self, wanted: str = "") -> str:
        assert self._load is not None and self._load.stdout is not None
        line = (await self._load.stdout.readline()).decode().strip()
        if not line or (wanted and line != wanted):
            raise ProcessFailed(f"Seata's callers said {line!r}: {(self._directory / 'load.log').read_text()[-1000:]}")
        return line

    async def _agree(self) -> None:
        for one in self._services:
            tried, committed, rolled_back, _ = await self._counts(one)
            if not tried == committed == self.done or rolled_back:
                told = f"tried {tried}, committed {committed}, rolled back {rolled_back}; callers saw {self.done}"
                raise ProcessFailed(f"Seata's service {one.name} has {told}")

    @staticmethod
    async def _counts(service: Process) -> tuple[int, ...]:
        host, _, port = service.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(b"\0\0")
            return Counts.unpack(await reader.readexactly(Counts.size))
        finally:
            writer.close()

    async def syncs(self, span: Span) -> dict[str, float]:
        """How often the server and each service sync a file for a transaction of one caller, counted by the Java runtime itself."""
        processes = {"server": self.server, **{one.name: one for one in self._services}}
        settings = self._directory / "forces.jfc"
        settings.write_text(FORCES)
        for one in processes.values():
            await _said("jcmd", str(one.pid), "JFR.start", "name=forces", f"settings={settings}")
        before = self.done
        await self.run("syncs", 1, span)
        found: dict[str, float] = {}
        for name, one in processes.items():
            file = self._directory / f"{name}.jfr"
            await _said("jcmd", str(one.pid), "JFR.stop", "name=forces", f"filename={file}")
            told = re.search(r"jdk\.FileForce\s+(\d+)", await _said("jfr", "summary", str(file)))
            found[name] = int(told[1]) / max(1, self.done - before) if told is not None else 0.0
        return found


async def _said(program: str, *arguments: str) -> str:
    """What a program of the JDK says. Raises `ProcessFailed`."""
    place = shutil.which(program)
    if place is None:
        raise ProcessFailed(f"there is no {program}: a JDK has it")
    process = await asyncio.create_subprocess_exec(
        place, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode(errors="replace")
    if process.returncode != 0:
        raise ProcessFailed(f"{program} ended with {process.returncode}: {said[-1000:]}")
    return said
