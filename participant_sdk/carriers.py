"""What carries a transaction to services, and counts what they acknowledged; gRPC's client interceptors.

Out: the metadata `troth-context-bin`, a serialised TransactionContext with a call id of its own.
Back: the trailing metadata `troth-acknowledged-bin`, a serialised AcknowledgedOperations, once for each participant that did
work in the call, at any depth; and, when a call failed because of the transaction, `troth-cause-bin`, a serialised Cause.

A call that failed counts nothing, but it tells who has a branch. If its work was done all the same, the participant's number
differs from the client's, and the transaction aborts: there are no half branches (DESIGN section 4, rule 4). A call of which
nothing came back, and one that has not ended, may have done anything: a commit aborts then too.

In HTTP the same goes in headers (`participant_sdk.frameworks`). Whoever calls inside a transaction uses these: the client at
its beginning (`Client.interceptors`), and a service that was itself called in it (`Participant.onward`). What they carry for is a
`Carried`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from participant_sdk.causes import cause_of
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY, ROUTE_KEY, Metadata, said
from troth import tracing
from troth.errors import TrothError
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from troth.spans import Call

M = TypeVar("M", bound=Message)

@dataclass(slots=True)
class Carried:
    """The transaction that one call is made in, as a carrier needs it."""

    context: Callable[[], common_pb2.TransactionContext]
    """A fresh context for one call, which begins. Raises for a transaction that is over: a call that silently was no part of it
    were worse."""
    count: Callable[[client_pb2.AcknowledgedOperations], None]
    """Takes what a call acknowledged, and that nobody knows what it did."""
    failed: Callable[[common_pb2.Cause], None]
    """Takes why a call failed."""
    over: Callable[[], None]
    """Told of the end of each call that has begun."""
    span: Call | None = None
    """The call's, where it is traced."""

    def ended(self, succeeded: bool, said: Iterable[tuple[str, Any]], nobody_knows: bool) -> None:
        """Tell what a call says that has ended. `nobody_knows` is whether its status may come from somebody between, who has lost
        the answer: where the service said nothing, it may have done anything."""
        told = False
        for name, value in said:
            if name == ACKNOWLEDGED_KEY:
                told = True
                done = _parse(client_pb2.AcknowledgedOperations, value, client_pb2.AcknowledgedOperations(unknown=True))
                if not succeeded:
                    done.count = 0
                    done.ClearField("vote")
                self.count(done)
            elif not succeeded and name == CAUSE_KEY:
                told = True
                self.failed(_parse(common_pb2.Cause, value, common_pb2.Cause()))
        if not told and nobody_knows:
            self.count(client_pb2.AcknowledgedOperations(unknown=True))
        self.over()

    def lost(self) -> None:
        """Tell of a call that has begun, and ended without a status."""
        if self.span is not None:
            self.span.fails("lost")
        self.count(client_pb2.AcknowledgedOperations(unknown=True))
        self.over()


def call_ended(carried: Carried, code: Any, trailing: Any) -> None:
    """Tell what a call of gRPC says that has ended with a status code and trailing metadata."""
    if carried.span is not None:
        carried.span.ended(code.name)
    carried.ended(code is grpc.StatusCode.OK, trailing or (), code in NOT_SAID_BY_A_SERVICE)


NOT_SAID_BY_A_SERVICE = frozenset({
    grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE,
})  # fmt: skip
"""Codes that gRPC makes by itself when an answer is lost: without a word of the service nobody knows what the call did."""

Find = Callable[[], Carried | None]
"""Finds the transaction around a call; `None` outside of one."""


def cause_within(error: BaseException | None, participant: str = "") -> common_pb2.Cause | None:
    """The cause that an error tells: a failed call of a service that sent one, a `TrothError`, or a group of nothing but such.

    Of several (calls in parallel) one that no retry can mend comes first. `participant` is who says a `TrothError` that names
    nobody. `None` for any other error.
    """
    if isinstance(error, TrothError):
        return cause_of(error, participant)
    if isinstance(error, grpc.RpcError):
        return _cause_said(getattr(error, "trailing_metadata", tuple)())
    answer = getattr(error, "response", None)
    if answer is not None and hasattr(answer, "headers"):  # an HTTPStatusError of httpx, an HTTPError of requests
        return _cause_said(said(answer.headers))
    if isinstance(error, BaseExceptionGroup):
        causes = [cause_within(one, participant) for one in error.exceptions]
        told = [cause for cause in causes if cause is not None]
        return min(told, key=lambda cause: cause.retryable) if len(told) == len(causes) else None
    return None


def _cause_said(metadata: Any) -> common_pb2.Cause | None:
    return next((_parse(common_pb2.Cause, value, common_pb2.Cause()) for name, value in metadata or () if name == CAUSE_KEY), None)


# ---- grpc.aio


