"""A coordinator inside of a service: one service with several databases, and no daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from embedded_shop import shop, total

from coordinator.core.settings import CoreSettings
from participant_sdk import Embedded, RequestError
from participant_sdk.client import Aborted, AlreadyCommitted, SyncTransaction, call, transactional
from participant_sdk.embedded.coordinator import InProcessCoordinator
from participant_sdk.runtime import Runtime
from tests import late_decisions
from troth import failpoints
from troth.errors import ConfigError, LogFailed, LogLocked, Reason, TrothError
from troth.log.contract import Written
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import record_pb2

HERE = Path(__file__).parent


async def test_one_shot_transactions_commit_and_abort(tmp_path: Path) -> None:
    troth, left, right = shop(tmp_path)
    async with troth:
        done = await troth.run(call("left", "add", amount=-5), call("right", "add", amount=5), key="rent", wait="complete")
        assert done.transaction_id.startswith("embedded.1.") and done.results == {"left": [None], "right": [None]}
        assert (await troth.run(call("left", "add", amount=-5), call("right", "add", amount=5), key="rent")).replayed
        with pytest.raises(Aborted) as refused:
            await troth.run(call("left", "add", amount=-5), call("right", "add", amount=500))
        assert (refused.value.participant, refused.value.code) == ("right", "TOO_MUCH")
        assert (await total(left), await total(right)) == (-5, 5)


async def test_a_transaction_costs_no_socket_and_its_answer_one_sync_of_the_coordinators_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[list[str]] = []
    write = SqliteLog.write

    async def written(log: SqliteLog, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        if sync:
            records = [one.record for one in batch if isinstance(one.record, record_pb2.CoordinatorRecord)]
            writes.append([str(record.WhichOneof("kind")) for record in records])
        return await write(log, batch, sync=sync, drop_below=drop_below)

    monkeypatch.setattr(SqliteLog, "write", written)
    before = sockets()
    troth, _, _ = shop(tmp_path)
    async with troth:
        writes.clear()
        for _ in range(3):
            await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1))
        assert sockets() == before
        # What follows a decision (its end, a watermark) is awaited by nobody, and rides along with the next one if it comes soon.
        decided = [batch.count("decided") for batch in writes]
        assert [number for number in decided if number] == [1, 1, 1], writes


def sockets() -> set[str]:
    """Those of this process."""
    links = (os.readlink(one) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return {link for link in links if link.startswith("socket:")}


@pytest.mark.parametrize("turns", [1, 4, 16, 64])
async def test_who_closes_it_while_it_starts_gives_the_start_up(tmp_path: Path, turns: int) -> None:
    """Nothing is open then, whatever the start had come to."""
    troth, _, _ = shop(tmp_path)
    starting = asyncio.create_task(troth.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.gather(troth.close(), troth.close())
    (ended,) = await asyncio.gather(starting, return_exceptions=True)
    assert ended is None or (isinstance(ended, TrothError) and ended.reason is Reason.SHUTTING_DOWN)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in others if task.get_name().startswith("troth-")]
    again, _, _ = shop(tmp_path)
    async with again:
        await again.run(call("left", "add", amount=1))


async def test_a_block_reaches_the_branches_of_all(tmp_path: Path) -> None:
    troth, left, right = shop(tmp_path)

    async def move(amount: int) -> None:
        await left.branch().run("add", amount=-amount)
        await right.branch().run("add", amount=amount)

    async with troth:
        async with troth.transaction() as tx:
            await move(3)
            with pytest.raises(RequestError, match="do not nest"):
                await troth.run(call("left", "add", amount=1))
        assert tx.outcome is not None and tx.acknowledged == {"left": 1, "right": 1}
        with pytest.raises(Aborted, match="TOO_MUCH"):
            async with troth.transaction():
                await move(300)
        with pytest.raises(LookupError):
            async with troth.transaction():
                await move(3)
                raise LookupError
        with pytest.raises(Aborted, match="TOO_MUCH"):
            async with troth.transaction():
                await move(2)
                await right.branch().run("add", amount=300)
        assert (await total(left), await total(right)) == (-3, 3)
        await transactional(troth.client)(_nothing)()


async def _nothing() -> None: ...


async def test_what_was_left_under_a_key_is_given_back_in_the_next_life(tmp_path: Path) -> None:
    troth, left, _ = shop(tmp_path)
    async with troth, troth.transaction(key="o1") as tx:
        tx.result = {"placed": await left.branch().run("add", amount=-1)}
    troth, left, _ = shop(tmp_path)
    async with troth:
        with pytest.raises(AlreadyCommitted) as caught:
            async with troth.transaction(key="o1"):
                pytest.fail("the body ran")
        assert caught.value.result == tx.result and await total(left) == -1


async def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    for life in (1, 2):
        troth, left, _ = shop(tmp_path)
        async with troth:
            assert await total(left) == 1 - life
            await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1))


async def test_whoever_is_awaited_is_found_behind_any_number_of_others(tmp_path: Path) -> None:
    """A service ends its work when nobody owes anything: it looked at the first hundred names alone."""
    names = [f"p-{number:04}" for number in range(2_100)]
    record, log = record_pb2.CoordinatorRecord, SqliteLog(tmp_path / "c.db", role="coordinator", name="c1")
    decided = record_pb2.Decided(transaction_id="c1.1.0badcafe.3.4", participants=names[-2:], owing=[0, 1], orders=[1, 1])
    records = [record(participant_bound=record_pb2.ParticipantBound(participant=name, log_id="1", incarnation=1)) for name in names]
    await log.open()
    started = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0badcafe", kept=True)
    await log.write([Append(one) for one in (record(epoch_started=started), *records, record(decided=decided))], sync=True)
    await log.close()
    settings = CoreSettings(hearing_seconds=0.0)
    coordinator = InProcessCoordinator("c1", settings, lambda: SqliteLog(tmp_path / "c.db", role="coordinator", name="c1"))
    await coordinator.start()
    try:
        assert await coordinator.owing() == set(names[-2:])
    finally:
        await coordinator.stop()


def ran(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of this folder, at its end."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = (sys.executable, str(HERE / script), *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_process_ends_though_what_it_has_does_not() -> None:
    """A database that is silent, say, whose connection nobody ends: the process hung for as long."""
    done = ran("hangs_at_end.py")
    assert (done.returncode, done.stdout) == (0, "closed\n")
    assert done.stderr == "not closed in order of=Silent error=TimeoutError()\n"


@pytest.mark.parametrize(("how", "name"), [("interrupted", "Interrupted"), ("at once", "AtOnce")])
def test_who_interrupts_a_process_that_closes_is_not_shown_where_it_was(how: str, name: str) -> None:
    """Python wrote "Exception ignored in", with a traceback, and the rest was waited for as before."""
    done = ran("hangs_at_end.py", how)
    assert (done.returncode, done.stdout) == (0, "closing\nclosed\n")
    assert done.stderr == f"not closed in order of={name} error=KeyboardInterrupt()\n"


@pytest.mark.parametrize("interrupted", [False, True])
async def test_whoever_closes_it_too_waits_until_what_is_decided_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, interrupted: bool
) -> None:
    """The second one closed the participants, for whom the first one waited: what they had to do was left to the next start. Who is
    cancelled does not interrupt it."""
    monkeypatch.setattr(Runtime, "received", late_decisions.received_late)
    troth, left, right = shop(tmp_path)
    await troth.start()
    await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1))
    own = troth._coordinators[0]
    assert await own.owing()
    owing_at_stop: list[set[str]] = []
    stop = own.stop

    async def stopped() -> None:
        if not owing_at_stop:
            owing_at_stop.append(await own.owing())
        await stop()

    monkeypatch.setattr(own, "stop", stopped)
    first = asyncio.create_task(troth.close())
    await asyncio.sleep(0)
    if interrupted:
        first.cancel()
    await troth.close()
    await asyncio.wait([first])
    assert first.cancelled() is interrupted
    await troth.close()
    assert owing_at_stop == [set()]
    troth, left, right = shop(tmp_path)
    async with troth:
        assert (await total(left), await total(right)) == (-1, 1)


async def test_what_fails_while_it_closes_keeps_nothing_else_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One participant could not be closed: the other one, and the coordinator's log, stayed locked as long as the process lived."""

    def fails(resource: Any, words: str) -> None:
        close = resource.close

        async def closed() -> None:
            await close()
            raise OSError(words)

        monkeypatch.setattr(resource, "close", closed)

    troth, left, right = shop(tmp_path)
    await troth.start()
    await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1), wait="complete")
    fails(left._setup.resource, "the left disk is gone")
    with pytest.raises(OSError, match="the left disk is gone"):
        await troth.close()
    troth, left, right = shop(tmp_path)
    await troth.start()
    assert (await total(left), await total(right)) == (-1, 1)
    fails(left._setup.resource, "the left disk is gone")
    fails(right._setup.resource, "the right disk too")
    with pytest.raises(OSError, match="the left disk is gone") as told:
        await troth.close()
    assert told.value.__notes__ == ["and then: OSError: the right disk too"]
    async with shop(tmp_path)[0]:
        pass


