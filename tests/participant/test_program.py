"""A participant as a whole program: signals, exit statuses, and what it says at its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import asyncio, math, sys
from participant_sdk import Participant, SqliteResource
directory, coordinator, how = sys.argv[1:]
store = Participant("store", resource=SqliteResource(f"{directory}/s.db"), data_directory=directory, coordinator=coordinator)
async def prepare():
    await store.local(lambda db: None, wait_seconds=math.inf)
    print("READY", flush=True)
    if how == "waits":
        await asyncio.sleep(3600)
    if how == "fails":
        raise ValueError("the author's")
sys.exit(store.run(prepare if how != "plain" else None))
"""


async def begun(directory: Path, coordinator: str, how: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(directory), coordinator, how,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    try:
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", ["prepares", "waits", "plain"])
async def test_a_signal_ends_it_without_a_traceback(
    how: str, number: signal.Signals, tmp_path: Path, coordinator: PaperCoordinator
) -> None:
    process = await begun(tmp_path, coordinator.address, how)
    await coordinator.welcomed()
    if how != "plain":
        assert process.stdout is not None and await process.stdout.readline() == b"READY\n"
    process.send_signal(number)
    assert await ended(process) == (0, "")


async def test_one_that_is_sent_away_is_status_1(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    process = await begun(tmp_path, coordinator.address, "prepares")
    stream = await coordinator.accept()
    stream.goodbye("STALE_INCARNATION", retryable=False)
    status, said = await ended(process)
    assert status == 1 and "STALE_INCARNATION" in said and "Traceback" not in said


async def test_a_log_that_another_has_is_status_3(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    first = await begun(tmp_path, coordinator.address, "plain")
    await coordinator.welcomed()
    status, said = await ended(await begun(tmp_path, coordinator.address, "plain"))
    first.terminate()
    await ended(first)
    assert status == 3 and "LOG_LOCKED" in said and "Traceback" not in said


async def test_what_prepare_raises_is_raised(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    status, said = await ended(await begun(tmp_path, coordinator.address, "fails"))
    assert status == 1 and "ValueError: the author's" in said
