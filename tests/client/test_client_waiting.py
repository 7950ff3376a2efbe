"""A coordinator that is away, pauses, and what is left of a timeout: what a client waits for, and what it says meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from fake_coordinator import ABORTED, COMMITTED, IN_DOUBT, FakeCoordinator, cause

from participant_sdk.client import (
    Aborted,
    Client,
    OutcomeUnknown,
    call,
    current_transaction,
)
from participant_sdk.silence import Silence
from troth.errors import Reason
from troth.logs import get_logger

DEBIT = call("payments", "debit", account="a", amount=5)


pytestmark = pytest.mark.usefixtures("quick")


# ---- the coordinator is away


async def test_the_log_is_told_that_the_coordinator_is_away(
    coordinator: FakeCoordinator, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await client.run(DEBIT)
    assert not caplog.records
    await coordinator.next("hello")
    coordinator.greet = lambda stream: False
    coordinator.drop()
    await coordinator.next("hello")
    with pytest.raises(Aborted) as caught:
        await client.run(DEBIT, timeout=0.1)
    assert caught.value.reason is Reason.COORDINATOR_AWAY
    assert coordinator.address in caught.value.message
    coordinator.greet = lambda stream: True
    coordinator.drop()
    await client.run(DEBIT)
    told = [record for record in caplog.records if record.name == "participant_sdk.client"]
    assert [record.getMessage().split(" the coordinator")[0] for record in told] == ["no connection to", "connected to"]
    assert coordinator.address in told[0].getMessage()


def test_a_long_silence_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    silence = Silence(get_logger("participant_sdk.client"), lambda: clock[0])
    silence.ends()
    for clock[0] in (0.0, 1.0, 29.0, 30.0, 31.0, 59.0, 61.0):
        silence.goes_on("refused")
    silence.ends()
    silence.ends()
    assert [record.getMessage() for record in caplog.records] == [
        "no connection to the coordinator; trying again, with back-off why=refused",
        "still no connection to the coordinator seconds=30 why=refused",
        "still no connection to the coordinator seconds=61 why=refused",
        "connected to the coordinator again seconds=61",
    ]


async def test_closing_a_client_is_no_silence(coordinator: FakeCoordinator, caplog: pytest.LogCaptureFixture) -> None:
    async with Client(coordinator.address) as client:
        await client.run(DEBIT)
    assert not caplog.records


async def test_whoever_waited_in_vain_is_told_why(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT)
    await coordinator.next("runs")
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT, timeout=2.5))  # in which it is sent, and its loss is noticed
    await coordinator.next("runs")
    coordinator.greet = lambda stream: False
    coordinator.drop()
    with pytest.raises(OutcomeUnknown) as caught:
        await run
    assert coordinator.address in caught.value.message


async def test_a_client_that_is_not_answered_dials_ever_more_rarely(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: asyncio.Queue[int] = asyncio.Queue()

    class Attempts:
        def delay_seconds(self, attempt: int, what: str) -> float:
            asked.put_nowait(attempt)
            return 0.001

    monkeypatch.setattr("participant_sdk.client.connection.REDIAL", Attempts())
    coordinator.greet = lambda stream: False
    async with Client(coordinator.address, grace_seconds=0.2) as client:
        for number in (1, 2, 3):
            await coordinator.next("hello")
            coordinator.drop()
            assert await asked.get() == number
        coordinator.greet = lambda stream: True
        coordinator.drop()
        await client.run(DEBIT)
        while not asked.empty():
            asked.get_nowait()
        coordinator.drop()
        assert await asked.get() == 0


# ---- pauses, and what is left of a timeout


class Paused:
    """A back-off that writes down its attempts."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    def delay_seconds(self, attempt: int, key: str) -> float:
        self.attempts.append(attempt)
        return 0.001


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client slept, of the pauses of `Paused`."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        found.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("participant_sdk.client.client.asyncio.sleep", note)
    return found


async def test_questions_are_asked_with_growing_pauses(
    coordinator: FakeCoordinator, client: Client, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    paused = Paused()
    monkeypatch.setattr("participant_sdk.client.client.ASK_AGAIN", paused)
    outcomes = iter([IN_DOUBT, IN_DOUBT, COMMITTED])
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, next(outcomes))
    await client.get("c1.1.9f2c4e1a.9.9", participants=["payments"])
    assert paused.attempts == [0, 1, 2]
    assert slept.count(0.001) == 2


async def test_retries_come_with_growing_pauses(
    coordinator: FakeCoordinator, client: Client, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    paused = Paused()
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", paused)
    no = cause("CONFLICT", retryable=True)
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, ABORTED, cause=no)
    with pytest.raises(Aborted):
        await client.run(DEBIT, attempts=3)
    assert paused.attempts == [0, 1] and slept.count(0.001) == 2
    assert coordinator.arrived("runs") == 3


async def test_the_outcome_is_waited_for_longer_than_the_coordinator_needs(coordinator: FakeCoordinator) -> None:
    for field in ("runs", "commits"):
        coordinator.handlers[field] = None
    now = asyncio.get_running_loop().time
    async with Client(coordinator.address, grace_seconds=1000) as client:
        run = asyncio.create_task(client.run(DEBIT, timeout=1))
        await coordinator.next("runs")
        tx = await client.transaction(timeout=1).__aenter__()
        committing = asyncio.create_task(tx.commit())
        await coordinator.next("commits")
        deadlines = [exchange.deadline for exchange in client.session._open.values()]
        assert len(deadlines) == 2 and min(deadlines) > now() + 900
        for number in (1, 2):
            coordinator.stream.answer(number)
        await asyncio.gather(run, committing)


@pytest.mark.parametrize("field", ["runs", "begins"])
async def test_waiting_for_the_coordinator_uses_up_the_timeout(coordinator: FakeCoordinator, field: str) -> None:
    coordinator.greet = lambda stream: False
    async with Client(coordinator.address) as client:
        work = client.run(DEBIT, timeout=50) if field == "runs" else client.transaction(timeout=50).__aenter__()
        running = asyncio.ensure_future(work)
        await coordinator.next("hello")
        await asyncio.sleep(0.02)
        coordinator.greet = lambda stream: True
        coordinator.drop()
        assert (await coordinator.next(field)).timeout_ms < 50_000
        await running


async def test_a_begin_that_is_cancelled_is_rolled_back(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["begins"] = None
    beginning = asyncio.ensure_future(client.transaction(key="k").__aenter__())
    begun = await coordinator.next("begins")
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert (await coordinator.next("aborts")).number == begun.number


async def test_a_block_that_has_ended_surrounds_nothing(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction() as tx:
        assert current_transaction() is tx
    assert current_transaction() is None


async def test_a_commit_that_was_never_sent_is_an_abort(coordinator: FakeCoordinator, client: Client) -> None:
    tx = await client.transaction().__aenter__()
    coordinator.greet = lambda stream: False
    await coordinator.next("hello")
    coordinator.drop()
    await coordinator.next("hello")
    committing = asyncio.create_task(tx.commit())
    await asyncio.sleep(0)
    coordinator.greet = lambda stream: True
    coordinator.restart()
    with pytest.raises(Aborted) as caught:
        await committing
    assert caught.value.reason is Reason.COORDINATOR_RESTARTED
    assert coordinator.arrived("gets") == 0


async def test_the_first_refusal_is_the_transactions(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction() as tx:
        for code in ("FIRST", "SECOND"):
            tx.carried().failed(cause("REFUSED", participant="payments", code=code))
        assert tx.refusal is not None and tx.refusal.code == "FIRST"
