"""The outermost interceptor: what may reach a caller when something goes wrong.

- A message that does not decode, or is larger than `frame_bytes_max`, is refused with a stable reason. gRPC would answer
  UNKNOWN with the exception's text; so decoding is wrapped, and yields a `Malformed` in place of the message.
- A `TrothError` becomes its status (`status`).
- Anything else becomes INTERNAL with an error id. The text of an exception goes to our log under that id, never to a peer.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from coordinator.services import status
from coordinator.services.context import ShellCounters
from troth.errors import Reason, RemoteProtocolError, TrothError
from troth.link import to_wire

log = structlog.get_logger("troth.guard")

Behaviour = Callable[..., Any]


class Malformed:
    """Takes the place of a message that is refused."""

    __slots__ = ("error",)

    def __init__(self, error: RemoteProtocolError) -> None:
        self.error = error

    def ListFields(self) -> list[Any]:
        """No fields: failpoints look at frames."""
        return []


class Guard(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server."""

    def __init__(self, frame_bytes_max: int, counters: ShellCounters) -> None:
        self._bytes_max = frame_bytes_max
        self._counters = counters

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler and wrap it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        decode = self._decoder(handler.request_deserializer)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.stream_stream, lambda requests: requests), decode, to_wire
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, self._sound), decode, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary), decode, handler.response_serializer
        )

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
            return message

        return guarded

    def _unary(self, behaviour: Behaviour | None) -> Behaviour:
        assert behaviour is not None, "the handler's kind says that it is there"

        async def guarded(request: Any, context: Any) -> Any:
            try:
                self._counters.unary_calls += 1
                return await behaviour(self._sound(request), context)
            except Exception as error:
                await self._refuse(context, error)

        return guarded

    def _streaming(self, behaviour: Behaviour | None, check: Callable[[Any], Any]) -> Behaviour:
        """Handlers that answer with a stream are generators, or write to the context themselves; gRPC looks which."""
        assert behaviour is not None, "the handler's kind says that it is there"

        async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(check(request), context):
                    yield response
            except Exception as error:
                await self._refuse(context, error)

        async def coroutine(request: Any, context: Any) -> None:
            try:
                await behaviour(check(request), context)
            except Exception as error:
                await self._refuse(context, error)

        return generator if inspect.isasyncgenfunction(behaviour) else coroutine

    def _sound(self, request: Any) -> Any:
        if isinstance(request, Malformed):
            self._counters.malformed_frames += 1
            raise request.error
        return request

    async def _refuse(self, context: Any, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, TrothError):
            await status.abort_with(context, error)
        self._counters.internal_errors += 1
        error_id = secrets.token_hex(8)
        log.error("internal error", error_id=error_id, exc_info=error)
        await status.abort(context, status.cause(Reason.INTERNAL, f"internal error {error_id}"))
