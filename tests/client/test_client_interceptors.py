"""Calls to a real small service inside a transaction: the context goes out, what was acknowledged comes back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from fake_coordinator import FakeCoordinator, cause

from participant_sdk.client import Aborted, Client, RequestError, call, transactional
from participant_sdk.context import entered
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY
from troth.backoff import Backoff
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2

# gRPC 1.76 tells what an interceptor raised a second time, when the call is collected.
_TOLD_TWICE = "ignore:Exception ignored in. <function InterceptedCall:pytest.PytestUnraisableExceptionWarning"
pytestmark = pytest.mark.filterwarnings(_TOLD_TWICE)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test's calls leave is collected while that is ignored, and not in somebody else's test."""
    yield
    gc.collect()


class Service:
    """Echoes bytes in all four kinds of calls; each acknowledges one operation of `payments` and two of `orders`."""

    def __init__(self) -> None:
        self.contexts: list[common_pb2.TransactionContext | None] = []
        self.fail: common_pb2.Cause | None = None
        self.hold: asyncio.Event | None = None
        self.held = asyncio.Event()

    async def _take(self, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        found = metadata.get(CONTEXT_KEY)
        self.contexts.append(common_pb2.TransactionContext.FromString(found) if found else None)
        if self.hold is not None:
            self.held.set()
            await self.hold.wait()
        done = [
            client_pb2.AcknowledgedOperations(participant="payments", count=1),
            client_pb2.AcknowledgedOperations(participant="orders", count=2),
        ]
        trailing = [(ACKNOWLEDGED_KEY, each.SerializeToString()) for each in done]
        if self.fail is not None:
            trailing.append((CAUSE_KEY, self.fail.SerializeToString()))
            await context.abort(grpc.StatusCode.ABORTED, "failed", tuple(trailing))
        context.set_trailing_metadata(tuple(trailing))

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        """One in, one out."""
        await self._take(context)
        return request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """One in, three out."""
        await self._take(context)
        for _ in range(3):
            yield request

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Many in, one out."""
        joined = b"".join([request async for request in requests])
        await self._take(context)
        return joined

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Many in, as many out."""
        async for request in requests:
            yield request
        await self._take(context)


@pytest_asyncio.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    """The service, and where it listens."""
    service = Service()
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(service.unary_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(service.unary_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(service.stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(service.stream_stream),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service, address
    await server.stop(None)


@pytest_asyncio.fixture
async def channel(client: Client, service: tuple[Service, str]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to it with the client's interceptors."""
    async with grpc.aio.insecure_channel(service[1], interceptors=client.interceptors()) as channel:
        yield channel


async def _two() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


async def _call(channel: grpc.aio.Channel, kind: str) -> Any:
    """Make one call of a kind, and read all of it."""
    if kind == "UnaryUnary":
        return await channel.unary_unary("/test.Echo/UnaryUnary")(b"a")
    if kind == "UnaryStream":
        return [each async for each in channel.unary_stream("/test.Echo/UnaryStream")(b"a")]
    if kind == "StreamUnary":
        return await channel.stream_unary("/test.Echo/StreamUnary")(_two())
    if kind == "StreamUnaryWritten":
        call = channel.stream_unary("/test.Echo/StreamUnary")()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        return await call
    if kind == "StreamStreamWritten":
        call = channel.stream_stream("/test.Echo/StreamStream")()
        await call.write(b"a")
        first = await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return [first]
    return [each async for each in channel.stream_stream("/test.Echo/StreamStream")(_two())]


KINDS = {
    "UnaryUnary": b"a",
    "UnaryStream": [b"a"] * 3,
    "StreamUnary": b"ab",
    "StreamUnaryWritten": b"ab",
    "StreamStream": [b"a", b"b"],
    "StreamStreamWritten": [b"a"],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_carries_the_context_and_is_counted(
    coordinator: FakeCoordinator, client: Client, service: tuple[Service, str], channel: grpc.aio.Channel, kind: str
) -> None:
    async with client.transaction(first_attempt_ms=77) as tx:
        assert await _call(channel, kind) == KINDS[kind]
        assert await _call(channel, kind) == KINDS[kind]
    contexts = [context for context in service[0].contexts if context is not None]
    assert {(context.transaction_id, context.first_attempt_ms) for context in contexts} == {(tx.transaction_id, 77)}
    assert len({context.call_id for context in contexts}) == 2
    commit = await coordinator.next("commits")
    assert [(each.participant, each.count) for each in commit.acknowledged] == [("orders", 4), ("payments", 2)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_call_counts_nothing_and_says_why(
    coordinator: FakeCoordinator, client: Client, service: tuple[Service, str], channel: grpc.aio.Channel, kind: str
) -> None:
    service[0].fail = cause("CONFLICT", participant="payments", retryable=True)
    with pytest.raises(Aborted) as caught:
        async with client.transaction() as tx:
            await _call(channel, kind)
    assert (caught.value.reason, caught.value.participant, caught.value.retryable) == (Reason.CONFLICT, "payments", True)
    assert caught.value.transaction_id == tx.transaction_id
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    assert tx.acknowledged == {}
    assert coordinator.arrived("commits") == 0
    abort = await coordinator.next("aborts")
    assert [(each.participant, each.count) for each in abort.acknowledged] == [("orders", 0), ("payments", 0)]


async def test_calls_of_tasks_in_the_block_take_part(
    coordinator: FakeCoordinator, client: Client, channel: grpc.aio.Channel
) -> None:
    async with client.transaction():
        await asyncio.gather(*(_call(channel, "UnaryUnary") for _ in range(5)))
    commit = await coordinator.next("commits")
    assert [(each.participant, each.count) for each in commit.acknowledged] == [("orders", 10), ("payments", 5)]


async def test_nobody_knows_what_a_call_does_that_is_still_running(
    coordinator: FakeCoordinator, client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].hold = asyncio.Event()
    async with client.transaction():
        call = asyncio.create_task(_call(channel, "UnaryUnary"))
        await service[0].held.wait()
    (acknowledged,) = (await coordinator.next("commits")).acknowledged
    assert acknowledged.unknown
    service[0].hold.set()
    assert await call == b"a"


async def test_outside_of_a_transaction_calls_are_plain(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    await _call(channel, "UnaryUnary")
    async with client.transaction():
        pass
    await _call(channel, "UnaryUnary")
    assert service[0].contexts == [None, None]


async def test_a_call_of_a_transaction_that_is_over_is_refused(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    async with client.transaction() as tx:
        await tx.commit()
        with pytest.raises(RequestError) as caught:
            await _call(channel, "UnaryUnary")
    assert caught.value.reason is Reason.NOT_ACTIVE
    assert service[0].contexts == []


async def test_the_transaction_of_another_client_is_not_carried(
    coordinator: FakeCoordinator, client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    async with Client(coordinator.address) as other, other.transaction():
        await _call(channel, "UnaryUnary")
    assert service[0].contexts == [None]


async def test_metadata_and_other_interceptors_are_kept(client: Client, service: tuple[Service, str]) -> None:
    class Other(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            assert ("x-mine", "1") in list(client_call_details.metadata)
            return await continuation(client_call_details, request)

    interceptors = [*client.interceptors(), Other()]
    async with (
        grpc.aio.insecure_channel(service[1], interceptors=interceptors) as channel,
        client.transaction() as tx,
    ):
        await channel.unary_unary("/test.Echo/UnaryUnary")(b"a", metadata=(("x-mine", "1"),))
        await tx.commit()
    assert tx.acknowledged == {"orders": 2, "payments": 1}


async def test_a_call_that_another_interceptor_answers_counts_nothing(client: Client, service: tuple[Service, str]) -> None:
    class Answers(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return b"mine"

    async with (
        grpc.aio.insecure_channel(service[1], interceptors=[*client.interceptors(), Answers()]) as channel,
        client.transaction() as tx,
    ):
        assert await _call(channel, "UnaryUnary") == b"mine"
        assert tx.acknowledged == {}


async def test_what_a_call_acknowledged_is_known_when_it_returns(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    async with client.transaction() as tx:
        for number in (1, 2):
            await _call(channel, "UnaryUnary")
            assert tx.acknowledged == {"orders": 2 * number, "payments": number}


async def test_a_conflict_that_a_service_reports_is_retried(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant_sdk.client.retry.RETRY", Backoff(0.001, 0.001))
    service[0].fail = cause("CONFLICT", participant="payments", retryable=True)

    @transactional(client, attempts=3)
    async def work() -> Any:
        if len(service[0].contexts) == 2:
            service[0].fail = None
        return await _call(channel, "UnaryUnary")

    assert await work() == b"a"
    ages = {context.first_attempt_ms for context in service[0].contexts if context is not None}
    assert (len(service[0].contexts), len(ages)) == (3, 1)


async def test_a_refusal_that_a_service_reports_is_not_retried(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].fail = cause("REFUSED", participant="payments", code="NO_FUNDS")

    @transactional(client, attempts=3)
    async def work() -> Any:
        return await _call(channel, "UnaryUnary")

    with pytest.raises(Aborted) as caught:
        await work()
    assert (caught.value.participant, caught.value.code) == ("payments", "NO_FUNDS")
    assert len(service[0].contexts) == 1


async def test_refusals_of_calls_in_a_group_leave_the_block_as_one(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].fail = cause("REFUSED", participant="payments", code="NO_FUNDS")
    with pytest.raises(Aborted) as caught:
        async with client.transaction(), asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(_call(channel, "UnaryUnary"))
    assert caught.value.code == "NO_FUNDS"


async def test_what_leaves_the_block_beside_a_refusal_is_not_hidden(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].fail = cause("REFUSED", participant="payments", code="NO_FUNDS")

    async def fails() -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await _call(channel, "UnaryUnary")
        raise LookupError("a bug")

    with pytest.raises(ExceptionGroup):
        async with client.transaction(), asyncio.TaskGroup() as group:
            group.create_task(fails())


async def test_a_call_that_fails_after_the_commit_fails_as_itself(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].fail = cause("REFUSED", participant="payments", code="NO_FUNDS")
    with pytest.raises(grpc.aio.AioRpcError):
        async with client.transaction() as tx:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await _call(channel, "UnaryUnary")
            await tx.commit()
            raise failed.value
    assert tx.outcome is not None


async def test_why_a_call_failed_is_kept_with_the_transaction(
    client: Client, service: tuple[Service, str], channel: grpc.aio.Channel
) -> None:
    service[0].fail = cause("REFUSED", participant="payments", code="NO_FUNDS")
    async with client.transaction() as tx:
        with pytest.raises(grpc.aio.AioRpcError):
            await _call(channel, "UnaryUnary")
        await tx.abort()
    assert isinstance(tx.refusal, Aborted)
    assert (tx.refusal.participant, tx.refusal.code) == ("payments", "NO_FUNDS")


# ---- who is in a transaction, and who is not any more


async def test_a_task_that_outlives_the_block_is_in_no_transaction(
    client: Client, channel: grpc.aio.Channel, service: tuple[Service, str]
) -> None:
    over = asyncio.Event()

    async def refresh() -> None:
        await over.wait()
        await _call(channel, "UnaryUnary")
        await client.run(call("payments", "debit", account="a", amount=5))
        async with client.transaction():
            await _call(channel, "UnaryUnary")
        await _call(channel, "UnaryUnary")

    async with client.transaction() as tx:
        task = asyncio.create_task(refresh())
        await _call(channel, "UnaryUnary")
    over.set()
    await task
    contexts = service[0].contexts
    assert [context is None for context in contexts] == [False, True, False, True]
    assert contexts[0] is not None and contexts[0].transaction_id == tx.transaction_id


async def test_in_the_block_of_a_transaction_that_is_over_a_call_is_refused(client: Client, channel: grpc.aio.Channel) -> None:
    async with client.transaction() as tx:
        await tx.abort()
        with pytest.raises(RequestError, match="is over"):
            await _call(channel, "UnaryUnary")
        async with client.transaction():
            await _call(channel, "UnaryUnary")
        with pytest.raises(RequestError, match="is over"):  # the inner block has given back the outer one
            await _call(channel, "UnaryUnary")


async def test_a_service_inside_a_transaction_begins_no_other(client: Client) -> None:
    """It would commit, whatever becomes of the one that it was called in."""
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        await client.run(call("payments", "debit", account="a", amount=5))

    with entered(common_pb2.TransactionContext(transaction_id="c1.1.9f2c4e1a.3.4", call_id="1")):
        task = asyncio.create_task(later())
        with pytest.raises(RequestError, match="is open here") as caught:
            await client.run(call("payments", "debit", account="a", amount=5))
        assert "onward" in caught.value.hint
        with pytest.raises(RequestError, match="is open here"):
            async with client.transaction():
                raise AssertionError("it was entered")
    over.set()
    await task
