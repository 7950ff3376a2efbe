"""Transactions by unary calls, for every gRPC client that is not Troth's own.

All unary calls share one session, number 0 of this boot, whose transactions are numbered here. A handler only enqueues and then
waits: a caller that cancels, or whose deadline passes, stops waiting and nothing else. What becomes of the transaction it
learns from Get.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

from coordinator.core import effects, events
from coordinator.identity.who import CALLER
from coordinator.services import status
from coordinator.services.context import Context
from coordinator.services.sessions import TOKEN_BYTES, Sessions
from troth.errors import ProtocolError, Reason, RequestError
from troth.ids import TransactionId
from troth.seals import proof_of
from troth.v1 import client_pb2, common_pb2

TRACE_METADATA = ("traceparent", "tracestate")
"""What a caller's trace is called in a call's metadata (W3C Trace Context); the fields of TraceContext have the same names."""
WATCH_STATES_MAX = 256
"""States that wait for one watcher; past it the oldest are left out, the last never."""


class UnarySession:
    """The session of all unary calls: its numbers, and who waits for which."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.token = secrets.token_bytes(TOKEN_BYTES)
        """Proofs of its transactions are made with it; each is told to whoever has begun one."""
        self._last_number = 0
        self._waiting: dict[int, list[asyncio.Future[Any]]] = {}

    @cached_property
    def name(self) -> str:
        """The session's name; nobody asks before the core has recovered."""
        return self._context.core.unary_session

    def take_number(self) -> int:
        """A number for a new transaction, or for a call about one of another session."""
        self._last_number += 1
        return self._last_number

    def number_of(self, transaction_id: str) -> int:
        """The number under which a call about a transaction is answered. Raises `RequestError` for what is no id."""
        parsed = TransactionId.parse(transaction_id)
        ours = parsed.session_prefix == self.name and 0 < parsed.number <= self._last_number
        return parsed.number if ours else self.take_number()

    async def ask(self, event: events.Run | events.Begin | events.Commit | events.Abort) -> Any:
        """Submit a request and wait for the answer to its number."""
        number = event.request.number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(number, [])
        waiting.append(future)
        self._context.submit(event)
        try:
            return await future
        finally:
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(number) is waiting:
                del self._waiting[number]

    def answer(self, number: int, response: Any) -> None:
        """Answer everybody who waits for a number."""
        for future in self._waiting.pop(number, ()):
            if not future.done():
                future.set_result(response)

    def violated(self, event: Any, error: ProtocolError) -> None:
        """The core refused a request as illegal."""
        for future in self._waiting.pop(event.request.number, ()):
            if not future.done():
                future.set_exception(error)


class Watcher:
    """States that one caller of Watch has still to be told; the ticket of its event."""

    def __init__(self) -> None:
        self._states: deque[client_pb2.WatchResponse] = deque(maxlen=WATCH_STATES_MAX)
        self._wake = asyncio.Event()
        self._last = False

    def __call__(self, response: client_pb2.WatchResponse, last: bool) -> None:
        """Take one state."""
        self._states.append(response)
        self._last = last
        self._wake.set()

    async def states(self) -> AsyncIterator[client_pb2.WatchResponse]:
        """All states up to the last."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._states:
                yield self._states.popleft()
            if self._last:
                return


class Ticket:
    """Waits for one effect."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __call__(self, response: Any) -> None:
        """Take the answer; a caller who is gone needs none."""
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, error: Exception) -> None:
        """There is no answer."""
        if not self.future.done():
            self.future.set_exception(error)