def test_without_a_loop_it_closes_with_its_process_and_says_nothing(tmp_path: Path) -> None:
    """The resource works in a thread, and Python's executors end before `atexit`."""
    for begun, ended in (("0 0", "-2 2"), ("-2 2", "-4 4")):
        done = ran("embedded_shop.py", str(tmp_path), "2", "blocking")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{begun}\n{ended}\n", "")


async def test_one_process_at_a_time_has_its_log(tmp_path: Path) -> None:
    troth, left, _ = shop(tmp_path)
    async with troth:
        other, _, _ = shop(tmp_path)
        with pytest.raises(LogLocked):
            await other.start()
        await troth.run(call("left", "add", amount=-1), call("right", "add", amount=1))
        assert await total(left) == -1
    with pytest.raises(ConfigError, match="started before"):
        await troth.start()


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Embedded(tmp_path, name="No Name")
    with pytest.raises(RequestError, match="does not run"):
        _ = Embedded(tmp_path).client


async def test_when_its_log_fails_the_service_is_told(tmp_path: Path) -> None:
    failed: asyncio.Future[TrothError] = asyncio.get_running_loop().create_future()

    def breaks(point: str) -> None:
        if point == "coordinator:before-sync:decided":
            raise LogFailed(Reason.LOG_FAILED, "the disk is full")

    troth, _, _ = shop(tmp_path)
    troth.on_failure = failed.set_result
    async with troth:
        with failpoints.observed(breaks):
            running = asyncio.ensure_future(troth.run(call("left", "add", amount=-1), call("right", "add", amount=1), timeout=60.0))
            assert "the disk is full" in str(await failed)
        running.cancel()
        await asyncio.wait([running])


