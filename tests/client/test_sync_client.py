"""The synchronous client: the same results and errors, from any thread, with blocks and decorators that wait."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
import pytest
from fake_coordinator import ABORTED, FakeCoordinator, FakeStream, cause, results
from test_client_interceptors import Service, service

from participant_sdk import background
from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    HeuristicOutcome,
    OutcomeUnknown,
    RequestError,
    SyncClient,
    call,
    current_transaction,
    transactional,
)
from participant_sdk.context import entered
from troth import features
from troth.backoff import Backoff
from troth.errors import ConfigError, Reason, TrothError
from troth.v1 import client_pb2, common_pb2

__all__ = ["service"]
T = TypeVar("T")
TIMEOUT = 30.0
ADD = call("counter", "add")


@pytest.fixture
def client(coordinator: FakeCoordinator) -> Iterator[SyncClient]:
    """Closed in a thread: it is not for loops."""
    client = SyncClient(coordinator.address, grace_seconds=0.2)
    yield client
    with ThreadPoolExecutor() as thread:
        thread.submit(client.close).result()


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.to_thread(work, *arguments)


# ---- one-shot


async def test_it_runs_and_returns_what_came_of_it(coordinator: FakeCoordinator, client: SyncClient) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, results=[results("counter", 7)])
    terms: dict[str, Any] = {"key": "k", "wait": "complete", "hold_read_locks": True, "first_attempt_ms": 5}
    done = await in_thread(lambda: client.run(ADD, timeout=TIMEOUT, **terms))
    assert done.results == {"counter": [7]}
    run = await coordinator.next("runs")
    assert (run.key, run.hold_read_locks, run.first_attempt_ms) == ("k", True, 5) and run.timeout_ms <= TIMEOUT * 1000


@pytest.mark.parametrize(
    ("outcome", "kind"), [(ABORTED, Aborted), (common_pb2.OUTCOME_HAZARD, HeuristicOutcome), (0, OutcomeUnknown)]
)
async def test_errors_are_those_of_the_client(
    coordinator: FakeCoordinator, client: SyncClient, outcome: Any, kind: type[TrothError]
) -> None:
    why = cause("REFUSED", participant="counter")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, outcome, cause=why)
    with pytest.raises(kind):
        await in_thread(lambda: client.run(ADD, attempts=1))
    with pytest.raises(RequestError, match="nothing to run"):
        await in_thread(client.run)
    with pytest.raises(ConfigError):
        SyncClient("no address")


async def test_it_asks_about_what_is_unknown(coordinator: FakeCoordinator, client: SyncClient) -> None:
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, 1)
    done = await in_thread(lambda: client.get("c1.1.9f2c4e1a.1.9", participants=("counter",), first_attempt_ms=1, timeout=TIMEOUT))
    assert done.transaction_id == "c1.1.9f2c4e1a.1.9"


async def test_many_threads_share_one_stream(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def work() -> set[str]:
        with ThreadPoolExecutor(16) as threads:
            return {done.transaction_id for done in threads.map(lambda _: client.run(ADD), range(64))}

    assert len(await in_thread(work)) == 64 and coordinator.sessions == 1
    assert [thread.name for thread in threading.enumerate()].count("troth") == 1


# ---- life


async def test_it_opens_at_its_first_use_and_again_after_close(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def twice() -> None:
        for _ in range(2):
            with client:
                client.run(ADD)
        client.close()

    assert coordinator.sessions == 0
    await in_thread(twice)
    assert coordinator.sessions == 2 and "troth" not in [thread.name for thread in threading.enumerate()]


async def test_clients_share_the_loop_in_the_background(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def work() -> None:
        with SyncClient(coordinator.address, grace_seconds=0.2) as other:
            client.run(ADD)
            other.run(ADD)
            assert [thread.name for thread in threading.enumerate()].count("troth") == 1
        client.run(ADD)

    await in_thread(work)


async def test_it_would_stop_a_loop(client: SyncClient) -> None:
    with pytest.raises(RequestError, match="would stop it"):
        client.run(ADD)
    with pytest.raises(RequestError, match="would stop it"), client.transaction():
        pass


async def test_an_interrupted_caller_leaves_nothing_waiting(coordinator: FakeCoordinator, client: SyncClient) -> None:
    coordinator.handlers["runs"] = None
    thread = background.take()
    try:
        begun, ended = threading.Event(), asyncio.Event()

        async def waits() -> None:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                loop.call_soon_threadsafe(ended.set)

        def interrupt(*_: Any) -> None:
            # What is cancelled before its first step has no `finally`: since Python 3.14 a cancel can come that early.
            begun.wait()
            raise KeyboardInterrupt

        loop = asyncio.get_running_loop()
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patched:
            patched.setattr("concurrent.futures.Future.result", interrupt)
            with pytest.raises(KeyboardInterrupt):
                thread.do(waits())
        await ended.wait()
    finally:
        background.give_back()


# ---- interactive


async def test_a_block_commits_what_was_acknowledged(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def work() -> str:
        tx = client.transaction(first_attempt_ms=77)
        assert tx.transaction_id == "" and not tx.is_active and tx.outcome is None
        with tx as entered:
            assert entered is tx and tx.is_active and client.current_transaction() is tx
            assert tx.context().first_attempt_ms == tx.first_attempt_ms == 77
            tx.acknowledge("counter", 2)
            assert tx.acknowledged == {"counter": 2} and tx.refusal is None
        assert client.current_transaction() is None and current_transaction() is None
        assert tx.outcome is not None
        return tx.transaction_id

    transaction_id = await in_thread(work)
    assert transaction_id.endswith(".1")
    assert [(one.participant, one.count) for one in (await coordinator.next("commits")).acknowledged] == [("counter", 2)]


async def test_an_exception_aborts_and_goes_on(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def work() -> None:
        with client.transaction() as tx:
            tx.acknowledge("counter")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await in_thread(work)
    assert (await coordinator.next("aborts")).acknowledged[0].participant == "counter"
    assert coordinator.arrived("commits") == 0


async def test_a_block_may_be_ended_by_hand(coordinator: FakeCoordinator, client: SyncClient) -> None:
    def work() -> None:
        with client.transaction() as tx:
            assert tx.commit().transaction_id == tx.transaction_id
        with client.transaction() as tx:
            tx.abort()
            with pytest.raises(RequestError):
                tx.commit()
        with pytest.raises(RequestError, match="entered once"), tx:
            pass
        with pytest.raises(RequestError, match="not begun"):
            client.transaction().commit()

    await in_thread(work)
    assert (coordinator.arrived("commits"), coordinator.arrived("aborts")) == (1, 1)


async def test_a_key_that_committed_before_is_told(coordinator: FakeCoordinator, client: SyncClient) -> None:
    holder = client_pb2.Answer(outcome=1, transaction_id="c1.1.9f2c4e1a.1.1")
    coordinator.handlers["begins"] = lambda stream, begin: stream.begun(begin.number, holder=holder)

    def work() -> None:
        with client.transaction(key="k"):
            raise AssertionError("it ran")

    with pytest.raises(AlreadyCommitted):
        await in_thread(work)


async def test_what_was_left_under_a_key_is_given_back(coordinator: FakeCoordinator, client: SyncClient) -> None:
    coordinator.capabilities = [features.KEY_RESULTS]
    left: list[bytes] = []

    def begin(stream: FakeStream, request: client_pb2.BeginRequest) -> None:
        holder = client_pb2.Answer(outcome=1, transaction_id="c1.1.9f2c4e1a.1.1", result=left[0]) if left else None
        stream.begun(request.number, holder=holder)

    def commit(stream: FakeStream, request: client_pb2.CommitRequest) -> None:
        left.append(request.result)
        stream.answer(request.number)

    coordinator.handlers.update(begins=begin, commits=commit)

    @transactional(client, key=lambda order: order)
    def place(order: str) -> list[str]:
        assert client.current_transaction() is not None
        return [order]

    def work() -> None:
        assert place("o1") == place("o1") == ["o1"] and len(left) == 1
        with pytest.raises(AlreadyCommitted), client.transaction(key="o1"):
            pass
        left.clear()
        with client.transaction(key="o2") as tx:
            assert tx.result is None
            tx.result = 7
            assert tx.result == 7
        with pytest.raises(AlreadyCommitted) as caught, client.transaction(key="o2"):
            pass
        assert caught.value.result == 7
        with pytest.raises(AlreadyCommitted):
            place("o2")
        with pytest.raises(RequestError, match="not begun"):
            client.transaction(key="o3").result = 1

    await in_thread(work)


async def test_transactions_do_not_nest(client: SyncClient) -> None:
    def work() -> None:
        with client.transaction():
            with pytest.raises(RequestError, match="do not nest"), client.transaction():
                pass
            with pytest.raises(RequestError, match="do not nest"):
                client.run(ADD)

    await in_thread(work)


async def test_a_blocking_service_inside_a_transaction_begins_no_other(client: SyncClient) -> None:
    def handler() -> None:
        with entered(common_pb2.TransactionContext(transaction_id="c1.1.9f2c4e1a.3.4", call_id="1")):
            with pytest.raises(RequestError, match="is open here"):
                client.run(ADD)
            with pytest.raises(RequestError, match="is open here"), client.transaction():
                raise AssertionError("it was entered")

    await in_thread(handler)


async def test_blocking_calls_take_part_from_any_thread_that_has_the_context(
    coordinator: FakeCoordinator, client: SyncClient, service: tuple[Service, str]
) -> None:
    def work() -> str:
        with (
            grpc.insecure_channel(service[1]) as channel,
            SyncClient(coordinator.address, grace_seconds=0.2) as other,
            client.transaction() as tx,
        ):
            echo = grpc.intercept_channel(channel, *client.interceptors()).unary_unary("/test.Echo/UnaryUnary")
            unrelated = grpc.intercept_channel(channel, *other.interceptors()).unary_unary("/test.Echo/UnaryUnary")
            contexts = [contextvars.copy_context() for _ in range(8)]
            with ThreadPoolExecutor(8) as threads:
                assert list(threads.map(lambda context: context.run(echo, b"a"), contexts)) == [b"a"] * 8
            unrelated(b"b")
            return tx.transaction_id

    transaction_id = await in_thread(work)
    commit = await coordinator.next("commits")
    assert [(one.participant, one.count) for one in commit.acknowledged] == [("orders", 16), ("payments", 8)]
    told = [context.transaction_id for context in service[0].contexts if context is not None]
    assert told == [transaction_id] * 8


async def test_a_refusal_leaves_the_block_as_an_abort(
    coordinator: FakeCoordinator, client: SyncClient, service: tuple[Service, str]
) -> None:
    service[0].fail = cause("CONFLICT", participant="payments", retryable=True)

    def work() -> None:
        with grpc.insecure_channel(service[1]) as channel, client.transaction():
            grpc.intercept_channel(channel, *client.interceptors()).unary_unary("/test.Echo/UnaryUnary")(b"a")

    with pytest.raises(Aborted) as caught:
        await in_thread(work)
    assert (caught.value.reason, caught.value.participant, caught.value.retryable) == (Reason.CONFLICT, "payments", True)
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    abort = await coordinator.next("aborts")
    assert [(one.participant, one.count) for one in abort.acknowledged] == [("orders", 0), ("payments", 0)]


async def test_a_function_is_tried_again(
    coordinator: FakeCoordinator, client: SyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", Backoff(0.001, 0.001))
    seen: list[Any] = []

    @transactional(client, attempts=3, key=lambda order: f"order-{order}")
    def place(order: int) -> int:
        tx = client.current_transaction()
        assert tx is not None
        seen.append((tx.transaction_id, tx.first_attempt_ms))
        if len(seen) % 3:
            raise Aborted(Reason.CONFLICT, "again")
        return order

    assert await in_thread(place, 5) == 5
    assert len({first for _, first in seen}) == 1 and len({name for name, _ in seen}) == 3
    assert {(await coordinator.next("begins")).key for _ in range(3)} == {"order-5"}

    @transactional(client, attempts=2)
    def never() -> None:
        raise Aborted(Reason.REFUSED, "no")

    with pytest.raises(Aborted):
        await in_thread(never)