class Transactions:
    """What callers of unary calls ask one shard; the names and arguments are those of the gRPC service."""

    def __init__(self, context: Context, unary: UnarySession) -> None:
        self._context = context
        self._unary = unary

    def _caller(self) -> str:
        """The owner of what is begun. Raises `RequestError` (OVERLOADED)."""
        gate = self._context.common.gate
        too_fast = gate.too_fast(CALLER.get())
        if too_fast:
            raise RequestError(Reason.OVERLOADED, too_fast, by_caller=True)
        return gate.owner_name(CALLER.get())

    def _acting(self, action: str, transaction_id: str) -> str:
        """In whose name the caller acts on a transaction. Raises `RequestError` (FORBIDDEN)."""
        gate = self._context.common.gate
        return gate.acts_as(CALLER.get(), action, self._context.core.owner_of(transaction_id)) if gate.policy is not None else ""

    async def Run(self, request: client_pb2.RunRequest, context: Any) -> client_pb2.RunResponse:
        """Run a one-shot transaction; OK means committed."""
        _check_no_number(request.number)
        _take_trace(request, context)
        request.number = self._unary.take_number()
        answer = await self._unary.ask(events.Run(self._unary.name, request, caller=self._caller()))
        await _check(answer, common_pb2.OUTCOME_COMMITTED, context)
        return client_pb2.RunResponse(answer=answer)

    async def Begin(self, request: client_pb2.BeginRequest, context: Any) -> client_pb2.BeginResponse:
        """Begin an interactive transaction."""
        _check_no_number(request.number)
        _take_trace(request, context)
        request.number = self._unary.take_number()
        response: client_pb2.BeginResponse = await self._unary.ask(events.Begin(self._unary.name, request, caller=self._caller()))
        if response.HasField("refusal"):
            await status.abort(context, response.refusal)
        if response.transaction_id:
            response.proof = proof_of(self._unary.token, response.transaction_id)
        return response

    async def Commit(self, request: client_pb2.CommitRequest, context: Any) -> client_pb2.CommitResponse:
        """Commit an interactive transaction; OK means committed."""
        acting = self._acting("end", request.transaction_id)
        _check_no_number(request.number)
        request.number = self._unary.number_of(request.transaction_id)
        answer = await self._unary.ask(events.Commit(self._unary.name, request, acting))
        await _check(answer, common_pb2.OUTCOME_COMMITTED, context)
        return client_pb2.CommitResponse(answer=answer)

    async def Abort(self, request: client_pb2.AbortRequest, context: Any) -> client_pb2.AbortResponse:
        """Roll an interactive transaction back; OK means rolled back."""
        acting = self._acting("end", request.transaction_id)
        _check_no_number(request.number)
        request.number = self._unary.number_of(request.transaction_id)
        answer = await self._unary.ask(events.Abort(self._unary.name, request, acting))
        await _check(answer, common_pb2.OUTCOME_ABORTED, context)
        return client_pb2.AbortResponse(answer=answer)

    async def Get(self, request: client_pb2.GetRequest, context: Any) -> client_pb2.GetResponse:
        """Tell what is known of a transaction; OK whatever that is."""
        TransactionId.parse(request.transaction_id)
        ticket = Ticket()
        self._context.submit(events.Get(ticket, request, self._acting("read", request.transaction_id)))
        return client_pb2.GetResponse(answer=await ticket.future, transaction_id=request.transaction_id)

    async def Watch(self, request: client_pb2.WatchRequest, context: Any) -> AsyncIterator[client_pb2.WatchResponse]:
        """Tell each state of a transaction until it is finished."""
        TransactionId.parse(request.transaction_id)
        self._acting("watch", request.transaction_id)
        with self._context.watches.one(context.peer(), request.transaction_id):
            watcher = Watcher()
            self._context.submit(events.Watch(watcher, request.transaction_id))
            try:
                async for response in watcher.states():
                    yield response
            finally:
                self._context.submit(events.Unwatch(watcher, request.transaction_id))


class TransactionEffects:
    """Carries out the effects that answer clients."""

    def __init__(self, sessions: Sessions, unary: UnarySession) -> None:
        self._sessions = sessions
        self._unary = unary

    def begun(self, effect: effects.Begun) -> None:
        """Answer a begin."""
        if effect.session == self._unary.name:
            self._unary.answer(effect.response.number, effect.response)
        else:
            self._sessions.begun(effect)

    def answered(self, effect: effects.Answered) -> None:
        """Answer a run, commit or abort."""
        if effect.session == self._unary.name:
            self._unary.answer(effect.answer.number, effect.answer)
        else:
            self._sessions.answered(effect)

    def violated(self, event: Any, error: ProtocolError) -> None:
        """The core refused an event of a session as illegal."""
        owner = self._unary if event.session == self._unary.name else self._sessions
        owner.violated(event, error)


def _check_no_number(number: int) -> None:
    if number:
        raise RequestError(Reason.INVALID_ARGUMENT, "number is set: in unary calls the coordinator numbers the transactions")


def _take_trace(request: client_pb2.RunRequest | client_pb2.BeginRequest, context: Any) -> None:
    """The trace of a caller who says it as every gRPC client does that traces: in the call's metadata."""
    if not request.HasField("trace"):
        for key, value in context.invocation_metadata() or ():
            if key in TRACE_METADATA:
                setattr(request.trace, key, value)


async def _check(answer: client_pb2.Answer, wanted: common_pb2.Outcome.ValueType, context: Any) -> None:
    told = status.why_not(answer, wanted)
    if told is not None:
        await status.abort(context, told, answer.transaction_id, status.told_outcome(answer))
