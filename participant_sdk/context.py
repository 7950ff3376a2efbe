"""The transaction context: how a service knows in which transaction it was called.

The client puts a TransactionContext into the call metadata `troth-context-bin`; the server interceptor here makes it the
`current_scope()` of the handler, and answers in the trailing metadata `troth-acknowledged-bin` how many operations each
participant acknowledged in this call. The client adds these up and names the sums when it commits: a participant that counts
differently votes NO (DESIGN section 4, rule 4), so no half branch is ever committed.

A handler that calls other services in the same transaction does so through channels with `Participant.onward`: the scope gives
each such call a context, adds what it acknowledged to its own counts, and passes on why it failed. So it goes at any depth.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from participant_sdk.at_work import AtWork
from participant_sdk.carriers import Carried, SyncCarrier, Uncounted, aio_carriers, cause_within
from participant_sdk.early import EarlyVotes, Told, Vote, fitting
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY, Metadata
from participant_sdk.tally import Tally
from troth import tracing
from troth.errors import Reason, RequestError
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from troth.spans import Call

CAUSE_MESSAGE_CHARACTERS_MAX = 500
"""Trailers of more than 8 KiB get lost on the way, so a message is cut."""

HANDLERS_KEPT_MAX = 10_000
"""Methods of a server whose wrapped handlers are kept."""


class Scope:
    """One call of a service inside a transaction: its context, and what was done in it, here and further on."""

    __slots__ = (
        "_calls",
        "_early",
        "_lock",
        "_onward",
        "_reported",
        "_servicer_context",
        "_tally",
        "caller",
        "context",
        "span",
        "tells",
        "uncounted",
        "work",
    )  # fmt: skip

    def __init__(self, context: common_pb2.TransactionContext, servicer_context: Any = None, *, tells: bool = False) -> None:
        self.context = context
        """The transaction, and this call's id in it."""
        self.caller = ""
        """Who began it, once `Branch.caller` has asked."""
        self.tells = tells or servicer_context is not None
        """Whether whoever called is told, with the answer, all of `acknowledgements`. Otherwise branches are enlisted first."""
        self.work = AtWork()
        """Operations and blocks of the handler that have not ended."""
        self._calls: dict[str, int] = {}
        self._early = EarlyVotes()
        """Of whoever worked in its caller's last call."""
        self._onward = 0
        self._tally = Tally()
        self._lock = threading.Lock()
        """Blocking calls of one handler may end in several threads."""
        self.uncounted = Uncounted()
        """Blocking calls that go on from here."""
        self.span: Call | None = None
        """The call's, where it is traced."""
        self._servicer_context = servicer_context
        """Whose trailing metadata is kept up to date, so that a handler that aborts tells it too."""
        self._reported: Any = None
        """The trailing metadata as they were set last, while they say it all."""

    def __enter__(self) -> Scope:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """The call of gRPC ends. The counts are told once more: the handler may have set trailing metadata of its own."""
        self.report()
        self.work.over = True
        if self.span is not None:
            self.span.ended(_code_of(error, self._servicer_context))

    @property
    def over(self) -> bool:
        """Whether the call has been answered. What a task does that outlives it (one that a handler started) is no part of it."""
        return self.work.over

    def next_call_id(self, participant: str) -> str:
        """The id of the participant's next operation in this call: `CALL/INDEX`.

        A repeat of the call (with the same id, after a lost answer) gives the same ids, as long as the handler runs its
        operations in the same order; so repeats are recognised.
        """
        with self._lock:
            index = self._calls.get(participant, 0)
            self._calls[participant] = index + 1
        return f"{self.context.call_id}/{index}"

    def onward_context(self) -> common_pb2.TransactionContext:
        """A context for one call that goes on from here, to carry by hand; its id is `CALL>INDEX`.

        Channels with `Participant.onward` do this by themselves. By hand: give each call its own, put it serialised into the
        message, and tell `acknowledged` what came back. As with operations, a repeat gives the same ids in the same order.
        """
        with self._lock:
            index, self._onward = self._onward, self._onward + 1
        onward = common_pb2.TransactionContext()
        onward.CopyFrom(self.context)
        onward.last_call = False  # of what is called from here the caller knows nothing
        onward.call_id = f"{self.context.call_id}>{index}"
        if tracing.spans is not None:
            tracing.spans.carry(onward.trace)
        return onward

    def acknowledged(self, participant: str, operations: int = 1, incarnation: int = 0) -> None:
        """The participant, in its incarnation, has acknowledged so many more operations to the handler. 0 operations: it has a
        branch all the same."""
        with self._lock:
            self._tally.add(participant, operations, incarnation)
            self._reported = None
            self._report()

    def votes_at_end(self, participant: str, incarnation: int, vote: Vote, loop: asyncio.AbstractEventLoop) -> None:
        """Have a participant, which lives in the loop, vote when the call ends, if it is its caller's last one."""
        if self.context.last_call:
            self._early.add(participant, incarnation, vote, loop)

    async def end(self) -> None:
        """The call ends well: whoever worked in it, and is not called again, may prepare now. Raises as `AtWork.close` does."""
        if not self._failed():
            self.work.close()
            self._have_voted(await self._early.ask(self.context.transaction_id))

    def end_in_thread(self) -> None:
        """The same where the handler ran in a thread."""
        if not self._failed():
            self.work.close()
            self._have_voted(self._early.ask_in_thread(self.context.transaction_id))

    def _have_voted(self, votes: list[Told]) -> None:
        with self._lock:
            for who, vote in votes:
                if vote is not None:
                    self._tally.vote(*who, vote)
                    self._reported = None

    def _failed(self) -> bool:
        """Whether a handler of gRPC has set an error's status, and returned. (What calls over HTTP end with is known before.)"""
        return self._servicer_context is not None and _code_of(None, self._servicer_context) != "OK"

    @property
    def counts(self) -> dict[str, int]:
        """How many operations each participant acknowledged in this call, at any depth."""
        self.uncounted.count()
        return self._tally.counts

    @property
    def acknowledgements(self) -> list[client_pb2.AcknowledgedOperations]:
        """What whoever called must learn, to pass it on to `Transaction.acknowledge` as it is."""
        self.uncounted.count()
        return self._tally.told()

    def trailers(self) -> Metadata:
        """What the client must learn. Never nothing: so it knows that nothing was done."""
        told = fitting(self._tally.told()) or [client_pb2.AcknowledgedOperations()]
        return tuple((ACKNOWLEDGED_KEY, one.SerializeToString()) for one in told)

    def report(self) -> None:
        """Put the counts into the trailing metadata, beside whatever else is there."""
        self.uncounted.count()
        with self._lock:
            self._report()

    def _report(self) -> None:
        if self._servicer_context is None:
            return
        present = self._servicer_context.trailing_metadata() or ()
        if present is not self._reported:
            others = (entry for entry in present if entry[0] != ACKNOWLEDGED_KEY)
            self._reported = (*others, *self.trailers())
            self._servicer_context.set_trailing_metadata(self._reported)

    def tell(self, carried: Carried) -> None:
        """The call has ended, and its caller is in this process: told here what was done."""
        self.work.over = True
        for done in self.acknowledgements:
            carried.count(done)
        carried.over()

    def carried(self) -> Carried:
        """This transaction, for a call that goes on from here. Why one failed is told by its error, if the handler lets it out."""
        return Carried(self._call_begins, self._count, lambda cause: None, self._call_ends)

    def _call_begins(self) -> common_pb2.TransactionContext:
        context = self.onward_context()
        with self._lock:
            self._tally.call_begins()
            self._reported = None
        return context

    def _count(self, done: client_pb2.AcknowledgedOperations) -> None:
        with self._lock:
            self._tally.count(done)
            self._reported = None

    def _call_ends(self) -> None:
        with self._lock:
            self._tally.call_ends()
            self._reported = None
            self._report()


