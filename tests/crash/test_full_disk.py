"""Real processes whose disk is really full: they stop with a clear message, and go on when there is room again.

The full file system is a small tmpfs, where this machine lets us mount one. Everywhere on Linux there is the other way: a limit on
the size of a process's files, set while it runs; SQLite then gets an I/O error in the middle of a write.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from bank_check import check
from bank_cluster import COORDINATOR, BankCluster
from demo import settle
from processes import Process
from transfers import Clerks

FULL_SECONDS = 240.0
STATUS = {COORDINATOR: 3, "north": 1}
KIBIBYTE = 1024


def mount(*arguments: str | Path) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@contextmanager
def small_file_system(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True)
    try:
        mounted = mount("-t", "tmpfs", "-o", "size=700k", "troth-test", directory)
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this machine lets us mount nothing")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@asynccontextmanager
async def transfers(cluster: BankCluster, directory: Path) -> AsyncIterator[Clerks]:
    """Load while the block runs; then everything is finished, stopped and checked."""
    addresses = {name: bank.address for name, bank in cluster.banks.items()}
    async with Clerks(cluster.clients_address, addresses, directory / "told.jsonl", 1) as clerks:
        working = asyncio.create_task(clerks.work())
        try:
            yield clerks
            clerks.over.set()
            async with asyncio.timeout(FULL_SECONDS):
                await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    await settle(cluster.coordinator.address)
    await cluster.stop()
    verdict = check(directory)
    assert not verdict.wrong, "\n".join(verdict.wrong[:20])
    assert verdict.committed > 0


async def ends_by_itself(process: Process, directory: Path, said: tuple[str, ...]) -> None:
    """With its own status, and with words that tell what happened."""
    status = await asyncio.wait_for(process.ended(), FULL_SECONDS)
    words = (directory / f"{process.name}.log").read_text()
    assert status == STATUS[process.name], words[-2000:]
    assert any(text in words for text in said), words[-2000:]
    assert "Traceback" not in words, words


@pytest.mark.parametrize("name", STATUS)
async def test_a_file_system_that_is_full(name: str, tmp_path: Path) -> None:
    with small_file_system(tmp_path / name):
        async with BankCluster(tmp_path) as cluster:
            victim = cluster.processes[name]
            async with transfers(cluster, tmp_path):
                await ends_by_itself(victim, tmp_path, ("disk is full", "FullError"))
                assert not await started(victim), "it started on a full disk"
                assert mount("-o", "remount,size=256m", tmp_path / name)
                assert await victim.start()


async def started(process: Process) -> bool:
    """Whether it comes up, and stays so; a full disk may let it read but not begin a new life."""
    await process.spawn()
    try:
        await asyncio.wait_for(process.ended(), FULL_SECONDS)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("name", STATUS)
async def test_a_limit_on_the_size_of_files(name: str, tmp_path: Path) -> None:
    async with BankCluster(tmp_path) as cluster:
        victim = cluster.processes[name]
        async with transfers(cluster, tmp_path):
            largest = max(file.stat().st_size for file in (tmp_path / name).iterdir())
            limit = largest + 100 * KIBIBYTE
            resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (limit, limit))
            await ends_by_itself(victim, tmp_path, ("I/O error", "IOError"))
            assert await victim.start()
