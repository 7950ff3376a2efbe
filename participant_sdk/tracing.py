"""Traces of what a service and its clients do, with OpenTelemetry. It needs the extra `otel`.

    from participant_sdk import tracing

    tracing.enable()           # with the tracer provider that the process has; see docs/how-to/trace-it.md

The trace of whoever calls goes with the call to the services, and with the transaction to the coordinator and from there to every
participant. A transaction whose client has no trace has no spans anywhere.

Here is what a participant tells of its branches. It is looked at from outside: messages as they come and go, and branches as
they are found after a start. The core knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from troth import tracing
from troth.tracing import disable, enable
from troth.v1 import common_pb2, participant_pb2

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

__all__ = ["BranchSpans", "call_under_way", "disable", "enable", "inside", "operation_around"]

KEPT_MAX = 10_000
"""Branches whose traces are remembered; past it the oldest are forgotten, and get no span of their end."""

_NO = participant_pb2.VOTE_KIND_NO
_YES = participant_pb2.VOTE_KIND_YES
_ABORT = participant_pb2.DECISION_KIND_ABORT

parents: dict[tuple[str, str, str], Context] = {}
"""Of work that is under way: by participant, transaction and call (none for the work of Prepare), what its operations belong to."""

traced: dict[tuple[str, str], common_pb2.TraceContext] = {}
"""In which trace each branch is that is not over, by participant and transaction."""


def _keep(participant: str, transaction_id: str, trace: common_pb2.TraceContext) -> None:
    if len(traced) >= KEPT_MAX:
        traced.pop(next(iter(traced)), None)
    traced[participant, transaction_id] = trace


_HERE = nullcontext()


def inside(participant: str, transaction_id: str, call_id: str) -> AbstractContextManager[None]:
    """Run work for a branch where its trace is, and in no other. To be asked only while `troth.tracing.spans` is there."""
    spans = tracing.spans
    parent = parents.get((participant, transaction_id, call_id))
    if spans is None or (parent is None and not spans.is_anywhere()):
        return _HERE  # most work has no trace that is sampled, and is done by who has none
    return spans.inside(parent)


@contextmanager
def call_under_way(participant: str, context: common_pb2.TransactionContext, call_id: str) -> Iterator[None]:
    """An operation that a handler asks for, until it has its answer: it belongs to what the handler does."""
    here = None if tracing.spans is None else tracing.spans.here()
    key = (participant, context.transaction_id, call_id)
    if here is not None:
        parents[key] = here
    if tracing.is_sampled(context.trace.traceparent) and key[:2] not in traced:
        _keep(participant, context.transaction_id, context.trace)  # Prepare tells it again, but not who has voted early
    try:
        yield
    finally:
        parents.pop(key, None)


def operation_around(name: str) -> AbstractContextManager[Any] | None:
    """What an operation that is about to run is to run in; `None` where it belongs to no trace."""
    spans = tracing.spans
    here = None if spans is None else spans.here()
    if spans is None or here is None:
        return None
    return spans.around(tracing.OPERATION, {tracing.OPERATION_NAME: name}, here)


class BranchSpans:
    """The spans of one participant's branches."""

    def __init__(self, participant: str) -> None:
        self._participant = participant
        self._preparing: dict[str, Span] = {}
        self._finishing: dict[str, Span] = {}
        self.going: dict[str, Callable[[Any], None]] = {"votes": self.voted, "acknowledgements": self.acknowledged}
        """Who is to hear of a message that goes out, by its field."""

    def _about(self, transaction_id: str, **more: str) -> dict[str, str]:
        return {tracing.TRANSACTION_ID: transaction_id, tracing.PARTICIPANT: self._participant, **more}

    def recovered(self, branches: Iterable[tuple[str, bytes]]) -> None:
        """Branches in doubt were found in the log, each with its serialised Peers. They are taken up in traces of their own."""
        spans = tracing.spans
        for transaction_id, raw in branches:
            try:
                began = common_pb2.TraceContext(traceparent=participant_pb2.Peers.FromString(raw).traceparent)
            except DecodeError:
                continue
            link = None if spans is None else spans.sampled(began)
            if spans is not None and link is not None:
                about = self._about(transaction_id)
                self._finishing[transaction_id] = spans.start(tracing.RECOVERY, about, link=link)

    # ---- messages, as they come and go

    def came(self, decisions: Iterable[participant_pb2.Decision], prepares: Iterable[participant_pb2.Prepare]) -> None:
        """A frame has come. Of a branch whose trace nobody samples no more is done than to see that."""
        finishing, participant = self._finishing, self._participant
        for decision in decisions:
            name = decision.transaction_id
            if (participant, name) in traced or name in finishing:
                self.decision_came(decision)
        for prepare in prepares:
            if tracing.is_sampled(prepare.trace.traceparent):
                self.prepare_came(prepare)

    def prepare_came(self, prepare: participant_pb2.Prepare) -> None:
        """A vote is asked for."""
        spans, name = tracing.spans, prepare.transaction_id
        parent = None if spans is None else spans.sampled(prepare.trace)
        if spans is None or parent is None or name in self._preparing or name in self._finishing:
            return
        _keep(self._participant, name, prepare.trace)
        span = self._preparing[name] = spans.serves(tracing.PREPARE, self._about(name), parent)
        parents[self._participant, name, ""] = spans.context_of(span)

    def voted(self, vote: participant_pb2.Vote) -> None:
        """The vote goes out."""
        name = vote.transaction_id
        if vote.kind != _YES:
            traced.pop((self._participant, name), None)
        span = self._preparing.pop(name, None)
        if span is None:
            return
        parents.pop((self._participant, name, ""), None)
        span.set_attribute(tracing.VOTED, participant_pb2.VoteKind.Name(vote.kind).removeprefix("VOTE_KIND_"))
        if vote.kind == _NO:
            span.set_attribute(tracing.REASON, vote.cause.reason)
            if vote.cause.code:
                span.set_attribute(tracing.CODE, vote.cause.code)
        span.end()

    def decision_came(self, decision: participant_pb2.Decision) -> None:
        """It is told how a branch ends. Nobody hears of a rollback, unless that is asked for."""
        spans, name = tracing.spans, decision.transaction_id
        span = self._finishing.get(name)
        if span is None and spans is not None:
            parent = spans.sampled(traced.pop((self._participant, name), None))
            span = None if parent is None else spans.serves(tracing.FINISH, self._about(name), parent)
        if span is None:
            return
        span.set_attribute(tracing.DECISION, participant_pb2.DecisionKind.Name(decision.kind).removeprefix("DECISION_KIND_"))
        if decision.kind == _ABORT and not decision.acknowledge:
            self._finishing.pop(name, None)
            span.end()
        else:
            self._finishing[name] = span

    def acknowledged(self, acknowledgement: participant_pb2.Acknowledgement) -> None:
        """It was carried out, and that goes out."""
        span = self._finishing.pop(acknowledgement.transaction_id, None)
        if span is not None:
            kind = participant_pb2.AcknowledgementKind.Name(acknowledgement.kind).removeprefix("ACKNOWLEDGEMENT_KIND_")
            span.set_attribute(tracing.OUTCOME, kind)
            span.end()

    def stop(self) -> None:
        """The process ends: what is open is told as far as it came."""
        for open_spans in (self._preparing, self._finishing):
            while open_spans:
                open_spans.popitem()[1].end()
        for work in [work for work in parents if work[0] == self._participant]:
            del parents[work]
        for branch in [branch for branch in traced if branch[0] == self._participant]:
            del traced[branch]