_scope: ContextVar[Scope | None] = ContextVar("troth_scope", default=None)


def current_scope() -> Scope | None:
    """The scope of the call that is being handled, or `None` outside of a transaction, and when the call has been answered."""
    scope = _scope.get()
    return None if scope is None or scope.over else scope


@contextlib.contextmanager
def entered(context: common_pb2.TransactionContext, *, tells: bool = False) -> Iterator[Scope]:
    """Run a block inside a transaction's context, as the interceptor runs a handler. `tells` is whether whoever called gets
    `Scope.acknowledgements` with the answer."""
    scope = Scope(context, tells=tells)
    with within(scope):
        try:
            yield scope
        finally:
            scope.work.over = True


@contextlib.contextmanager
def within(scope: Scope) -> Iterator[None]:
    """Be inside of a call for the time of the block."""
    token = _scope.set(scope)
    traced = nullcontext() if scope.span is None else scope.span.around()
    try:
        with traced:
            yield
    finally:
        _scope.reset(token)


def around() -> Carried | None:
    """The transaction of the handler that makes a call."""
    scope = current_scope()
    return None if scope is None else scope.carried()


def _around_and_uncounted() -> tuple[Carried, Uncounted] | None:
    scope = current_scope()
    return None if scope is None else (scope.carried(), scope.uncounted)


