"""What the disk in memory adds for simulations: chosen losses, failures, delays."""

from __future__ import annotations

import asyncio

import pytest
from log_samples import MemoryStore, batch, numbers

from troth.errors import LogFailed
from troth.log.memory import Disk, MemoryLog


@pytest.mark.parametrize(("keep", "found"), [(0, [1]), (1, [1, 2]), (2, [1, 2, 3]), (9, [1, 2, 3])])
async def test_a_crash_keeps_as_many_unsynced_batches_as_it_is_told(keep: int, found: list[int]) -> None:
    store = MemoryStore()
    log = store.log()
    await log.open()
    await log.write(batch(1), sync=True)
    await log.write(batch(2), sync=False)
    await log.write(batch(3), sync=False)
    store.disk.crash(keep)
    assert numbers((await store.log().open())[1]) == found


async def test_a_kept_batch_drops_the_head_as_it_would_have() -> None:
    store = MemoryStore()
    log = store.log()
    await log.open()
    await log.write(batch(1), sync=True)
    await log.write(batch(2), sync=False, drop_below=2)
    store.disk.crash(keep=1)
    assert numbers((await store.log().open())[1]) == [2]


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
async def test_the_nth_call_fails_and_the_log_is_done_for(call: int) -> None:
    disk = Disk(fail_at={call: "no space left"})
    acknowledged: list[int] = []
    log = MemoryLog(disk, role="coordinator", name="c1")
    with pytest.raises(LogFailed, match="no space left"):
        await log.open()
        for number in (1, 2):
            await log.write(batch(number), sync=True)
            acknowledged.append(number)
    with pytest.raises(LogFailed):
        await log.write(batch(9), sync=True)
    await log.close()
    disk.crash(keep=1)
    found = numbers((await MemoryLog(disk, role="coordinator", name="c1").open())[1])
    assert found[: len(acknowledged)] == acknowledged
    assert 9 not in found


async def test_a_crash_while_a_sync_runs_cuts_the_writer_off() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def latency() -> None:
        begun.set()
        await go_on.wait()

    disk = Disk(latency=latency)
    log = MemoryLog(disk, role="coordinator", name="c1")
    await log.open()
    writing = asyncio.create_task(log.write(batch(1), sync=True))
    await begun.wait()
    disk.crash()
    successor = MemoryLog(disk, role="coordinator", name="c1")
    assert numbers((await successor.open())[1]) == []
    go_on.set()
    with pytest.raises(LogFailed, match="cut off by a crash"):
        await writing
    await log.close()
    assert disk.holder is successor
    assert disk.syncs == 0
