"""The engine: how it starts, how it fails and how it stops."""

from __future__ import annotations

import asyncio

import pytest
from engine_rig import Rig, Start
from scripted_core import ILLEGAL, Do, GateLog, append

from troth.engine import Engine
from troth.errors import LogDamaged, LogFailed, Reason
from troth.ready import Effect, Instant

FAILED = LogFailed(Reason.LOG_FAILED, "the disk is full")


@pytest.fixture
async def gated() -> Rig:
    return Rig(log=GateLog(gated=True))


# ---- errors


async def test_an_illegal_event_is_told_and_changes_nothing(start: Start) -> None:
    rig = await start(Rig())
    rig.engine.submit_all([ILLEGAL, Do(effects=("next",))])
    await rig.until_done("next")
    assert rig.violations == [(ILLEGAL, ILLEGAL.error)]
    assert rig.engine.counters.protocol_errors == 1


async def test_without_a_listener_an_illegal_event_is_counted(start: Start) -> None:
    rig = Rig()
    rig.engine = Engine("coordinator", rig.core, rig.log, rig.perform)
    await start(rig)
    rig.engine.submit_all([ILLEGAL, Do(effects=("next",))])
    await rig.until_done("next")
    assert rig.engine.counters.protocol_errors == 1


async def test_a_failed_log_ends_everything(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.log.write_error = FAILED
    rig.engine.submit(Do((append("a", "said"),)))
    await rig.log.begun()
    rig.engine.submit(Do((append("b", "said too"),)))
    rig.log.let_go()
    assert await rig.failed() is FAILED
    await rig.engine.stop()
    rig.engine.submit(Do(effects=("after the end",)))
    rig.engine.submit_all([Do(effects=("after the end",))])
    assert rig.done == []
    assert rig.engine.backlog() <= 2
    assert len(rig.log.batches) == 1
    assert rig.log.closed == 1


async def test_a_bug_in_the_core_ends_everything_and_is_named(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", "said"),)))
    await rig.log.begun()
    bug = AssertionError("a state that cannot be")
    rig.engine.submit(Do(error=bug))
    error = await rig.failed()
    rig.log.let_go()
    await rig.engine.stop()
    assert isinstance(error, Exception)
    assert (error.__cause__, "a state that cannot be" in str(error)) == (bug, True)
    assert rig.done == []  # not even what became durable: the core that asked for it is broken


async def test_a_bug_in_the_shell_ends_everything(start: Start) -> None:
    rig = await start(Rig(perform_error=ValueError("a shell that raises")))
    rig.engine.submit(Do((append("a", "said"),)))
    assert "a shell that raises" in str(await rig.failed())


async def test_only_the_first_failure_is_told(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a"),)))
    await rig.log.begun()
    rig.engine.submit(Do(error=AssertionError("first")))
    first = await rig.failed()
    rig.log.write_error = FAILED
    rig.log.let_go()
    await rig.engine.stop()
    assert await rig.failed() is first


@pytest.mark.parametrize("where", ["log", "core"])
async def test_a_start_that_fails_releases_the_log(where: str) -> None:
    rig = Rig()
    error = LogDamaged(Reason.LOG_DAMAGED, "record 3 is missing")
    if where == "log":
        rig.log.open_error = error
    else:
        rig.core.recover_error = error
    with pytest.raises(LogDamaged):
        await rig.engine.start()
    assert rig.log.closed == 1
    await rig.engine.stop()


# ---- starting and stopping


async def test_recovery_comes_before_what_was_submitted(start: Start) -> None:
    rig = Rig()
    await rig.log.write([append("a"), append("b")], sync=True)
    rig.engine.submit(Do(effects=("first",)))
    await start(rig)
    await rig.until_done("first")
    assert rig.core.recovered == ["a", "b"]


async def test_stop_handles_what_is_queued_and_makes_it_durable(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.log.gated = False
    rig.engine.submit(Do((append("a", "a", event=Do((append("c", "c"),))), append("b", "b", force=False))))
    await rig.engine.stop()
    assert rig.done == ["a", "b", "c"]
    assert rig.log.closed == 1
    assert rig.engine.backlog() == 0


async def test_stop_writes_what_lingers(start: Start) -> None:
    rig = await start(Rig(clocks=lambda: Instant(1.0, 0)))
    rig.engine.submit(Do((append("a", "a", force=False),), ("stepped",)))
    await rig.until_done("stepped")
    await rig.engine.stop()
    assert rig.done == ["stepped", "a"]


async def test_a_cancelled_stop_cancels_nothing(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", "a"),)))
    await rig.log.begun()
    stopping = asyncio.create_task(rig.engine.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    rig.log.let_go()
    await rig.engine.stop()
    assert rig.done == ["a"]
    assert rig.log.closed == 1


async def test_whoever_waits_for_an_effect_and_is_cancelled_cancels_nothing(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    waiting = asyncio.create_task(rig.until_done("a"))
    rig.engine.submit(Do((append("a", "a"),)))
    await rig.log.begun()
    waiting.cancel()
    rig.log.let_go()
    await rig.until_done("a")


async def test_an_effect_that_submits_does_not_starve_others(start: Start) -> None:
    rig, rounds = Rig(), 0

    def perform(effect: Effect) -> None:
        nonlocal rounds
        rounds += 1
        if not stop.is_set():
            rig.engine.submit(Do(effects=("again",)))

    stop = asyncio.Event()
    rig.perform = perform
    rig.__post_init__()
    await start(rig)
    rig.engine.submit(Do(effects=("again",)))
    for _ in range(20):
        await asyncio.sleep(0)  # comes back only because the engine lets others run
    stop.set()
    await rig.engine.stop()
    assert rounds >= 10
