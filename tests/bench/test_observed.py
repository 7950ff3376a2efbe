"""What looking at a transaction costs, in calls: who hears of its end, and a trace that nobody samples. No clock is read.

The limits stand a little above what was measured when they were set, as those of `test_costs` do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from coordinator.core import effects
from coordinator.history.entry import row_of, size_of
from coordinator.metrics.outcomes import Outcomes
from coordinator.services.tale import fields_of
from coordinator.tracing import Teller
from participant_sdk.client import traced
from participant_sdk.tracing import BranchSpans, inside, operation_around
from tests.bench.pair import Pair
from tests.bench.test_costs import BATCH, counted
from troth import tracing
from troth.spans import Spans
from troth.v1 import common_pb2, participant_pb2

UNSAMPLED = common_pb2.TraceContext(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
EVERYTHING_MAX = 115
"""Calls of Python functions a transaction of two participants: metrics, history, and a trace that nobody samples. Half of
them are OpenTelemetry's own, most of those to decide that it is not sampled."""


class Ends(Pair):
    """Keeps what is told of each transaction that is over."""

    def __init__(self) -> None:
        self.over: list[effects.Over] = []
        super().__init__()

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, effects.Over):
            self.over.append(replace(effect, trace=UNSAMPLED))
        super()._perform(effect)


@pytest.fixture(scope="module")
def over() -> list[effects.Over]:
    """The ends of a batch."""
    pair = Ends()
    pair.run(BATCH)
    return pair.over


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The process traces, and keeps nothing."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    tracing.enable(provider)
    assert tracing.spans is not None
    yield tracing.spans
    tracing.disable()
    provider.shutdown()


def _calls(work: Callable[[effects.Over], object], over: list[effects.Over]) -> float:
    """Calls of Python functions, `work` itself not among them, a transaction."""

    def every() -> None:
        for one in over:
            work(one)

    every()
    return counted(every)["call"] / len(over) - 1


def _branch(spans: BranchSpans, one: effects.Over) -> None:
    """What is done for one branch, from Prepare to the acknowledgement."""
    name = one.transaction_id
    spans.came([], [participant_pb2.Prepare(transaction_id=name, trace=UNSAMPLED)])
    with inside("left", name, ""):
        assert operation_around("note") is None
    spans.going["votes"](participant_pb2.Vote(transaction_id=name, kind=participant_pb2.VOTE_KIND_YES))
    spans.came([participant_pb2.Decision(transaction_id=name)], [])
    spans.going["acknowledgements"](participant_pb2.Acknowledgement(transaction_id=name))


def test_to_be_looked_at_makes_few_calls(spans: Spans, over: list[effects.Over]) -> None:
    assert len(over) == BATCH
    client, branches = cast("Any", object()), BranchSpans("left")
    calls = {
        "metrics": _calls(Outcomes().hear, over) + 1,
        "history": _calls(lambda one: (size_of(one), row_of(one), size_of(one)), over),
        "line": _calls(fields_of, over) + 1,
        "coordinator": _calls(Teller(spans).hear, over) + 1,
        "client": _calls(lambda one: traced.one_shot(spans, common_pb2.TraceContext(), client), over),
        "participants": 2 * _calls(lambda one: _branch(branches, one), over),
    }
    assert sum(calls.values()) - calls["line"] <= EVERYTHING_MAX, calls
    assert calls["metrics"] < 10 and calls["history"] < 9 and calls["line"] < 6 and calls["coordinator"] < 4, calls


def test_of_what_nobody_samples_only_the_trace_goes_on(spans: Spans, over: list[effects.Over]) -> None:
    work, carried = cast("Any", object()), common_pb2.TraceContext()
    assert traced.one_shot(spans, carried, work) is work, "nothing is around it while it waits"
    assert carried.traceparent.startswith("00-") and not tracing.is_sampled(carried.traceparent)
    branches = BranchSpans("left")
    _branch(branches, over[0])
    assert not branches._preparing and not branches._finishing
