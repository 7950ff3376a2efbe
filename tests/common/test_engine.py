"""The engine: nothing is said before it is durable, and nothing is written twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from scripted_core import ILLEGAL, Do, GateLog, ScriptedCore, append, name_of

from troth import engine, failpoints
from troth.engine import Engine, read_clocks
from troth.errors import LogDamaged, LogFailed, ProtocolError, Reason
from troth.log import cleaner
from troth.ready import Append, Effect, Event, Instant, Ready

FAILED = LogFailed(Reason.LOG_FAILED, "the disk is full")


@dataclass
class Rig:
    """An engine with everything around it."""

    core: ScriptedCore = field(default_factory=ScriptedCore)
    log: GateLog = field(default_factory=GateLog)
    done: list[Effect] = field(default_factory=list)
    violations: list[tuple[Event, ProtocolError]] = field(default_factory=list)
    perform_error: Exception | None = None
    clocks: Callable[[], Instant] = read_clocks
    batch_max: int = 2048

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.engine = Engine(
            "coordinator",
            self.core,
            self.log,
            self.perform,
            on_violation=lambda event, error: self.violations.append((event, error)),
            clocks=self.clocks,
            batch_max=self.batch_max,
        )

    def perform(self, effect: Effect) -> None:
        if self.perform_error is not None:
            raise self.perform_error
        self.done.append(effect)
        self._changed.set()

    async def until_done(self, *effects: Effect) -> None:
        """Wait until exactly these were performed, in this order."""
        while len(self.done) < len(effects):
            self._changed.clear()
            await self._changed.wait()
        assert self.done == list(effects)

    async def failed(self) -> BaseException:
        """Wait for the engine's end."""
        return await asyncio.wait_for(asyncio.shield(self.engine.failed), 10)


