"""Whether this process traces, and the only place that brings OpenTelemetry in.

Nothing of OpenTelemetry is imported before `enable`. Whoever could make a span looks at `spans` first, and does no more when it is
`None`: so without tracing a transaction costs one look at a name in each place.

The names of our spans are here, since they stay: people search for them.

    client        troth.transaction             from its first attempt to its outcome, or the block of an interactive one
    coordinator   troth.coordinate              from the begin to the last acknowledgement, with a child for each phase:
                  troth.work                      calls of services, of an interactive transaction
                  troth.vote                      one for each participant, until it has voted
                  troth.decide                    until the decision is durable
                  troth.commit                    until everybody has acknowledged it
                  troth.one_phase                 until the only participant has committed
    participant   troth.prepare                 from Prepare to the vote
                  troth.operation                 one run of an operation
                  troth.finish                  from the decision to its acknowledgement
    both          troth.recovery                in place of the last ones, by a process that took the branch or the transaction over
                                                from its log; it links to the trace in which it began, and is no part of that

What is a call is named as OpenTelemetry's conventions for RPC and HTTP have it (`troth.spans`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.packages import what_is_missing

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from troth.spans import Spans

TRANSACTION = "troth.transaction"
COORDINATE = "troth.coordinate"
WORK, VOTE, DECIDE, COMMIT, ONE_PHASE = "troth.work", "troth.vote", "troth.decide", "troth.commit", "troth.one_phase"
PREPARE, OPERATION, FINISH = "troth.prepare", "troth.operation", "troth.finish"
RECOVERY = "troth.recovery"

TRANSACTION_ID = "troth.transaction.id"
PARTICIPANT = "troth.participant"
OPERATION_NAME = "troth.operation.name"
VOTED = "troth.vote.kind"
DECISION = "troth.decision"
OUTCOME = "troth.outcome"
REASON = "troth.reason"
CODE = "troth.code"
ATTEMPTS = "troth.attempts"

_SAMPLED = frozenset("13579bdf")


def is_sampled(traceparent: str) -> bool:
    """Whether somebody keeps a trace, as the last digit of its flags says (W3C Trace Context, section 3.2.2). It is asked before
    anything is parsed: of most traces nobody keeps anything."""
    return traceparent[54:55] in _SAMPLED


spans: Spans | None = None
"""Makes spans; `None` while this process does not trace."""


def enable(provider: TracerProvider | None = None) -> None:
    """Trace from now on, with the tracer provider that the process has (also one that is set later), or with another one.

    Sampling, limits and exporters are the provider's. Raises ModuleNotFoundError without the extra `otel`.
    """
    global spans
    try:
        from troth.spans import Spans
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(what_is_missing(error) or str(error), name=error.name) from error

    spans = Spans(provider)


def disable() -> None:
    """Make no spans any more. Those that are open still end."""
    global spans
    spans = None
