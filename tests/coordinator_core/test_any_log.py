"""Any history: its log can be recovered wherever it ends, and what the cleaner writes again says the same as what it drops."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.model import BranchStep, Finished, State, Transaction
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.scripted import CoordinatorDriver
from tests.transcripts import NONCE, Command
from troth.v1 import common_pb2

REQUESTS = (
    "run T{n} a,b",
    "run T{n} a,b,c complete timeout_ms=1000",
    "run T{n} a,b key=k",
    "run T{n} a",
    "run T{n} a key=k",
    "run T{n} b key=m",
    "begin T{n}",
    "begin T{n} key=k",
    "commit T{n} a=1",
    "commit T{n} a=1 b=1",
    "commit T{n} result=left{n}",
    "abort T{n}",
    "get {t} a,b first=0",
    "resolve {t} abort",
    "resolve {t} abandon",
    "resolve {t} abort at={p}",
    "forget {t}",
    "replace {p}",
)
SAYINGS = (
    "enlist {p} {t}",
    "vote {p} {t} YES results=5",
    "vote {p} {t} NO",
    "vote {p} {t} READ_ONLY",
    "vote {p} {t} COMMITTED",
    "ack {p} {t} DONE",
    "ack {p} {t} HAZARD",
    "ack {p} {t} FORCED_COMMIT",
    "ack {p} {t} FORCED_ABORT",
    "settled {p} {t} COMMITTED",
    "settled {p} {t} ROLLED_BACK",
    "settled {p} {t} PREPARED",
    "settled {p} {t} EXPIRED",
    "ask {p} {t} PREPARED",
)
ARRIVALS = (
    "lose {p}",
    "back {p}",
    "back {p} prepared={t}",
    "back {p} active={t}",
    "back {p} committed={t}",
    "back {p} forced_abort={t} incarnation={n}",
    "hello {p} log=other",
)
STORIES = (
    "back a; back b; run T{n} a,b; vote a T{n}@{e} YES; vote b T{n}@{e} YES; sync; ack {p} T{n}@{e}",
    "back a; back b; run T{n} a,b key=k; vote a T{n}@{e} YES; vote b T{n}@{e} READ_ONLY; sync",
    "back a; run T{n} a key=k; sync",
    "back a; run T{n} a key=k; sync; crash; back a; settled a T{n}@{e} PREPARED",
    "ack a {t}; ack b {t}; sync",
    "back a; back b; begin T{n} key=k; enlist a {t}; enlist b {t}; commit T{n} a=1 b=1 result=left{n}",
    "vote a {t} YES; vote b {t} YES; sync",
    "back a; begin T{n} key=k; enlist a {t}; commit T{n} a=1 result=left{n}; sync; vote a {t} COMMITTED",
    "back a; begin T{n} key=m; enlist a {t}; commit T{n} a=1 result=left{n}; sync; vote a {t} READ_ONLY",
    "begin T{n} key=m; commit T{n} result=left{n}; sync",
)
"""What seldom comes together by chance."""
WORLD = ("sync", "sync", "wait 0.6", "wait 12", "crash", "crash kept")
LINE = st.one_of(*map(st.sampled_from, (REQUESTS, STORIES, STORIES, SAYINGS, SAYINGS, ARRIVALS, WORLD)))
STEP = st.tuples(LINE, st.integers(1, 4), st.sampled_from("aabc"), st.sampled_from((0, 0, 0, 1)))
Step = tuple[str, int, str, int]


def history(steps: list[Step]) -> Driver:
    """A coordinator after these steps."""
    scripted = CoordinatorDriver()
    for story, number, participant, lives_ago in steps:
        epoch = scripted.driver.core.epoch
        name = f"T{number}@{epoch - lives_ago}"
        for line in story.format(t=name, n=number, e=epoch, p=participant).split("; "):
            _carry_out(scripted, Command(line))
    return scripted.driver


def settled(steps: list[Step]) -> Driver:
    """The same, with everything durable that it wanted to write."""
    driver = history(steps)
    driver.sync()
    return driver


def _carry_out(scripted: CoordinatorDriver, command: Command) -> None:
    says = command.verb in ("enlist", "vote", "ack", "settled", "ask", "lose")
    if not says or scripted.driver.book.participants[command.words[0]].stream:  # otherwise nobody speaks for it
        scripted.run(command)


def recovered(records: list[bytes], at: float) -> Driver:
    """The next life: it has read the log, and nothing has happened yet."""
    return Driver(records=records, connect=False, at=at, nonce=NONCE, serve=False)


def copies(driver: Driver, owners: list[str]) -> list[bytes]:
    """What the cleaner writes again for these owners."""
    return [record.SerializeToString() for owner in dict.fromkeys(owners) for record in driver.core.live_records(owner)]


# ---- what a log must still say


def durable(driver: Driver) -> dict[str, Any]:
    """What the next life must know of this one: decisions, keys, reports, bindings. What is undecided is not in it."""
    book = driver.book
    live = {txn.id: kept for txn in book.live.values() if (kept := _kept(txn)) is not None}
    finished = {
        name: (done.outcome, done.first_attempt_ms, _named(done), done.at_ms)
        for name, done in book.finished.items()
        if done.recorded and name not in live
    }
    return {
        "live": live,
        "finished": finished,
        "keys": {
            key: (entry.transaction_id, entry.claim.result)
            for key, entry in book.keys.items()
            if entry.transaction_id in {**live, **finished}
        },
        "participants": {name: (one.log_id, one.incarnation) for name, one in book.participants.items()},
        "horizon": book.dropped_through_ms,
    }


def _key(claim: Any) -> str:
    return claim.key if claim is not None else ""


def _named(done: Finished) -> tuple[str, ...]:
    """The record of an operator's abort names nobody."""
    return done.participants if done.outcome == common_pb2.OUTCOME_COMMITTED else ()


