"""The transaction context: how a service knows in which transaction it was called.

The client puts a TransactionContext into the call metadata `troth-context-bin`; the server interceptor here makes it the
`current_scope()` of the handler, and answers in the trailing metadata `troth-acknowledged-bin` how many operations each
participant acknowledged in this call. The client adds these up and names the sums when it commits: a participant that counts
differently votes NO (DESIGN section 4, rule 4), so no half branch is ever committed.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from participant_sdk.causes import cause_of
from troth.errors import Reason, RequestError, TrothError
from troth.v1 import client_pb2, common_pb2

CONTEXT_KEY = "troth-context-bin"
"""Call metadata: a serialised TransactionContext."""
ACKNOWLEDGED_KEY = "troth-acknowledged-bin"
"""Trailing metadata: a serialised AcknowledgedOperations for each participant."""
CAUSE_KEY = "troth-cause-bin"
"""Trailing metadata: the serialised Cause when a TrothError left the handler."""
CAUSE_MESSAGE_CHARACTERS_MAX = 500
"""Trailers of more than 8 KiB get lost on the way, so a message is cut."""

HANDLERS_KEPT_MAX = 10_000
"""Methods of a server whose wrapped handlers are kept."""

Metadata = tuple[tuple[str, str | bytes], ...]


class Scope:
    """One call of a service inside a transaction: its context, and what its participants did in it."""

    __slots__ = ("_acknowledged", "_calls", "_reported", "_servicer_context", "context")

    def __init__(self, context: common_pb2.TransactionContext, servicer_context: Any = None) -> None:
        self.context = context
        self._calls: dict[str, int] = {}
        self._acknowledged: dict[str, int] = {}
        self._servicer_context = servicer_context
        """Whose trailing metadata is kept up to date, so that a handler that aborts tells it too."""
        self._reported: Any = None
        """The trailing metadata as they were set last, while they say it all."""

    def next_call_id(self, participant: str) -> str:
        """The id of the participant's next operation in this call: `CALL/INDEX`.

        A repeat of the call (with the same id, after a lost answer) gives the same ids, as long as the handler runs its
        operations in the same order; so repeats are recognised.
        """
        index = self._calls.get(participant, 0)
        self._calls[participant] = index + 1
        return f"{self.context.call_id}/{index}"

    def acknowledged(self, participant: str) -> None:
        """The participant has acknowledged one more operation to the handler."""
        self._acknowledged[participant] = self._acknowledged.get(participant, 0) + 1
        self._reported = None
        self.report()

    @property
    def counts(self) -> dict[str, int]:
        """How many operations each participant acknowledged in this call."""
        return dict(self._acknowledged)

    def trailers(self) -> Metadata:
        """What the client must learn."""
        return tuple(
            (
                ACKNOWLEDGED_KEY,
                client_pb2.AcknowledgedOperations(participant=participant, count=count).SerializeToString(),
            )
            for participant, count in sorted(self._acknowledged.items())
        )

    def report(self) -> None:
        """Put the counts into the trailing metadata, beside whatever else is there."""
        if self._servicer_context is None:
            return
        present = self._servicer_context.trailing_metadata() or ()
        if present is not self._reported:
            others = (entry for entry in present if entry[0] != ACKNOWLEDGED_KEY)
            self._reported = (*others, *self.trailers())
            self._servicer_context.set_trailing_metadata(self._reported)


_scope: ContextVar[Scope | None] = ContextVar("troth_scope", default=None)


def current_scope() -> Scope | None:
    """The scope of the call that is being handled, or `None` outside of a transaction."""
    return _scope.get()


@contextlib.contextmanager
def entered(context: common_pb2.TransactionContext) -> Iterator[Scope]:
    """Run a block inside a transaction's context, as the interceptor runs a handler."""
    scope = Scope(context)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


def parse_context(metadata: Any) -> common_pb2.TransactionContext:
    """The context in a call's metadata, which must have one. Raises `RequestError` (INVALID_ARGUMENT)."""
    try:
        context = common_pb2.TransactionContext.FromString(_carried(metadata)[-1])
    except (DecodeError, IndexError):
        raise RequestError(Reason.INVALID_ARGUMENT, f"{CONTEXT_KEY} is no TransactionContext") from None
    if not context.transaction_id or not context.call_id:
        raise RequestError(Reason.INVALID_ARGUMENT, f"{CONTEXT_KEY} lacks the transaction or the call id")
    return context


def _carried(metadata: Any) -> list[bytes]:
    return [value for key, value in metadata or () if key == CONTEXT_KEY]


# ---- the server interceptor


class TransactionInterceptor(grpc.aio.ServerInterceptor):
    """Gives handlers their transaction. Calls without one, and handlers that are no coroutines, pass unchanged.

    A `TrothError` that leaves a handler becomes the status of its reason, with the message and the cause.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Any, Any]] = {}
        """By method: the handler, and the same one inside the scope of its call."""

    # What a handler is wrapped in takes the context from the call, and not from here: so it is the same for all calls.
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not _carried(handler_call_details.invocation_metadata):
            return handler
        known = self._handlers.get(handler_call_details.method)
        if known is None or known[0] is not handler:
            if len(self._handlers) >= HANDLERS_KEPT_MAX:
                self._handlers.clear()  # of a server that makes up its methods
            known = self._handlers[handler_call_details.method] = (handler, _wrapped(handler))
        return known[1]


def _wrapped(handler: Any) -> Any:
    """The same handler inside the scope of its call."""
    kinds: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = getattr(handler, name)
    if inspect.isasyncgenfunction(behaviour):
        wrapped: Callable[..., Any] = _generator_in_scope(behaviour)
    elif inspect.iscoroutinefunction(behaviour):
        wrapped = _coroutine_in_scope(behaviour)
    else:
        # A plain def runs in a thread pool, where the context is not seen: `branch()` says so there.
        return handler
    return make(
        wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def _coroutine_in_scope(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, servicer_context: Any) -> Any:
        try:
            scope = _enter(servicer_context)
            try:
                return await behaviour(request, servicer_context)
            finally:
                scope.report()
        except TrothError as error:
            await _abort(servicer_context, error)

    return handle


def _generator_in_scope(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
    async def handle(request: Any, servicer_context: Any) -> AsyncIterator[Any]:
        try:
            scope = _enter(servicer_context)
            try:
                async for response in behaviour(request, servicer_context):
                    yield response
            finally:
                scope.report()
        except TrothError as error:
            await _abort(servicer_context, error)

    return handle


def _enter(servicer_context: Any) -> Scope:
    """Begin the scope of a call. At its end it must `report` once more: the handler may have set trailing metadata of its own."""
    scope = Scope(parse_context(servicer_context.invocation_metadata()), servicer_context)
    # Each call has a task, and so a context, of its own: nothing needs to be reset, and an asynchronous generator could not.
    _scope.set(scope)
    return scope


async def _abort(servicer_context: Any, error: TrothError) -> None:
    cause = cause_of(error)
    cause.message = cause.message[:CAUSE_MESSAGE_CHARACTERS_MAX]
    trailing = (*(servicer_context.trailing_metadata() or ()), (CAUSE_KEY, cause.SerializeToString()))
    await servicer_context.abort(
        getattr(grpc.StatusCode, error.reason.grpc_code), f"{error.reason.name}: {cause.message}", trailing
    )