def onward_carriers() -> list[grpc.aio.ClientInterceptor]:
    """For channels of grpc.aio: calls on them go on in the transaction of the handler that makes them."""
    return list(aio_carriers(around))


def onward_sync_carriers() -> list[SyncCarrier]:
    """The same for channels of the blocking API."""
    return [SyncCarrier(_around_and_uncounted)]


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

    A `TrothError` that leaves a handler becomes the status of its reason, with the message and the cause; so does the error of
    a call that went on from it, by gRPC or HTTP, and came back with a cause, and a group of such errors. `participant` is whose
    service this is.
    """

    def __init__(self, participant: str = "") -> None:
        self._handlers = _Handlers(participant, threads=False)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        return self._handlers.within(await continuation(handler_call_details), handler_call_details)


class SyncTransactionInterceptor(grpc.ServerInterceptor):
    """The same for servers of the blocking API, whose handlers all run in threads."""

    def __init__(self, participant: str = "") -> None:
        self._handlers = _Handlers(participant, threads=True)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """See gRPC."""
        return self._handlers.within(continuation(handler_call_details), handler_call_details)


class _Handlers:
    """The handlers of a server inside the scope of a call. What one is wrapped in takes the context from the call, and not from
    here: so it is the same for all calls."""

    def __init__(self, participant: str, *, threads: bool) -> None:
        self._participant = participant
        self._threads = threads
        self._known: dict[str, tuple[Any, Any]] = {}
        """By method: the handler, and the same one inside."""

    def within(self, handler: Any, details: Any) -> Any:
        """The handler for one call."""
        if handler is None or not _carried(details.invocation_metadata):
            return handler
        known = self._known.get(details.method)
        if known is None or known[0] is not handler:
            if len(self._known) >= HANDLERS_KEPT_MAX:
                self._known.clear()  # of a server that makes up its methods
            known = self._known[details.method] = (handler, _wrapped(handler, self._participant, self._threads, details.method))
        return known[1]


def _wrapped(handler: Any, participant: str, threads: bool, method: str) -> Any:
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
        wrapped: Callable[..., Any] = _generator_in_scope(behaviour, participant, method)
    elif inspect.iscoroutinefunction(behaviour):
        wrapped = _coroutine_in_scope(behaviour, participant, method)
    elif not threads:
        # A plain def of an asynchronous server runs in a thread, where nobody can read its trailing metadata: `branch()` says so.
        return handler
    elif handler.response_streaming:
        wrapped = _iterator_in_scope(behaviour, participant, method)
    else:
        wrapped = _function_in_scope(behaviour, participant, method)
    return make(
        wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def _coroutine_in_scope(behaviour: Callable[..., Awaitable[Any]], participant: str, method: str) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, servicer_context: Any) -> Any:
        try:
            with _enter(servicer_context, method) as scope:
                response = await behaviour(request, servicer_context)
                await scope.end()
                return response
        except Exception as error:
            await _abort(servicer_context, error, participant)

    return handle


def _generator_in_scope(behaviour: Callable[..., AsyncIterator[Any]], participant: str, method: str) -> Callable[..., Any]:
    async def handle(request: Any, servicer_context: Any) -> AsyncIterator[Any]:
        try:
            with _enter(servicer_context, method) as scope:
                async for response in behaviour(request, servicer_context):
                    yield response
                await scope.end()
        except Exception as error:
            await _abort(servicer_context, error, participant)

    return handle


def _function_in_scope(behaviour: Callable[..., Any], participant: str, method: str) -> Callable[..., Any]:
    def handle(request: Any, servicer_context: Any) -> Any:
        with _in_thread(servicer_context, participant, method) as scope:
            with within(scope):
                response = behaviour(request, servicer_context)
            scope.end_in_thread()
            return response

    return handle


def _iterator_in_scope(behaviour: Callable[..., Iterator[Any]], participant: str, method: str) -> Callable[..., Any]:
    # Each response is asked for in a thread of the pool, and not always in the same one.
    def handle(request: Any, servicer_context: Any) -> Iterator[Any]:
        with _in_thread(servicer_context, participant, method) as scope:
            with within(scope):
                responses = iter(behaviour(request, servicer_context))
            while (response := _next(responses, scope)) is not _END:
                yield response
            scope.end_in_thread()

    return handle


_END = object()


def _next(responses: Iterator[Any], scope: Scope) -> Any:
    with within(scope):
        return next(responses, _END)


@contextlib.contextmanager
def _in_thread(servicer_context: Any, participant: str, method: str) -> Iterator[Scope]:
    """The scope of a call whose handler runs in a thread, which handles others after it."""
    try:
        with _scope_of(servicer_context, method) as scope:
            yield scope
    except Exception as error:
        code, details, trailing = _status(servicer_context, error, participant)
        servicer_context.set_trailing_metadata(trailing)
        servicer_context.abort(code, details)


def _enter(servicer_context: Any, method: str) -> Scope:
    """Begin the scope of a call, which is to be entered."""
    scope = _scope_of(servicer_context, method)
    # Each call has a task, and so a context, of its own: nothing needs to be reset, and an asynchronous generator could not.
    _scope.set(scope)
    if scope.span is not None:
        scope.span.attach()
    return scope


def _scope_of(servicer_context: Any, method: str) -> Scope:
    metadata = servicer_context.invocation_metadata()
    scope = Scope(parse_context(metadata), servicer_context)
    if tracing.spans is not None:
        scope.span = tracing.spans.serves_grpc(method, metadata, scope.context.trace)
    return scope


def _code_of(error: BaseException | None, servicer_context: Any) -> str:
    """The name of the status that a handler ends with."""
    if error is None:
        code = servicer_context.code()
        return "OK" if code in (None, 0) else getattr(code, "name", str(code))
    cause = cause_within(error) if isinstance(error, Exception) else None
    if cause is not None:
        return Reason.__members__.get(cause.reason, Reason.INTERNAL).grpc_code
    code = servicer_context.code()  # set by `abort`, which raises
    return "UNKNOWN" if code in (None, 0, grpc.StatusCode.OK) else getattr(code, "name", str(code))


async def _abort(servicer_context: Any, error: Exception, participant: str) -> None:
    """End the call with the cause that the error tells; an error that tells none goes on as it is."""
    code, details, trailing = _status(servicer_context, error, participant)
    await servicer_context.abort(code, details, trailing)


def _status(servicer_context: Any, error: Exception, participant: str) -> tuple[grpc.StatusCode, str, Any]:
    cause = cause_told(error, participant)
    if cause is None:
        raise error
    trailing = (*(servicer_context.trailing_metadata() or ()), (CAUSE_KEY, cause.SerializeToString()))
    reason = Reason.__members__.get(cause.reason, Reason.INTERNAL)  # of a newer service, further on
    return getattr(grpc.StatusCode, reason.grpc_code), f"{cause.reason}: {cause.message}", trailing


def cause_told(error: BaseException, participant: str) -> common_pb2.Cause | None:
    """The cause that an error tells, short enough for a header."""
    cause = cause_within(error, participant)
    if cause is not None:
        cause.message = cause.message[:CAUSE_MESSAGE_CHARACTERS_MAX]
    return cause