def _kept(txn: Transaction) -> Any:
    """What must be known of an open transaction; a key counts only while it is held, which `keys` tells."""
    reports = sorted(report.SerializeToString() for report in txn.heuristic)
    owing = sorted(name for name, branch in txn.branches.items() if branch.step in (BranchStep.YES, BranchStep.COMMIT_OWED))
    if txn.state in (State.DECIDING, State.COMMITTING):
        return "COMMITTING", sorted(txn.branches), owing, reports, _key(txn.claim)
    if txn.state is State.HEURISTIC:
        return "HEURISTIC", reports
    if txn.claim is not None and txn.state in (State.OPENING, State.HANDED_OVER, State.SETTLING):
        return "SETTLING", sorted(txn.branches), _key(txn.claim)
    return None


# ---- the promises


@given(st.lists(STEP, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_log_can_be_recovered_wherever_it_ends_and_as_often_as_one_likes(steps: list[Step]) -> None:
    driver = settled(steps)
    for length in range(len(driver.log) + 1):
        once = recovered(driver.log[:length], driver.now)
        own = [append.record.SerializeToString() for append in once.waiting]
        assert durable(recovered([*once.log, *own], driver.now)) == durable(once)


@given(st.lists(STEP, max_size=30), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_the_cleaner_loses_nothing(steps: list[Step], dropped: int) -> None:
    first = settled(steps)
    driver = recovered(first.log, first.now)
    cleaned = [*first.log[dropped:], *copies(driver, driver.owners[:dropped])]
    assert durable(recovered(cleaned, first.now)) == durable(driver)


@given(st.lists(STEP, max_size=30))
@settings(max_examples=150, deadline=None)
def test_what_a_running_coordinator_would_write_again_is_all_that_it_knows(steps: list[Step]) -> None:
    driver = settled(steps)
    assert durable(recovered(copies(driver, driver.owners), driver.now)) == durable(driver)


def coarse(driver: Driver) -> dict[str, Any]:
    """The same without the acknowledgements that were not written down, and without what is for people and for the retention."""
    known = durable(driver)
    known["finished"] = {name: done[:2] for name, done in known["finished"].items()}
    known["live"] = {name: kept[0].replace("COMMITTING", "HEURISTIC") for name, kept in known["live"].items()}
    return known


@given(st.lists(STEP, max_size=30))
@settings(max_examples=100, deadline=None)
def test_the_next_life_goes_on_from_the_log_alone(steps: list[Step]) -> None:
    driver = settled(steps)
    assert coarse(recovered(driver.log, driver.now)) == coarse(driver)


@given(st.lists(STEP, max_size=30))
@settings(max_examples=150, deadline=None)
def test_the_cleaner_may_come_while_records_are_on_their_way(steps: list[Step]) -> None:
    """Its copies stand before them, in one batch."""
    driver = history(steps)
    waiting = [append.record.SerializeToString() for append in driver.waiting if append.record is not None]
    cleaned = recovered([*copies(driver, driver.owners), *waiting], driver.now)
    assert coarse(cleaned) == coarse(recovered([*driver.log, *waiting], driver.now))
