"""The spans of a coordinator: made when a transaction is over, from what is told of it then, and never on its way.

So a commit does not wait for a trace. Their parent is the span of the client; a transaction without one has no spans. What was
decided in an earlier life of the process, and is finished in this one, gets one span in a trace of its own, which links to the
first: that trace ended with the crash, and its spans are measured by the clock of a process that is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

from opentelemetry import trace

from coordinator.core.effects import Over
from coordinator.core.model import State, outcome_name
from coordinator.core.timeline import Moments
from troth import tracing
from troth.errors import ConfigError
from troth.spans import Spans, offset_ns

EXPORTERS = "OTEL_TRACES_EXPORTER"
"""The environment variable that names exporters, with commas between them."""
DEFAULT_EXPORTER = "otlp"
_OTLP = {"grpc": "otlp_proto_grpc"}
"""By OTEL_EXPORTER_OTLP_PROTOCOL, which exporter is meant by `otlp`; over HTTP by default."""

_PHASES = {
    State.ACTIVE: tracing.WORK, State.PREPARING: tracing.VOTE, State.DECIDING: tracing.DECIDE, State.COMMITTING: tracing.COMMIT,
    State.HANDED_OVER: tracing.ONE_PHASE,
}  # fmt: skip

Phase = tuple[str, str, float, float]
"""The span's name, whose it is, and when it began and ended in monotonic seconds."""


class Teller:
    """Hears of each transaction that is over, and makes its spans."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._began_ns = time.time_ns()

    def hear(self, over: Over) -> None:
        """Tell of one."""
        parent = self._spans.sampled(over.trace)
        if parent is None:
            return
        offset = offset_ns()
        ended_ns, steps = offset + _ns(over.moments.now), over.moments.steps
        about = _about(over)
        if not steps or steps[0][0] is not State.ACTIVE:
            self._spans.start(tracing.RECOVERY, about, link=parent, start_ns=self._began_ns).end(ended_ns)
            return
        span = self._spans.serves(tracing.COORDINATE, about, parent, offset + _ns(steps[0][1]))
        if span.is_recording():
            within = self._spans.context_of(span)
            for name, participant, began, ended in phases_of(over.moments):
                told = {tracing.TRANSACTION_ID: over.transaction_id, tracing.PARTICIPANT: participant}
                self._spans.past(name, told, within, offset + _ns(began), offset + _ns(ended))
            if over.heuristic:
                self._spans.fails(span, outcome_name(over.outcome))
        span.end(ended_ns)


def phases_of(moments: Moments) -> Iterator[Phase]:
    """Each phase, that of the votes once for each participant. A vote that came before it was asked for took no time."""
    for (state, began), (_, ended) in pairwise(moments.steps):
        if state is State.PREPARING:
            for participant, voted, _, _ in moments.branches:
                yield tracing.VOTE, participant, began, max(began, voted or ended)
        elif state in _PHASES:
            yield _PHASES[state], "", began, ended


def _about(over: Over) -> dict[str, str]:
    cause = over.cause
    return {
        tracing.TRANSACTION_ID: over.transaction_id, tracing.OUTCOME: outcome_name(over.outcome),
        tracing.REASON: cause.reason if cause is not None else "", tracing.CODE: cause.code if cause is not None else "",
        tracing.PARTICIPANT: cause.participant if cause is not None else "",
    }  # fmt: skip


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


# ---- where spans go


def start(name: str) -> tuple[Teller, Callable[[], Any] | None]:
    """Trace from now on, as the coordinator of a name. Also returns what sends all that waits, and ends the exporters: it takes a
    while, so it belongs into a thread. `None` for a provider that somebody else ends.

    With the tracer provider that the process has (`opentelemetry-instrument` sets one), or else with one of OpenTelemetry's SDK, as
    its environment variables say. Raises `ConfigError` for an exporter that is not installed; ModuleNotFoundError without the SDK.
    """
    provider: Any = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        return Teller(Spans(provider)), None
    provider = _made(name)
    return Teller(Spans(provider)), provider.shutdown


def _made(name: str) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.instance.id": name} | ({} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "troth"})
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    for one in os.environ.get(EXPORTERS, DEFAULT_EXPORTER).split(","):
        if one.strip() != "none":
            provider.add_span_processor(BatchSpanProcessor(_exporter(one.strip())))
    return provider


def _exporter(name: str) -> Any:
    wanted = _OTLP.get(os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""), "otlp_proto_http") if name == "otlp" else name
    found = entry_points(group="opentelemetry_traces_exporter", name=wanted)
    if not found:
        hint = "Install its package: pip install 'troth[otlp]' has the one of OTLP over HTTP."
        raise ConfigError(f"{EXPORTERS}: there is no exporter {name!r} here", hint=hint)
    return next(iter(found)).load()()