Start = Callable[[Rig], Awaitable[Rig]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts an engine, and stops it at the end."""
    rigs: list[Rig] = []

    async def started(rig: Rig) -> Rig:
        await rig.engine.start()
        rigs.append(rig)
        return rig

    yield started
    for rig in rigs:
        rig.log.gated = False
        rig.log.let_go()
        await rig.engine.stop()


@pytest.fixture
async def gated() -> Rig:
    return Rig(log=GateLog(gated=True))


def test_a_ready_is_true_when_it_holds_something() -> None:
    assert not Ready()
    assert Ready(effects=["a"])
    assert Ready(appends=[append("a")])


# ---- persist, then speak


async def test_effects_and_events_wait_for_durability(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", "said a", event="a is durable"),), ("at once",)))
    await rig.log.begun()
    await rig.until_done("at once")
    rig.log.let_go()
    await rig.until_done("at once", "said a")
    rig.engine.submit(Do(effects=("last",)))
    await rig.until_done("at once", "said a", "last")
    assert rig.core.seen[1] == "a is durable"


async def test_the_core_is_stepped_on_while_a_sync_runs_and_the_next_batch_takes_all(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", 1),)))
    await rig.log.begun()
    for name in "bcd":
        rig.engine.submit(Do((append(name, name),), (f"heard {name}",)))
    await rig.until_done("heard b", "heard c", "heard d")
    assert rig.engine.backlog() == 3
    rig.log.let_go()
    await rig.log.begun()
    rig.log.let_go()
    await rig.until_done("heard b", "heard c", "heard d", 1, "b", "c", "d")
    assert rig.log.batches == [(["a"], True, 0), (["b", "c", "d"], True, 0)]
    assert (rig.engine.counters.records, rig.engine.counters.batches, rig.engine.counters.syncs) == (4, 2, 2)


async def test_durable_events_go_before_what_waits(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", event="a durable"), append("b", event="b durable"))))
    await rig.log.begun()
    rig.log.let_go()
    rig.engine.submit_all(["later", Do(effects=("done",))])
    await rig.until_done("done")
    order = [event for event in rig.core.seen if isinstance(event, str)]
    assert order in (["a durable", "b durable", "later"], ["later", "a durable", "b durable"])
    await rig.engine.stop()


async def test_an_event_of_an_append_precedes_a_reply_that_its_effect_provokes(start: Start) -> None:
    rig = Rig()
    rig.perform = lambda effect: rig.engine.submit("reply")
    rig.__post_init__()
    await start(rig)
    rig.engine.submit(Do((append("a", "speak", event="durable"),)))
    await rig.engine.stop()
    assert rig.core.seen[1:] == ["durable", "reply"]


async def test_batches_are_bounded(start: Start) -> None:
    rig = await start(Rig(log=GateLog(gated=True), batch_max=2))
    rig.engine.submit(Do(tuple(append(name, name) for name in "abcde")))
    for _ in range(3):
        await rig.log.begun()
        rig.log.let_go()
    await rig.until_done(*"abcde")
    assert [owners for owners, _, _ in rig.log.batches] == [["a", "b"], ["c", "d"], ["e"]]


# ---- unforced appends


async def test_an_unforced_append_rides_with_a_forced_one(start: Start) -> None:
    rig = await start(Rig(clocks=lambda: Instant(1.0, 0)))  # time stands still: the linger never ends
    rig.engine.submit(Do((append("a", "a", force=False),), ("stepped",)))
    await rig.until_done("stepped")
    assert rig.log.batches == []
    rig.engine.submit(Do((append("b", "b"),)))
    await rig.until_done("stepped", "a", "b")
    assert rig.log.batches == [(["a", "b"], True, 0)]
    assert (rig.engine.counters.records, rig.engine.counters.forced_records) == (2, 1)


async def test_an_unforced_append_goes_alone_after_a_linger(start: Start) -> None:
    rig = await start(Rig())
    rig.engine.submit(Do((append("a", "a", force=False),)))
    await rig.until_done("a")
    assert rig.log.batches == [(["a"], True, 0)]


async def test_a_patient_append_rides_with_one_that_is_not(start: Start) -> None:
    rig = await start(Rig(clocks=lambda: Instant(1.0, 0)))  # time stands still: patience never ends
    rig.engine.submit(Do((append("a", "a", patient=True), append("b", "b", force=False)), ("stepped",)))
    await rig.until_done("stepped")
    assert rig.log.batches == []
    rig.engine.submit(Do((append("c", "c"),)))
    await rig.until_done("stepped", "a", "b", "c")
    assert rig.log.batches == [(["a", "b", "c"], True, 0)]
    assert (rig.engine.counters.records, rig.engine.counters.forced_records) == (3, 2)


async def test_a_patient_append_goes_alone_before_an_unforced_one_would(start: Start) -> None:
    moments = iter([1.0, 1.0, 1.0 + engine.PATIENCE_SECONDS])
    last = [1.0]

    def clocks() -> Instant:
        last[0] = next(moments, last[0])
        return Instant(last[0], 0)

    rig = await start(Rig(clocks=clocks))
    rig.engine.submit(Do((append("a", "a", force=False), append("b", "b", patient=True))))
    await rig.until_done("a", "b")
    assert engine.PATIENCE_SECONDS < engine.LINGER_SECONDS
    assert rig.log.batches == [(["a", "b"], True, 0)]


async def test_patience_is_not_lost_count_of_in_bounded_batches(start: Start, gated: Rig) -> None:
    rig = await start(Rig(log=GateLog(gated=True), clocks=lambda: Instant(1.0, 0), batch_max=2))
    rig.engine.submit(Do((append("a", patient=True), append("b"), append("c"), append("d", patient=True))))
    for names in ("ab", "cd"):
        await rig.log.begun()
        assert rig.log.batches[-1] == (list(names), True, 0)
        rig.log.let_go()


async def test_many_unforced_appends_do_not_wait(start: Start) -> None:
    rig = await start(Rig(clocks=lambda: Instant(1.0, 0), batch_max=3))
    rig.engine.submit(Do(tuple(append(name, name, force=False) for name in "abcd")))
    await rig.until_done("a", "b", "c")
    assert rig.engine.backlog() == 1


async def test_a_linger_that_ends_while_a_sync_runs_is_seen_afterwards(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    rig.engine.submit(Do((append("a", "a"),)))
    await rig.log.begun()
    rig.engine.submit(Do((append("b", "b", force=False),), ("stepped",)))
    await rig.until_done("stepped")
    rig.log.let_go()
    await rig.log.begun()
    rig.log.let_go()
    await rig.until_done("stepped", "a", "b")


# ---- applies


async def test_a_refused_apply_drops_its_record_and_effects_and_the_rest_goes_on(start: Start) -> None:
    rig = Rig()
    rig.log.apply = lambda append: (append.owner != "b", f"{append.owner} answered")
    await start(rig)
    appends = [append(name, name, apply="work", event=f"{name} durable", force=False) for name in "abc"]
    rig.engine.submit(Do((*appends, Append(None, "d", apply="work", effects=("d",), event="d durable", force=False))))
    await rig.until_done("a", "c", "d")
    await rig.engine.stop()
    assert rig.core.seen[1:] == [
        "a answered", "a durable", "b answered", "c answered", "c durable", "d answered", "d durable",
    ]  # fmt: skip
    assert [name_of(stored.body) for stored in rig.log.stored] == ["a", "c"]
    assert rig.log.batches == [(["a", "b", "c", "d"], False, 0)]
    assert (rig.engine.counters.records, rig.engine.counters.syncs) == (2, 0)


# ---- time


async def test_the_core_is_ticked_when_its_deadline_comes(start: Start) -> None:
    rig = Rig()
    rig.core.due = read_clocks().monotonic + 0.01
    due = rig.core.due
    await start(rig)
    await rig.until_done("ticked")
    assert rig.core.ticks[0] >= due


# ---- errors


async def test_an_earlier_deadline_takes_the_place_of_a_later_one(start: Start) -> None:
    rig = await start(Rig())
    rig.core.due = read_clocks().monotonic + 1000.0
    for effects in (["later"], ["later", "still later"]):
        rig.engine.submit(Do(effects=(effects[-1],)))
        await rig.until_done(*effects)
        await asyncio.sleep(0)  # the engine goes to sleep until then
    rig.core.due = read_clocks().monotonic + 0.05
    rig.engine.submit("sooner")
    await rig.until_done("later", "still later", "ticked")


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


# ---- cleaning


async def test_cleaning_takes_the_whole_queue_and_puts_copies_first(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(batch_max=2)
    rig.engine._cleaner = cleaner.Cleaner(rig.core, slack_records=3)
    await start(rig)
    rig.core.live = {"a": ["a"]}
    rig.engine.submit(Do(tuple(append(name, name) for name in "abcdef")))
    await rig.until_done(*"abcdef")
    rig.engine.submit(Do(tuple(append(name, name) for name in "ghi")))
    await rig.until_done(*"abcdefghi")
    owners, sync, drop_below = rig.log.batches[-1]
    assert (owners, sync, drop_below) == (["a", "g", "h", "i"], True, 7)
    assert [name_of(stored.body) for stored in rig.log.stored] == ["a", "g", "h", "i"]
    assert rig.engine.counters.forced_records == 9


async def test_the_cleaner_is_asked_when_the_core_knows_what_the_log_holds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # More events are released by one batch than a turn takes from the inbox: they are stepped all the same before the next plan.
    rig = await start(Rig())
    many = 2 * engine.TURN_EVENTS_MAX
    seen_at_plan: list[int] = []
    monkeypatch.setattr(rig.engine._cleaner, "plan", lambda: (seen_at_plan.append(rig.core.seen.count("durable")), ([], 0))[1])
    appends = tuple(append(str(number), event="durable") for number in range(many))
    rig.engine.submit(Do((append("first", event=Do((append("next", "done"),))), *appends)))
    await rig.until_done("done")
    assert seen_at_plan == [0, many]


async def test_failpoints_are_hit_around_the_sync(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hits: list[tuple[str, ...]] = []
    monkeypatch.setattr(failpoints, "armed", True)
    monkeypatch.setattr(failpoints, "hit", lambda *point: hits.append(point))
    rig = await start(Rig())
    rig.engine.submit(Do((append("a", "a"), Append(None), Append(type(append("x").record)()))))
    await rig.until_done("a")
    assert hits == [
        ("coordinator", "before-sync", "ended"),
        ("coordinator", "before-sync", "none"),
        ("coordinator", "after-sync", "ended"),
        ("coordinator", "after-sync", "none"),
    ]
