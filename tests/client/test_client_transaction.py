"""Interactive transactions: the block, its ends, and retries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_coordinator import ABORTED, COMMITTED, IN_DOUBT, FakeCoordinator, cause

from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    Client,
    HeuristicOutcome,
    OutcomeUnknown,
    RequestError,
    call,
    current_transaction,
    transactional,
)
from troth.backoff import Backoff
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2

DEBIT = call("payments", "debit", account="a", amount=5)


async def test_a_normal_end_commits(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction(timeout=5.0, key="k", wait="complete", hold_read_locks=True) as tx:
        assert current_transaction() is tx
        assert tx.is_active
        tx.acknowledge("payments")
        tx.acknowledge("orders", 2)
        tx.acknowledge("payments")
    begin, commit = await coordinator.next("begins"), await coordinator.next("commits")
    assert (begin.key, begin.hold_read_locks, begin.first_attempt_ms) == ("k", True, tx.first_attempt_ms)
    assert 4000 < begin.timeout_ms <= 5000
    assert [(each.participant, each.count) for each in commit.acknowledged] == [("orders", 2), ("payments", 2)]
    assert (commit.number, commit.wait) == (begin.number, common_pb2.WAIT_COMPLETE)
    assert tx.outcome is not None and tx.outcome.transaction_id == tx.transaction_id
    assert current_transaction() is None
    assert client.session.pending == 0


async def test_a_commit_that_is_asked_for_at_the_last_moment_is_waited_for(coordinator: FakeCoordinator, client: Client) -> None:
    client.grace_seconds = 60.0
    async with client.transaction(timeout=5.0) as tx:
        exchange = tx._exchange
        assert exchange is not None
        exchange.deadline = asyncio.get_running_loop().time()
    assert tx.outcome is not None and exchange.deadline > asyncio.get_running_loop().time() + 30.0


async def test_an_exception_aborts_and_goes_on(coordinator: FakeCoordinator, client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.transaction() as tx:
            raise ZeroDivisionError
    assert (await coordinator.next("aborts")).number == 1
    assert coordinator.arrived("commits") == 0
    assert tx.outcome is None
    assert not tx.is_active


async def test_a_cancelled_block_aborts(coordinator: FakeCoordinator, client: Client) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with client.transaction():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await coordinator.next("aborts")
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_begin_aborts(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["begins"] = None
    task = asyncio.create_task(client.transaction(key="k").__aenter__())
    await coordinator.next("begins")
    task.cancel()
    await coordinator.next("aborts")
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_commit_goes_on(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["commits"] = None

    async def work() -> None:
        async with client.transaction():
            pass

    task = asyncio.create_task(work())
    await coordinator.next("commits")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.session.pending == 1
    coordinator.stream.answer(1)
    await client.run(DEBIT)
    assert client.session.pending == 0
    assert coordinator.arrived("aborts") == 0


async def test_each_call_gets_a_context_of_its_own(client: Client) -> None:
    async with client.transaction(first_attempt_ms=77) as tx:
        contexts = [tx.context() for _ in range(3)]
    assert len({context.call_id for context in contexts}) == 3
    assert {(context.transaction_id, context.first_attempt_ms) for context in contexts} == {(tx.transaction_id, 77)}


async def test_ending_by_hand_ends_once(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction() as tx:
        assert await tx.commit() is tx.outcome
        for wrong in (tx.commit, tx.abort):
            with pytest.raises(RequestError) as caught:
                await wrong()
            assert caught.value.reason is Reason.NOT_ACTIVE
    async with client.transaction() as tx:
        await tx.abort()
        for wrong in (tx.commit, tx.abort):
            with pytest.raises(RequestError) as caught:
                await wrong()
            assert caught.value.reason is Reason.NOT_ACTIVE
    assert (coordinator.arrived("commits"), coordinator.arrived("aborts")) == (1, 1)


async def test_a_transaction_that_is_over_takes_no_work(client: Client) -> None:
    tx = client.transaction()
    for use in (tx.context, lambda: tx.acknowledge("payments")):
        with pytest.raises(RequestError) as caught:
            use()
        assert caught.value.reason is Reason.NOT_ACTIVE
    async with tx:
        pass
    for use in (tx.context, lambda: tx.acknowledge("payments")):
        with pytest.raises(RequestError) as caught:
            use()
        assert caught.value.reason is Reason.NOT_ACTIVE
    with pytest.raises(RequestError) as caught:
        async with tx:
            pass
    assert caught.value.reason is Reason.NOT_ACTIVE


@pytest.mark.parametrize(("participant", "operations"), [("No", 1), ("payments", 0), ("payments", -1), ("payments", 1.0)])
async def test_acknowledgements_are_checked(client: Client, participant: str, operations: Any) -> None:
    async with client.transaction() as tx:
        with pytest.raises(RequestError):
            tx.acknowledge(participant, operations)
        assert tx.acknowledged == {}


async def test_transactions_do_not_nest(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction():
        with pytest.raises(RequestError, match="do not nest"):
            async with client.transaction():
                pass
        with pytest.raises(RequestError, match="do not nest"):
            await client.run(DEBIT)
    async with client.transaction():
        pass
    assert coordinator.arrived("begins") == 2


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (cause("OVERLOADED", retryable=True), Aborted),
        (cause("DRAINING", retryable=True), Aborted),
        (cause("KEY_REUSED"), RequestError),
        (cause("EXPIRED"), OutcomeUnknown),
    ],
)
async def test_a_refused_begin_runs_nothing(
    coordinator: FakeCoordinator, client: Client, refusal: common_pb2.Cause, error: type
) -> None:
    coordinator.handlers["begins"] = lambda stream, begin: stream.begun(begin.number, refusal=refusal)
    with pytest.raises(error) as caught:
        async with client.transaction(key="k"):
            pytest.fail("the body ran")
    assert caught.value.reason.name == refusal.reason
    assert client.session.pending == 0


async def test_a_short_transaction_begins_with_its_commit(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction(timeout=5, first_attempt_ms=77, hold_read_locks=True) as tx:
        tx.acknowledge(client_pb2.AcknowledgedOperations(participant="payments", count=1, incarnation=3))
        assert tx.transaction_id == "c1.1.9f2c4e1a.1.1"
    commit = await coordinator.next("commits")
    assert (commit.begin.first_attempt_ms, commit.begin.hold_read_locks) == (77, True)
    assert 4000 < commit.begin.timeout_ms <= 5000
    assert [one.incarnation for one in commit.acknowledged] == [3]
    assert not any(frame.begins for frame in coordinator.frames), "nothing was sent before"


async def test_a_transaction_that_lasts_is_begun_meanwhile(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction(first_attempt_ms=77):
        assert (await coordinator.next("begins")).first_attempt_ms == 77
        with pytest.raises(OutcomeUnknown):  # the stream is in order: behind a later answer the begin's is here
            await client.get("c1.1.9f2c4e1a.9.9", timeout=0.01)
    assert not (await coordinator.next("commits")).HasField("begin"), "it has begun"


async def test_what_is_refused_late_is_told_at_the_next_use(coordinator: FakeCoordinator, client: Client) -> None:
    no = cause("OVERLOADED", retryable=True)
    coordinator.handlers["begins"] = lambda stream, begin: stream.begun(begin.number, refusal=no)
    with pytest.raises(Aborted) as caught:
        async with client.transaction() as tx:
            await coordinator.next("begins")
            while True:
                tx.context()
                await asyncio.sleep(0)
    assert (caught.value.reason, caught.value.retryable) == (Reason.OVERLOADED, True)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (COMMITTED, AlreadyCommitted),
        (IN_DOUBT, OutcomeUnknown),
        (common_pb2.OUTCOME_EXPIRED, OutcomeUnknown),
        (common_pb2.OUTCOME_HAZARD, HeuristicOutcome),
    ],
)
async def test_a_used_key_does_not_run_the_body_again(
    coordinator: FakeCoordinator, client: Client, outcome: Any, error: type
) -> None:
    holder = client_pb2.Answer(transaction_id="c1.1.9f2c4e1a.9.9", outcome=outcome, replayed=True)
    coordinator.handlers["begins"] = lambda stream, begin: stream.begun(begin.number, holder=holder)
    with pytest.raises(error) as caught:
        async with client.transaction(key="k"):
            pytest.fail("the body ran")
    if isinstance(caught.value, AlreadyCommitted):
        assert caught.value.outcome.transaction_id == "c1.1.9f2c4e1a.9.9"
        assert caught.value.outcome.replayed and not caught.value.outcome.results_available
    else:
        assert caught.value.transaction_id == "c1.1.9f2c4e1a.9.9"
    assert client.session.pending == 0


async def test_an_abort_that_nobody_asked_for_is_told_at_the_next_use(coordinator: FakeCoordinator, client: Client) -> None:
    with pytest.raises(Aborted) as caught:
        async with client.transaction():
            coordinator.stream.answer(1, ABORTED, cause=cause("TIMEOUT", retryable=True))
            # The stream is in order: once a later answer is here, the abort is.
            with pytest.raises(OutcomeUnknown):
                await client.get("c1.1.9f2c4e1a.9.9", timeout=0.01)
    assert (caught.value.reason, caught.value.retryable) == (Reason.TIMEOUT, True)
    assert coordinator.arrived("commits") == 0


async def test_a_commit_may_abort(coordinator: FakeCoordinator, client: Client) -> None:
    no = cause("REFUSED", participant="payments", code="NO_FUNDS")
    coordinator.handlers["commits"] = lambda stream, commit: stream.answer(commit.number, ABORTED, cause=no)
    with pytest.raises(Aborted) as caught:
        async with client.transaction() as tx:
            tx.acknowledge("payments")
    assert (caught.value.participant, caught.value.code) == ("payments", "NO_FUNDS")
    assert tx.outcome is None


async def test_leaving_the_client_aborts_what_is_open(coordinator: FakeCoordinator) -> None:
    async with Client(coordinator.address) as client:
        tx = await client.transaction().__aenter__()
    assert coordinator.arrived("aborts") == 1
    with pytest.raises(Aborted):
        await tx.commit()


# ---- retries


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without long waits."""
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", Backoff(0.001, 0.001))


