"""The outermost interceptor: what may reach a caller when something goes wrong.

- A message that does not decode, is larger than `frame_bytes_max`, or has more than `frame_messages_max`, is refused with a stable
  reason. gRPC would answer UNKNOWN with the exception's text; so decoding is wrapped, and yields a `Malformed` in its place.
- What was said is let go with the call, also when it fails. gRPC leaves circles behind that hold the request, and a full collection
  comes after hours.
- Who calls is found out before anything is heard, but for health: whoever shows something that is not accepted is refused. Then
  the policy is asked whether he may make this call, with this request (`identity.gate`).
- A `TrothError` becomes its status (`status`).
- Anything else becomes INTERNAL with an error id. The text of an exception goes to our log under that id, never to a peer.
- A stream begins with its headers. gRPC would send them with the first frame, and once more with the status where that frame was
  not taken, which its core refuses with a traceback; no peer's window holds headers up.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from coordinator.identity.asked import ADMINISTRATION
from coordinator.identity.who import CALLER
from coordinator.services import status
from coordinator.services.context import Common
from troth.errors import Reason, RemoteProtocolError, RequestError, TrothError
from troth.identity.peer import Identity
from troth.link import messages_of, to_wire
from troth.logs import get_logger

log = get_logger("troth.guard")

Behaviour = Callable[..., Any]

PUBLIC = ("/grpc.health.v1.Health/",)
"""What anybody may ask, whatever he shows: a balancer has no token, and must not be sent away for an old one."""
BEGINS = frozenset(f"/troth.v1.TransactionService/{name}" for name in ("Run", "Begin", "Connect"))
"""The calls that work begins with."""


class Malformed:
    """Takes the place of a message that is refused."""

    __slots__ = ("error",)

    def __init__(self, error: RemoteProtocolError) -> None:
        self.error = error

    def ListFields(self) -> list[Any]:
        """No fields: failpoints look at frames."""
        return []


def check_count(message: Message, messages_max: int) -> None:
    """Raise `RemoteProtocolError` for a message, of a stream or of a unary call, that has more messages than it may have: the
    smallest take some forty times their bytes once they are decoded."""
    count = messages_of(message)
    if count > messages_max:
        text = f"a frame has {count} messages, frame_messages_max is {messages_max}"
        raise RemoteProtocolError(text, reason=Reason.FRAME_TOO_LARGE)


class Door(NamedTuple):
    """What is special about where a call comes in."""

    identity: Identity | None = None
    """Who everybody is who comes in here, whatever he shows."""
    administration: str = ""
    """Where the admin service is, when it is not here."""


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server."""

    def __init__(self, common: Common, door: Door = Door()) -> None:  # noqa: B008 - it is a constant
        self._door = door
        self._common = common
        self._bytes_max, self._messages_max = common.shell.frame_bytes_max, common.shell.frame_messages_max
        self._counters = common.counters
        self._quiet = common.quiet
        self._calls = common.calls
        self._witness, self._gate, self._auditing = common.witness, common.gate, common.auditing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler and wrap it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        decode, method = self._decoder(handler.request_deserializer), handler_call_details.method
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, _closing(handler.stream_stream), lambda requests: requests, waits=False), decode, to_wire
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream, self._sound, waits=True), decode, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), decode, handler.response_serializer)

    def _decoder(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Message | Malformed]:
        assert decode is not None, "generated code always names a deserializer"

        def guarded(raw: bytes) -> Message | Malformed:
            if len(raw) > self._bytes_max:
                text = f"a message has {len(raw)} bytes, frame_bytes_max is {self._bytes_max}"
                return Malformed(RemoteProtocolError(text, reason=Reason.FRAME_TOO_LARGE))
            try:
                message: Message = decode(raw)
            except DecodeError:
                text = "a message does not decode: it is not of the type that this method takes"
                return Malformed(RemoteProtocolError(text, reason=Reason.INVALID_ARGUMENT))
            try:
                check_count(message, self._messages_max)
            except RemoteProtocolError as error:
                return Malformed(error.with_traceback(None))
            return message

        return guarded

    def _unary(self, method: str, behaviour: Behaviour | None) -> Behaviour:
        assert behaviour is not None, "the handler's kind says that it is there"

        async def guarded(request: Any, context: Any) -> Any:
            try:
                self._counters.unary_calls += 1
                with self._inside(method, context, waits=True):
                    self._gate.call(CALLER.get(), method, self._sound(request))
                    answer = await behaviour(request, context)
            except Exception as error:
                del request
                await self._refuse(method, context, error)
            self._give_up_later()
            return answer

        return guarded

    def _give_up_later(self) -> None:
        """Have the call end in time, whether or not its caller reads the answer, which gRPC sends in this same task."""
        task = asyncio.current_task()
        assert task is not None, "gRPC handles each call in a task"
        timer = asyncio.get_running_loop().call_later(self._common.shell.answer_seconds, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())

    def _streaming(self, method: str, behaviour: Behaviour | None, check: Callable[[Any], Any], *, waits: bool) -> Behaviour:
        """Handlers that answer with a stream are generators, or write to the context themselves; gRPC looks which."""
        assert behaviour is not None, "the handler's kind says that it is there"

        async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                with self._inside(method, context, waits=waits):
                    checked = check(request)
                    self._gate.call(CALLER.get(), method, checked)
                    async for response in behaviour(checked, context):
                        yield response
            except Exception as error:
                del request
                checked = None
                await self._refuse(method, context, error)

        async def coroutine(request: Any, context: Any) -> None:
            try:
                with self._inside(method, context, waits=waits):
                    checked = check(request)
                    self._gate.call(CALLER.get(), method, checked)
                    await _send_headers(context)
                    await behaviour(checked, context)
            except Exception as error:
                del request
                checked = None
                await self._refuse(method, context, error)

        return generator if inspect.isasyncgenfunction(behaviour) else coroutine

    @contextmanager
    def _inside(self, method: str, context: Any, *, waits: bool) -> Iterator[None]:
        """Have a place, and be known, for as long as the call lasts. Raises `RequestError`."""
        with self._calls.one(method, waits=waits):
            self._recognise(method, context)
            name = CALLER.get().name
            with self._calls.by(name, context.peer() if name else ""):
                yield

    def _recognise(self, method: str, context: Any) -> None:
        """Have `CALLER` say who calls, for as long as the call lasts. Raises `RequestError`."""
        if method.startswith(PUBLIC):
            return
        try:
            identity, metadata = self._door.identity or self._witness.identity(context), context.invocation_metadata()
            CALLER.set(self._gate.behind(identity, metadata))
        except RequestError as error:
            self._counters.unauthenticated += 1
            self._quiet.tell(log.warning, "a caller is not accepted", method=method, peer=context.peer(), why=error.message)
            self._auditing.unknown(context.peer(), error.message)
            raise
        if self._door.administration and method.startswith(ADMINISTRATION) and not self._gate.is_node(identity, metadata):
            text = f"administration is at {self._door.administration} alone"
            self._gate.refuse(identity, "administration", method, text)
            raise RequestError(Reason.FORBIDDEN, text, hint="Name it: --coordinator, or TROTH_COORDINATOR.")

    def _sound(self, request: Any) -> Any:
        if isinstance(request, Malformed):
            self._counters.malformed_frames += 1
            raise request.error
        return request

    async def _refuse(self, method: str, context: Any, error: Exception) -> NoReturn:
        if not isinstance(error, (grpc.aio.AbortError, TrothError)):
            self._counters.internal_errors += 1
            error_id = secrets.token_hex(8)
            self._quiet.tell(log.error, "internal error", error_id=error_id, exc_info=error)
        if method in BEGINS and isinstance(error, RequestError):  # what the core refuses, it tells of itself
            self._common.tell_refused(error.reason, error.by_caller)
        _let_frames_go(error)
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, TrothError):
            await status.abort_with(context, error)
        await status.abort(context, status.cause(Reason.INTERNAL, f"internal error {error_id}"))


def _let_frames_go(error: BaseException | None) -> None:
    """Drop the tracebacks of an error, which nobody looks at any more. gRPC keeps the error that ends a call in a circle that only
    the collector finds, after hours; and the frames in its traceback hold the request."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _closing(behaviour: Behaviour | None) -> Behaviour:
    """The same handler, which closes what it reads with. gRPC's reader and its generator hold each other, and the frame that came
    last, until then."""
    assert behaviour is not None, "the handler's kind says that it is there"
    if inspect.isasyncgenfunction(behaviour):

        async def answering(requests: Any, context: Any) -> AsyncIterator[Any]:
            async with aclosing(aiter(requests)) as incoming:
                async for response in behaviour(incoming, context):
                    yield response

        return answering

    async def closing(requests: Any, context: Any) -> None:
        async with aclosing(aiter(requests)) as incoming:
            await behaviour(incoming, context)

    return closing


async def _send_headers(context: Any) -> None:
    try:
        await context.send_initial_metadata(())
    except Exception as error:
        # The peer has left already, which the stream finds out by itself; how the transport names that differs between versions.
        log.debug("a peer left before its stream began", error=repr(error))
