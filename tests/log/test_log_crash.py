"""Real processes that die while they write: kill -9, a file size limit, `python -O`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from log_samples import numbers

from troth.log.sqlite import SqliteLog

ROOT = Path(__file__).parents[2]
WRITER = """
import asyncio, resource, sys
sys.path.insert(0, "tests/log")
from log_samples import batch
from troth.errors import LogFailed
from troth.log.sqlite import SqliteLog

async def main(path, bytes_max):
    log = SqliteLog(path, role="coordinator", name="c1")
    await log.open()
    if bytes_max:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))
    try:
        for number in range(1, 100_000):
            await log.write(batch(number, size=300), sync=True, drop_below=max(0, number - 50))
            print(number, flush=True)
    except LogFailed as error:
        print("failed", error.reason.name, flush=True)
    await log.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def writer(path: Path, bytes_max: int = 0, *options: str) -> subprocess.Popen[str]:
    """A process that writes numbered records, and prints each number once it is durable."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", WRITER, str(path), str(bytes_max)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


async def found(path: Path) -> list[int]:
    log = SqliteLog(path, role="coordinator", name="c1")
    _, records = await log.open()
    await log.close()
    return numbers(records)


@pytest.mark.parametrize("after", [1, 40, 300])
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, after: int) -> None:
    path = tmp_path / "log.db"
    acknowledged = 0
    with writer(path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == after:
                process.kill()
    records = await found(path)
    assert records[-1] in (acknowledged, acknowledged + 1)
    assert records == list(range(max(1, records[-1] - 50), records[-1] + 1))


@pytest.mark.parametrize("options", [(), ("-O",)])
async def test_a_disk_that_takes_no_more_stops_the_log_and_a_restart_recovers(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "log.db"
    output, _ = writer(path, 60_000, *options).communicate()
    *acknowledged, failure = output.split("\n")[:-1]
    assert failure == "failed LOG_FAILED"
    records = await found(path)
    assert len(acknowledged) > 5
    assert records[-1] in (len(acknowledged), len(acknowledged) + 1)


def test_without_assertions_the_suite_holds(tmp_path: Path) -> None:
    """`python -O` removes the assertions of the log. pytest's own must stay, so the contract is run from outside."""
    script = """
import asyncio, sys
sys.path.insert(0, "tests/log")
from pathlib import Path
from log_samples import FileStore, batch, numbers
from troth.errors import LogDamaged, LogLocked

async def refused(log, kind):
    try:
        await log.open()
    except kind:
        return True

async def main():
    store = FileStore(Path(sys.argv[1]))
    log = store.log()
    await log.open()
    await log.write(batch(1, 2), sync=True)
    if not await refused(store.log(), LogLocked): sys.exit("not locked")
    store.crash()
    await log.close()
    log = store.log()
    if numbers((await log.open())[1]) != [1, 2]: sys.exit("lost")
    await log.close()
    content = bytearray(store.path.read_bytes())
    content[content.rindex(b"t2")] ^= 1
    store.path.write_bytes(content)
    if not await refused(store.log(), LogDamaged): sys.exit("damage not seen")

asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-O", "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