def _abort_times(coordinator: FakeCoordinator, field: str, times: int, no: common_pb2.Cause) -> None:
    left = [times]

    def handle(stream: Any, request: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            stream.answer(request.number, ABORTED, cause=no)
        else:
            stream.answer(request.number)

    coordinator.handlers[field] = handle


@pytest.mark.usefixtures("quick")
async def test_retries_keep_the_time_of_the_first_attempt(coordinator: FakeCoordinator, client: Client) -> None:
    _abort_times(coordinator, "commits", 2, cause("CONFLICT", retryable=True))

    @transactional(client, attempts=3, timeout=5.0, key=lambda order, *, amount: f"order-{order}")
    async def place(order: str, *, amount: int) -> str:
        """Place an order."""
        tx = current_transaction()
        assert tx is not None
        return f"{order}/{amount}/{tx.transaction_id}"

    assert await place("o1", amount=5) == "o1/5/c1.1.9f2c4e1a.1.3"
    assert place.__doc__ == "Place an order."
    begins = [await coordinator.next("begins") for _ in range(3)]
    assert len({begin.first_attempt_ms for begin in begins}) == 1
    assert {begin.key for begin in begins} == {"order-o1"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("outcome", "no", "begins"),
    [
        (ABORTED, cause("CONFLICT", retryable=True), 3),
        (ABORTED, cause("REFUSED", code="NO_FUNDS"), 1),
        (IN_DOUBT, cause("PARTICIPANT_AWAY", retryable=True), 1),
        (common_pb2.OUTCOME_HAZARD, cause("HEURISTIC", retryable=True), 1),
    ],
)
async def test_only_retryable_aborts_are_retried(
    coordinator: FakeCoordinator, client: Client, outcome: Any, no: common_pb2.Cause, begins: int
) -> None:
    coordinator.handlers["commits"] = lambda stream, commit: stream.answer(commit.number, outcome, cause=no)

    @transactional(client, attempts=3)
    async def work() -> None:
        return

    with pytest.raises((Aborted, OutcomeUnknown, HeuristicOutcome)):
        await work()
    assert coordinator.arrived("begins") == begins


@pytest.mark.usefixtures("quick")
async def test_other_exceptions_are_not_retried(coordinator: FakeCoordinator, client: Client) -> None:
    @transactional(client)
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    await coordinator.next("aborts")
    assert coordinator.arrived("aborts") == 0


async def test_no_attempt_begins_after_the_time_is_over(
    coordinator: FakeCoordinator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", Backoff(5.0, 5.0))
    _abort_times(coordinator, "runs", 2, cause("CONFLICT", retryable=True))
    with pytest.raises(Aborted):
        await client.run(DEBIT, timeout=1.0)
    assert coordinator.arrived("runs") == 1


@pytest.mark.usefixtures("quick")
async def test_a_run_is_retried_by_itself_and_says_how_often(coordinator: FakeCoordinator, client: Client) -> None:
    _abort_times(coordinator, "runs", 2, cause("CONFLICT", retryable=True))
    done = await client.run(DEBIT)
    assert done.transaction_id.endswith(".3") and done.attempts == 3
    runs = [await coordinator.next("runs") for _ in range(3)]
    assert len({run.first_attempt_ms for run in runs}) == 1


async def test_one_key_for_all_calls_is_refused(client: Client) -> None:
    key: Any = "order"
    with pytest.raises(RequestError) as caught:
        transactional(client, key=key)
    assert caught.value.reason is Reason.INVALID_KEY
