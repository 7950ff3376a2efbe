"""The engine: nothing is said before it is durable, and nothing is written twice."""

from __future__ import annotations

import asyncio

import pytest
from engine_rig import Rig, Start
from scripted_core import Do, GateLog, append, name_of, record

from troth import engine, failpoints
from troth.engine import read_clocks
from troth.errors import LogFailed, Reason, TrothError
from troth.log import cleaner
from troth.log.contract import StoredRecord
from troth.ready import Append, Instant, Ready

FAILED = LogFailed(Reason.LOG_FAILED, "the disk is full")


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


# ---- how far the log is


async def test_a_position_is_that_of_what_is_durable(start: Start, gated: Rig) -> None:
    rig = await start(gated)
    assert rig.engine.position == 0
    rig.engine.submit(Do((append("a", "a"), append("b"))))
    await rig.log.begun()
    assert rig.engine.position == 0, "it is written, but nobody knows whether it is durable"
    rig.log.let_go()
    await rig.until_done("a")
    assert rig.engine.position == 2


async def test_what_was_written_without_a_sync_counts_with_the_next_one(start: Start) -> None:
    rig = await start(Rig())
    rig.engine.submit(Do((append("a", "a", force=False, apply="work"),)))
    await rig.until_done("a")
    assert rig.log.batches == [(["a"], False, 0)] and rig.engine.position == 0
    rig.engine.submit(Do((Append(None, "b", effects=("b",)),)))
    await rig.until_done("a", "b")
    assert rig.log.batches[1:] == [(["b"], True, 0)] and rig.engine.position == 1


async def test_a_log_is_opened_at_the_position_of_its_newest_record(start: Start) -> None:
    rig = Rig()
    rig.log.stored = [StoredRecord(seq, record(f"r{seq}").SerializeToString()) for seq in (7, 8)]
    await start(rig)
    assert rig.engine.position == 8


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


async def test_what_nobody_waits_for_looks_longer_for_company(start: Start) -> None:
    now = [1.0]
    rig = await start(Rig(clocks=lambda: Instant(now[0], 0)))
    rig.engine.submit(Do((append("a", "a", force=False, patient=True),), ("stepped",)))
    await rig.until_done("stepped")
    now[0] += engine.LINGER_SECONDS
    rig.engine.submit(Do(effects=("too early",)))
    await rig.until_done("stepped", "too early")
    assert rig.log.batches == []
    now[0] += engine.COMPANY_SECONDS
    rig.engine.submit(Do(effects=("in time",)))
    await rig.until_done("stepped", "too early", "in time", "a")
    assert rig.log.batches == [(["a"], True, 0)]


async def test_what_is_less_patient_takes_it_along(start: Start) -> None:
    now = [1.0]
    rig = await start(Rig(clocks=lambda: Instant(now[0], 0)))
    rig.engine.submit(Do((append("a", "a", force=False, patient=True), append("b", "b", force=False)), ("stepped",)))
    await rig.until_done("stepped")
    now[0] += engine.LINGER_SECONDS
    rig.engine.submit(Do(effects=("later",)))
    await rig.until_done("stepped", "later", "a", "b")
    assert rig.log.batches == [(["a", "b"], True, 0)]


@pytest.mark.parametrize("patient", [False, True])
async def test_what_arrives_while_a_write_runs_gets_its_linger(start: Start, gated: Rig, patient: bool) -> None:
    now = [1.0]
    rig = await start(Rig(log=gated.log, clocks=lambda: Instant(now[0], 0)))
    rig.engine.submit(Do((append("a", "a"),)))
    await rig.log.begun()
    rig.engine.submit(Do((append("b", "b", force=False, patient=patient),), ("stepped",)))
    await rig.until_done("stepped")
    rig.log.let_go()
    await rig.until_done("stepped", "a")
    assert rig.engine._lingers_until == 1.0 + (engine.COMPANY_SECONDS if patient else engine.LINGER_SECONDS)
    now[0] += engine.COMPANY_SECONDS
    rig.engine.submit(Do(effects=("later",)))
    await rig.log.begun()
    rig.log.let_go()
    await rig.until_done("stepped", "a", "later", "b")


async def test_what_a_batch_had_no_room_for_gets_its_linger(start: Start, gated: Rig) -> None:
    now = [1.0]
    rig = await start(Rig(log=gated.log, clocks=lambda: Instant(now[0], 0), batch_max=2))
    rig.engine.submit(Do((append("a", "a"), append("b", "b"), append("c", "c", force=False))))
    await rig.log.begun()
    rig.log.let_go()
    await rig.until_done("a", "b")
    assert rig.engine._lingers_until == 1.0 + engine.LINGER_SECONDS
    now[0] += engine.LINGER_SECONDS
    rig.engine.submit(Do(effects=("later",)))
    await rig.log.begun()
    rig.log.let_go()
    await rig.until_done("a", "b", "later", "c")


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


async def test_an_engine_whose_task_is_cancelled_does_not_look_alive() -> None:
    """Somebody ends all tasks of the loop, as many programs do when they stop."""
    rig = Rig(log=GateLog(gated=True))
    await rig.engine.start()
    rig.engine.submit(Do((append("a"),)))
    await rig.log.begun()
    assert rig.engine._task is not None
    rig.engine._task.cancel()
    error = await rig.failed()
    assert isinstance(error, TrothError) and error.reason is Reason.SHUTTING_DOWN
    rig.log.gated = False
    rig.log.let_go()
    await rig.engine.stop()