# ---- in threads


async def test_code_that_is_not_asynchronous_does_the_same(tmp_path: Path) -> None:
    troth, left, right = shop(tmp_path)

    def work() -> tuple[int, int]:
        troth.sync.run(call("left", "add", amount=-1), call("right", "add", amount=1))
        with troth.sync.transaction() as tx:
            assert isinstance(tx, SyncTransaction) and troth.sync.current_transaction() is tx
            left.branch_sync().run("add", amount=-2)
            right.branch_sync().run("add", amount=2)
        assert tx.acknowledged == {"left": 1, "right": 1}
        with pytest.raises(Aborted, match="TOO_MUCH"), troth.sync.transaction():
            left.branch_sync().run("add", amount=-2)
            right.branch_sync().run("add", amount=200)
        try:
            return left.wait(total(left)), right.wait(total(right))
        finally:
            troth.close_in_background()

    assert await asyncio.to_thread(work) == (-3, 3)


# ---- killed


async def lives(directory: Path, transfers: int, failpoint: str = "") -> tuple[int, list[str]]:
    """One process of the service; how it ended, and what it said."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), failpoints.VARIABLE: failpoint}
    command = (sys.executable, str(HERE / "embedded_shop.py"), str(directory), str(transfers))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    said, _ = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None
    return process.returncode, said.decode().split("\n")


@pytest.mark.parametrize(
    ("failpoint", "moved"),
    [
        ("participant:after-sync:branch_prepared=kill@4", {1, 2}),
        ("coordinator:before-sync:decided=kill@2", {1}),
        ("coordinator:after-sync:decided=kill@2", {2}),
        ("participant:before-sync:branch_finished=kill@3", {2}),
    ],
)
async def test_the_next_process_finishes_what_a_killed_one_has_decided(tmp_path: Path, failpoint: str, moved: set[int]) -> None:
    status, said = await lives(tmp_path, 3, failpoint)
    assert status == -signal.SIGKILL and said[0] == "0 0"
    status, said = await lives(tmp_path, 1)
    left, right = map(int, said[0].split())
    assert status == 0 and left == -right and right in moved
    assert said[1] == f"{left - 1} {right + 1}"
