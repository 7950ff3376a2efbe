"""How a participant is, what happens when it fails for good, and local work while branches are in doubt."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator, Stream, operation, transaction

from participant_sdk import Aborted, Condition, Health, Limits, Participant, SqliteResource, TrothError, terminate
from participant_sdk import participant as participant_module
from troth import logs
from troth.backoff import Backoff
from troth.errors import LogFailed, Reason
from troth.v1 import participant_pb2 as pb

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
IMPATIENT = Limits(local_wait_seconds=0.02)


pytestmark = pytest.mark.usefixtures("redials_at_once")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_module, "LOCAL_AGAIN", Backoff(0.005, 0.01))


def bank_of(directory: Path, address: str, **settings: Any) -> Participant:
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    bank = Participant("bank", resource=resource, data_directory=directory, coordinator=address, **settings)

    @bank.operation
    def deposit(db: Any, *, account: str, amount: int) -> None:
        db.execute("INSERT OR REPLACE INTO account VALUES (?, ?)", (account, amount))

    return bank


async def prepared(stream: Stream) -> None:
    """A branch in doubt."""
    work = operation("deposit", account="a", amount=5)
    prepare = pb.Prepare(
        transaction_id=transaction(1), operations=[work], order=1, timeout_ms=5000, incarnation=stream.hello.incarnation
    )
    stream.say(prepares=[prepare])
    assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES


async def commit(stream: Stream) -> None:
    decision = pb.Decision(transaction_id=transaction(1), order=1, kind=pb.DECISION_KIND_COMMIT, acknowledge=True)
    stream.say(decisions=[decision])
    await stream.heard("acknowledgements")


async def until(bank: Participant, condition: Condition) -> Health:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while bank.health.condition is not condition:  # noqa: ASYNC110 - health is for probes, which poll
            await asyncio.sleep(0)
    return bank.health


async def test_health_from_before_the_start_to_after_the_end(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    bank = bank_of(tmp_path, coordinator.address)
    assert bank.health == Health(Condition.NEW)
    async with bank:
        assert (bank.health.condition, bank.health.alive, bank.health.ready) == (Condition.AWAY, True, False)
        stream = await coordinator.welcomed()
        assert (await until(bank, Condition.CONNECTED)).ready
        await prepared(stream)
        assert (bank.health.unfinished, bank.health.in_doubt) == (1, 1)
        await commit(stream)
        assert (bank.health.unfinished, bank.health.in_doubt) == (0, 0)
        stream.end()
        await until(bank, Condition.AWAY)
    assert (bank.health.condition, bank.health.alive, bank.health.error) == (Condition.STOPPED, True, None)


async def test_one_that_fails_for_good_is_seen_and_ends_the_program(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    """Nobody waits in `serve`: the web application around it would live on for ever."""
    told: asyncio.Queue[TrothError] = asyncio.Queue()
    bank = bank_of(tmp_path, coordinator.address, on_failure=told.put_nowait)
    async with bank:
        stream = await coordinator.accept()
        stream.goodbye("STALE_INCARNATION", retryable=False)
        error = await asyncio.wait_for(told.get(), PATIENCE_SECONDS)
        assert error.reason is Reason.STALE_INCARNATION
        assert bank.health == Health(Condition.FAILED, error)
        assert not bank.health.alive and not bank.health.ready
    assert bank.health.condition is Condition.FAILED
    assert told.empty()


async def test_a_failed_log_is_a_failure(tmp_path: Path, coordinator: PaperCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    told: asyncio.Queue[TrothError] = asyncio.Queue()

    async def fail(*_: Any, **__: Any) -> None:
        raise LogFailed(Reason.LOG_FAILED, "no space left on device")

    async with bank_of(tmp_path, coordinator.address, on_failure=told.put_nowait) as bank:
        await coordinator.welcomed()
        monkeypatch.setattr(SqliteResource, "write", fail)
        with pytest.raises(LogFailed):
            await bank.local(lambda db: db.execute("INSERT INTO account VALUES ('a', 1)"))
        assert (await asyncio.wait_for(told.get(), PATIENCE_SECONDS)).reason is Reason.LOG_FAILED


async def test_who_closes_a_participant_is_told_of_no_failure(tmp_path: Path) -> None:
    told: list[TrothError] = []
    async with bank_of(tmp_path, "127.0.0.1:1", on_failure=told.append):
        pass
    assert not told


async def test_what_on_failure_raises_is_said_and_no_more(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    def slip(error: TrothError) -> None:
        raise SystemExit(1)

    heard: list[str] = []
    with logs.heard_by(lambda level, event, fields: heard.append(event)):
        async with bank_of(tmp_path, coordinator.address, on_failure=slip) as bank:
            stream = await coordinator.accept()
            stream.goodbye("STALE_INCARNATION", retryable=False)
            await until(bank, Condition.FAILED)
    assert "on_failure failed" in heard


async def test_terminate_is_a_supervisors_signal() -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, received.set)
    try:
        terminate(TrothError(Reason.LOG_FAILED, "no space left on device"))
        await asyncio.wait_for(received.wait(), PATIENCE_SECONDS)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    assert os.getpid() > 0


# ---- local work beside branches in doubt


async def test_local_work_at_the_start_waits_for_a_branch_in_doubt(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    async with bank_of(tmp_path, coordinator.address):
        await prepared(await coordinator.welcomed())
    async with bank_of(tmp_path, coordinator.address, limits=IMPATIENT) as bank:
        calls: list[int] = []

        def seed(db: Any) -> int:
            calls.append(1)
            db.execute("INSERT INTO account VALUES ('seed', 0)")
            return len(calls)

        with pytest.raises(Aborted) as caught:
            await bank.local(seed)
        assert (caught.value.reason, caught.value.retryable) == (Reason.TIMEOUT, True)
        assert "wait_seconds" in caught.value.hint
        with pytest.raises(Aborted):
            await bank.read(lambda db: None, wait_seconds=0.05)
        seeding = asyncio.create_task(bank.local(seed, wait_seconds=math.inf))
        stream = await coordinator.accept()
        stream.welcome()
        await stream.heard("reports_complete")
        stream.say(watermark=pb.Watermark())
        with pytest.raises(Aborted):
            await bank.read(lambda db: None)
        assert not seeding.done() and not calls
        await commit(stream)
        assert await asyncio.wait_for(seeding, PATIENCE_SECONDS) == 1


async def test_a_row_of_a_branch_in_doubt_is_tried_again(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    async with bank_of(tmp_path, coordinator.address) as bank:
        stream = await coordinator.welcomed()
        await prepared(stream)

        def change(db: Any) -> None:
            db.execute("INSERT OR REPLACE INTO account VALUES ('a', 7)")

        with pytest.raises(Aborted) as caught:
            await bank.local(change, locks=["another"])
        assert caught.value.reason in (Reason.CONFLICT, Reason.TIMEOUT)


async def test_what_the_function_raises_is_tried_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def fail(db: Any) -> None:
        calls.append(1)
        raise ValueError("a bug")

    async with bank_of(tmp_path, "127.0.0.1:1") as bank:
        with pytest.raises(ValueError, match="a bug"):
            await bank.local(fail, wait_seconds=math.inf)
    assert calls == [1]
