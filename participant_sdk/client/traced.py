"""The spans of a client: one for each transaction, one for each request to the coordinator. Without tracing nobody comes here."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from participant_sdk.client.exchange import Lost, Reply
from troth import tracing
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from participant_sdk.client.results import Committed
    from troth.spans import Call, Spans

RUN, COMMIT = "troth.v1.TransactionService/Run", "troth.v1.TransactionService/Commit"
"""What is asked in the stream is what the unary call of that name asks."""


def request(spans: Spans, method: str, address: str, trace: common_pb2.TraceContext | None = None) -> Call | None:
    """A request is made, which carries its `trace`; in a transaction that is not sampled it has no span of its own, and what it
    carries is the transaction's."""
    if not spans.is_recording():
        return None
    call = spans.calls_grpc(method, address)
    if trace is not None:
        spans.carry(trace, call.context)
    return call


async def answered(call: Call, reply: Awaitable[Reply]) -> Reply:
    """Wait for the answer to a request."""
    try:
        told = await reply
    except BaseException as error:
        call.fails(type(error).__qualname__)
        raise
    call.ended(_status(told))
    return told


def _status(reply: Reply) -> str:
    """The status that a unary call would have ended with."""
    if isinstance(reply, Lost):
        return "DEADLINE_EXCEEDED" if reply in (Lost.DEADLINE, Lost.DEADLINE_NEVER_SENT) else "UNAVAILABLE"
    if isinstance(reply, client_pb2.BeginResponse) or reply.outcome == common_pb2.OUTCOME_COMMITTED:
        return "OK"
    reason = Reason.__members__.get(reply.cause.reason)
    return "UNKNOWN" if reason is None else reason.grpc_code


def one_shot(spans: Spans, trace: common_pb2.TraceContext, work: Awaitable[Committed]) -> Awaitable[Committed]:
    """A one-shot transaction, all its attempts, whose request carries `trace`.

    Of one that nobody samples the trace travels, and nothing else is kept: its span, and a context with it, would live for as long
    as the transaction does, and the collector of garbage would go over them again and again.
    """
    span = spans.start(tracing.TRANSACTION, {})
    spans.carry_span(trace, span)
    return _kept(spans, span, work) if span.is_recording() or spans.is_recording() else work


async def _kept(spans: Spans, span: Span, work: Awaitable[Committed]) -> Committed:
    with spans.around_span(span):
        done = await work
        span.set_attribute(tracing.TRANSACTION_ID, done.transaction_id)
        span.set_attribute(tracing.OUTCOME, "COMMITTED")
        if done.attempts > 1:
            span.set_attribute(tracing.ATTEMPTS, done.attempts)
        return done


class Block:
    """The span of an interactive transaction, from its begin to the end of its block. It may begin, and end, in another thread than
    that of the block."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._span = spans.start(tracing.TRANSACTION, {})
        self._context = spans.context_of(self._span)
        self._around: Any = None

    def carry(self, trace: common_pb2.TraceContext) -> None:
        """Tell the coordinator."""
        self._spans.carry(trace, self._context)

    def enter(self) -> None:
        """The block begins, here."""
        self._around = self._spans.inside(self._context)
        self._around.__enter__()

    def leave(self, transaction_id: str, outcome: Committed | None) -> None:
        """It has ended, here."""
        if self._around is not None:
            self._around.__exit__(None, None, None)
        if transaction_id:
            self._span.set_attribute(tracing.TRANSACTION_ID, transaction_id)
        if outcome is not None:
            self._span.set_attribute(tracing.OUTCOME, "COMMITTED")
        self._span.end()

    @contextmanager
    def telling(self, error: BaseException | None = None) -> Iterator[None]:
        """Tell of the error that left the block, or leaves this one."""
        try:
            yield
        except BaseException as failed:
            self._spans.tell_error(self._span, failed)
            raise
        if error is not None:
            self._spans.tell_error(self._span, error)
