"""The context of a call: how handlers get their transaction, and what the client is told about it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from participant_sdk.carriers import cause_within
from participant_sdk.context import Scope, SyncTransactionInterceptor, TransactionInterceptor, current_scope, entered
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY
from troth.errors import Reason, Refuse
from troth.v1 import client_pb2, common_pb2

CONTEXT = common_pb2.TransactionContext(transaction_id="c1.1.00112233.1.7", first_attempt_ms=5, call_id="c7")
WITH_CONTEXT = ((CONTEXT_KEY, CONTEXT.SerializeToString()),)

KINDS = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


@contextlib.asynccontextmanager
async def served(kind: str, behaviour: Callable[..., Any]) -> AsyncIterator[Any]:
    """A call to one method of a server with the interceptor; requests and responses are bytes."""
    server = grpc.aio.server(interceptors=[TransactionInterceptor()], options=(("grpc.so_reuseport", 0),))
    handlers = {"Do": KINDS[kind](behaviour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield getattr(channel, kind)("/test.Service/Do")
    finally:
        await server.stop(None)


def counts(metadata: Any) -> dict[str, int]:
    messages = [client_pb2.AcknowledgedOperations.FromString(value) for key, value in metadata if key == ACKNOWLEDGED_KEY]
    return {message.participant: message.count for message in messages}


def work_twice() -> bytes:
    scope = current_scope()
    assert scope is not None
    for _ in range(2):
        scope.acknowledged("bank")
    return scope.context.transaction_id.encode()


async def unary(request: bytes, context: Any) -> bytes:
    context.set_trailing_metadata((("own", "1"),))
    return work_twice()


async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield work_twice()


async def writer(request: bytes, context: Any) -> None:
    await context.write(work_twice())


async def from_stream(requests: Any, context: Any) -> bytes:
    assert [request async for request in requests] == [b"a"]
    return work_twice()


async def both_streams(requests: Any, context: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield work_twice()


@pytest.mark.parametrize(
    ("kind", "behaviour"),
    [
        ("unary_unary", unary),
        ("unary_stream", generator),
        ("unary_stream", writer),
        ("stream_unary", from_stream),
        ("stream_stream", both_streams),
    ],
)
async def test_every_kind_of_handler_gets_its_scope_and_reports(kind: str, behaviour: Callable[..., Any]) -> None:
    async with served(kind, behaviour) as method:
        call = method(iter([b"a"]) if kind.startswith("stream") else b"a", metadata=WITH_CONTEXT)
        responses = [response async for response in call] if kind.endswith("stream") else [await call]
        assert responses == [CONTEXT.transaction_id.encode()]
        assert counts(await call.trailing_metadata()) == {"bank": 2}


async def test_a_handlers_own_trailing_metadata_stays() -> None:
    async with served("unary_unary", unary) as method:
        call = method(b"a", metadata=WITH_CONTEXT)
        await call
        assert ("own", "1") in tuple(await call.trailing_metadata())


async def test_calls_without_a_transaction_pass_unchanged() -> None:
    async def outside(request: bytes, context: Any) -> bytes:
        return b"none" if current_scope() is None else b"some"

    async with served("unary_unary", outside) as method:
        call = method(b"a")
        assert await call == b"none"
        assert counts(await call.trailing_metadata()) == {}


async def test_plain_handlers_have_no_scope() -> None:
    def plain(request: bytes, context: Any) -> bytes:
        return b"none" if current_scope() is None else b"some"

    async with served("unary_unary", plain) as method:
        assert await method(b"a", metadata=WITH_CONTEXT) == b"none"


async def test_a_handler_that_aborts_tells_its_counts_too() -> None:
    async def aborts(request: bytes, context: Any) -> bytes:
        work_twice()
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        return b""

    async with served("unary_unary", aborts) as method:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"a", metadata=WITH_CONTEXT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert counts(caught.value.trailing_metadata()) == {"bank": 2}


async def test_a_refusal_that_leaves_the_handler_becomes_a_status_with_its_cause() -> None:
    async def refuses(request: bytes, context: Any) -> bytes:
        work_twice()
        raise Refuse("NO_FUNDS", "x" * 5000, retryable=True)

    async with served("unary_unary", refuses) as method:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"a", metadata=WITH_CONTEXT)
    trailing = tuple(caught.value.trailing_metadata())
    cause = common_pb2.Cause.FromString(dict(trailing)[CAUSE_KEY])
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert (cause.reason, cause.code, cause.retryable, len(cause.message)) == ("REFUSED", "NO_FUNDS", True, 500)
    assert counts(trailing) == {"bank": 2}


class FailedCall(grpc.RpcError):
    """A call that went on from a handler, and was refused there."""

    def trailing_metadata(self) -> Any:
        cause = common_pb2.Cause(reason="REFUSED", code="NO_STOCK", participant="stock")
        return ((CAUSE_KEY, cause.SerializeToString()),)


async def _refused_onward(request: bytes, context: Any) -> bytes:
    raise FailedCall


async def _refused_after_one(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield request
    raise FailedCall


@pytest.mark.parametrize(("kind", "behaviour"), [("unary_unary", _refused_onward), ("unary_stream", _refused_after_one)])
async def test_a_refusal_from_onward_leaves_every_kind_of_handler_as_one(kind: str, behaviour: Callable[..., Any]) -> None:
    async with served(kind, behaviour) as method:
        call = method(b"a", metadata=WITH_CONTEXT)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [response async for response in call] if kind.endswith("stream") else await call
    cause = common_pb2.Cause.FromString(dict(tuple(caught.value.trailing_metadata()))[CAUSE_KEY])
    assert (caught.value.code(), cause.participant, cause.code) == (grpc.StatusCode.ABORTED, "stock", "NO_STOCK")


async def test_each_call_of_a_method_has_a_scope_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("participant_sdk.context.HANDLERS_KEPT_MAX", 1)
    interceptor = TransactionInterceptor()
    handlers = [grpc.unary_unary_rpc_method_handler(unary) for _ in range(2)]

    async def wrapped(method: str, handler: Any) -> Any:
        async def look_up(details: Any) -> Any:
            return handler

        details = SimpleNamespace(method=method, invocation_metadata=WITH_CONTEXT)
        return await interceptor.intercept_service(look_up, cast("grpc.HandlerCallDetails", details))

    first = await wrapped("/a", handlers[0])
    assert await wrapped("/a", handlers[0]) is first
    assert await wrapped("/a", handlers[1]) is not first
    assert await wrapped("/b", handlers[0]) is not first
    assert list(interceptor._handlers._known) == ["/b"], "a server that makes up its methods keeps no more than so many"
    async with served("unary_unary", _tells_its_call) as method:
        for call_id in ("c1", "c2"):
            context = common_pb2.TransactionContext(transaction_id="t", call_id=call_id)
            assert await method(b"a", metadata=((CONTEXT_KEY, context.SerializeToString()),)) == call_id.encode()


async def _tells_its_call(request: bytes, context: Any) -> bytes:
    scope = current_scope()
    assert scope is not None
    return scope.context.call_id.encode()


@pytest.mark.parametrize("value", [b"\xff", b"", common_pb2.TransactionContext(call_id="c").SerializeToString()])
async def test_a_context_that_is_none_is_refused(value: bytes) -> None:
    async with served("unary_unary", unary) as method:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"a", metadata=((CONTEXT_KEY, value),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert Reason.INVALID_ARGUMENT.name in (caught.value.details() or "")


def test_call_ids_are_numbered_for_each_participant() -> None:
    scope = Scope(CONTEXT)
    ids = [scope.next_call_id(name) for name in ("bank", "bank", "stock")]
    assert ids == ["c7/0", "c7/1", "c7/0"]


def test_a_context_can_be_entered_by_hand() -> None:
    with entered(CONTEXT) as scope:
        assert current_scope() is scope
    assert current_scope() is None


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_task_that_outlives_its_handler_is_in_no_transaction(kind: str) -> None:
    found: list[Scope | None] = []
    answered = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def look() -> None:
        found.append(current_scope())
        await answered.wait()
        found.append(current_scope())

    async def handler(request: bytes, context: Any) -> bytes:
        tasks.append(asyncio.create_task(look()))
        await asyncio.sleep(0)
        return request

    async def streaming(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await handler(request, context)

    async with served(kind, handler if kind == "unary_unary" else streaming) as method:
        call = method(b"a", metadata=((CONTEXT_KEY, CONTEXT.SerializeToString()),))
        if kind == "unary_unary":
            await call
        else:
            assert [one async for one in call] == [b"a"]
        answered.set()
        await asyncio.gather(*tasks)
    during, after = found
    assert during is not None and after is None


# ---- handlers in threads


def in_thread(request: bytes, context: Any) -> bytes:
    assert threading.current_thread() is not threading.main_thread()
    return work_twice()


def in_threads(request: bytes, context: Any) -> Iterator[bytes]:
    yield b"first"
    yield work_twice()


def refuses_in_thread(request: bytes, context: Any) -> bytes:
    work_twice()
    raise Refuse("NO_FUNDS", "too little")


@contextlib.contextmanager
def served_in_threads(kind: str, behaviour: Callable[..., Any]) -> Iterator[Any]:
    """The same on a server of the blocking API; gives the method of a blocking channel."""
    server = grpc.server(
        ThreadPoolExecutor(2), interceptors=[SyncTransactionInterceptor("bank")], options=(("grpc.so_reuseport", 0),)
    )
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"M": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield getattr(channel, kind)("/s/M")
    finally:
        server.stop(None).wait()


def test_a_server_of_the_blocking_api_gives_its_handlers_their_scope() -> None:
    with served_in_threads("unary_unary", in_thread) as method:
        answer, call = method.with_call(b"a", metadata=WITH_CONTEXT)
        assert answer == CONTEXT.transaction_id.encode() and counts(call.trailing_metadata()) == {"bank": 2}
    with served_in_threads("unary_stream", in_threads) as method:
        answers = method(b"a", metadata=WITH_CONTEXT)
        assert list(answers) == [b"first", CONTEXT.transaction_id.encode()]
        assert counts(answers.trailing_metadata()) == {"bank": 2}
    with served_in_threads("unary_unary", lambda request, context: b"some" if current_scope() else b"none") as method:
        assert method(b"a") == b"none" and method(b"a", metadata=WITH_CONTEXT) == b"some" and method(b"a") == b"none"


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("code", [None, grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND])
async def test_who_has_set_an_errors_status_has_nobody_vote(threads: bool, code: grpc.StatusCode | None) -> None:
    """It has failed as one that raised has, so nothing of it is prepared."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()

    async def vote(transaction_id: str) -> None:
        asked.append(transaction_id)

    def plain(request: bytes, context: Any) -> bytes:
        scope = current_scope()
        assert scope is not None
        scope.votes_at_end("bank", 1, vote, loop)
        if code is not None:
            context.set_code(code)
        return request

    async def handler(request: bytes, context: Any) -> bytes:
        return plain(request, context)

    last = common_pb2.TransactionContext(transaction_id="t", call_id="c", last_call=True)
    metadata = ((CONTEXT_KEY, last.SerializeToString()),)
    with contextlib.suppress(grpc.RpcError):
        if threads:
            with served_in_threads("unary_unary", plain) as method:
                await asyncio.to_thread(method, b"a", metadata=metadata)
        else:
            async with served("unary_unary", handler) as method:
                await method(b"a", metadata=metadata)
    assert asked == ([] if code is grpc.StatusCode.NOT_FOUND else ["t"])


def test_what_such_a_handler_raises_tells_its_cause() -> None:
    with served_in_threads("unary_unary", refuses_in_thread) as method:
        with pytest.raises(grpc.RpcError) as failed:
            method(b"a", metadata=WITH_CONTEXT)
        cause = cause_within(failed.value)
        assert cause is not None and (cause.participant, cause.code) == ("bank", "NO_FUNDS")
        assert counts(failed.value.trailing_metadata()) == {"bank": 2}