def aio_carriers(find: Find) -> Sequence[grpc.aio.ClientInterceptor]:
    """One interceptor for each kind of call; grpc.aio takes an object for one kind only."""
    return (_UnaryUnary(find), _UnaryStream(find), _StreamUnary(find), _StreamStream(find))


class _Carrier:
    def __init__(self, find: Find) -> None:
        self._find = find

    async def carry(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Make the call, within the transaction around it if there is one."""
        carried = self._find()
        if carried is None:
            return await continuation(details, request)
        within = _with_context(details, carried)
        try:
            call = await continuation(within, request)
        except BaseException:
            carried.lost()
            raise
        if call.done():
            _count(carried, call)  # an interceptor inside of this one has answered it; such a call takes no callback
        else:
            call.add_done_callback(functools.partial(_count, carried))
        return call


class _UnaryUnary(_Carrier, grpc.aio.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.carry(continuation, client_call_details, request)


class _UnaryStream(_Carrier, grpc.aio.UnaryStreamClientInterceptor):
    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.carry(continuation, client_call_details, request)


class _StreamUnary(_Carrier, grpc.aio.StreamUnaryClientInterceptor):
    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.carry(continuation, client_call_details, request_iterator)


class _StreamStream(_Carrier, grpc.aio.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.carry(continuation, client_call_details, request_iterator)


def _with_context(details: grpc.aio.ClientCallDetails, carried: Carried) -> grpc.aio.ClientCallDetails:
    own = () if details.metadata is None else details.metadata
    if tracing.spans is not None:
        carried.span = tracing.spans.calls_grpc(_text(details.method))
    metadata = grpc.aio.Metadata(*own, *headers_of(carried))  # a service takes the last
    return grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


def headers_of(carried: Carried) -> Metadata:
    """What a call carries: its context, and the transaction's id in clear, by which a proxy sends all calls of a transaction to
    the same process of a service; and its trace, which others on the way read as well."""
    call, spans = carried.span, tracing.spans
    if call is None or spans is None:
        context = carried.context()
        return (ROUTE_KEY, context.transaction_id), (CONTEXT_KEY, context.SerializeToString())
    with call.around():
        context = carried.context()
    traced = tuple(spans.headers(call.context).items())
    return (ROUTE_KEY, context.transaction_id), (CONTEXT_KEY, context.SerializeToString()), *traced


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def _count(carried: Carried, call: Any) -> None:
    """Tell the transaction what a call says that has ended. Whoever waits for the call goes on after this."""
    call_ended(carried, _known(call.code()), _known(call.trailing_metadata()))


def _known(answer: Coroutine[Any, Any, Any]) -> Any:
    """What gRPC knows of a call that has ended: it tells it in coroutines only, but they have nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("a call that has ended does not know how")


# ---- channels of the blocking API


class SyncCarrier(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For `grpc.intercept_channel(channel, ...)`: all four kinds of call, from any thread that has the caller's context.

    gRPC wakes whoever waits for a call before it runs the call's callbacks. So calls that have not been counted are kept in
    `Uncounted`, and are looked at again before anything is told of them.
    """

    def __init__(self, find: Callable[[], tuple[Carried, Uncounted] | None]) -> None:
        self._find = find

    def _carry(self, continuation: Any, details: Any, request: Any) -> Any:
        found = self._find()
        if found is None:
            return continuation(details, request)
        carried, uncounted = found
        if tracing.spans is not None:
            carried.span = tracing.spans.calls_grpc(_text(details.method))
        metadata = (*(details.metadata or ()), *headers_of(carried))
        try:
            call = continuation(_Details.like(details, metadata), request)
        except BaseException:
            carried.lost()
            raise
        uncounted.add(call, carried)
        call.add_done_callback(lambda _: uncounted.count())
        return call

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """One in, one out."""
        return self._carry(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """One in, many out."""
        return self._carry(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Many in, one out."""
        return self._carry(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Many in, many out."""
        return self._carry(continuation, client_call_details, request_iterator)


class Uncounted:
    """Blocking calls of one handler that have not told yet what they did. Each is counted once, by whoever comes first."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[Any, Carried]] = {}
        self._lock = threading.Lock()

    def add(self, call: Any, carried: Carried) -> None:
        """A call is under way."""
        with self._lock:
            self._calls[id(call)] = (call, carried)

    def count(self) -> None:
        """Count those that have ended."""
        with self._lock:
            ended = [(key, call, carried) for key, (call, carried) in self._calls.items() if call.done()]
            for key, _, _ in ended:
                del self._calls[key]
        for _, call, carried in ended:
            call_ended(carried, call.code(), call.trailing_metadata())


class _Details(NamedTuple):
    """A call's details, with other metadata; gRPC reads them by name."""

    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any

    @classmethod
    def like(cls, details: Any, metadata: Any) -> _Details:
        """The same details otherwise."""
        kept = {name: getattr(details, name, None) for name in cls._fields}
        return cls(**{**kept, "metadata": metadata})


def _parse(kind: type[M], data: Any, garbled: M) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        return garbled
