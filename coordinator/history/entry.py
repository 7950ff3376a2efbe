"""One transaction in the history: what is kept of it, and how a listing is narrowed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.core import listing, words
from coordinator.core.effects import Over
from coordinator.core.explaining import NOTHING_NEXT
from coordinator.core.model import Finished, outcome_name
from coordinator.core.timeline import tell_timeline
from troth.tracing import is_sampled
from troth.v1 import admin_pb2, common_pb2

KEY_HASH_BYTES = 16
COUNTED_MAX = 100_000
"""Rows that are counted for a listing."""

_TRACE_FIELD = b"\x6a\x20"
"""What stands before the trace id in a serialised TransactionSummary: the number of its field, and its length."""


class Row(NamedTuple):
    """A transaction as the index has it."""

    transaction_id: str
    first_attempt_ms: int
    ended_ms: int
    outcome: int
    participants: str
    """Their names, with a comma before and behind each."""
    key_hash: str
    body: bytes
    """A serialised TransactionSummary."""
    is_news: bool
    """Whether it takes the place of an earlier row of the same transaction."""


def key_hash(key: str) -> str:
    """What is kept of an idempotency key, which may be somebody's name; empty for none."""
    return hashlib.sha256(key.encode()).digest()[:KEY_HASH_BYTES].hex() if key else ""


def sampled_trace_id(trace: common_pb2.TraceContext) -> str:
    """The id of a trace that somebody keeps, as its flags say: of the others no more than these is looked at."""
    return listing.trace_id_of(trace.traceparent) if is_sampled(trace.traceparent) else ""


def summary_of(over: Over) -> admin_pb2.TransactionSummary:
    """What people are told of a transaction that is over. Made for each one: fields are set one by one (`tell_timeline`)."""
    summary = admin_pb2.TransactionSummary()
    summary.transaction_id, summary.state, summary.outcome = over.transaction_id, outcome_name(over.outcome), over.outcome
    summary.participants.extend(filter(None, over.participants))
    summary.first_attempt_ms, summary.ended_ms = over.first_attempt_ms, over.at_ms
    if over.cause is not None:
        summary.cause.CopyFrom(over.cause)
    if over.heuristic:
        summary.heuristic = over.heuristic
    if over.key:
        summary.key_hash = key_hash(over.key)
    if over.trace is not None:
        summary.trace_id = listing.trace_id_of(over.trace.traceparent)
    summary.client = over.client
    tell_timeline(summary.timeline, over.moments, over.at_ms)
    return summary


def row_of(over: Over) -> Row:
    """The row of a transaction that is over."""
    summary = summary_of(over)
    return Row(
        over.transaction_id, over.first_attempt_ms, over.at_ms, over.outcome, f",{','.join(filter(None, over.participants))},",
        summary.key_hash, summary.SerializeToString(), over.is_news,
    )  # fmt: skip


def size_of(over: Over) -> int:
    """Roughly the bytes that it takes while it waits to be written."""
    text = len(over.key) + len(over.heuristic) + (len(over.cause.message) if over.cause is not None else 0)
    return 1_024 + text + 256 * len(over.participants)


@dataclass(frozen=True, slots=True)
class Query:
    """A listing in SQL: conditions with named parameters, `:name`, that SQLite and, rewritten, PostgreSQL take."""

    conditions: Sequence[str]
    place: str
    order: str
    values: dict[str, object]
    rows: int

    def page(self) -> str:
        """Selects the bodies of one page, and one more."""
        conditions = " AND ".join((*self.conditions, self.place))
        return f"SELECT body FROM {{table}} WHERE {conditions} ORDER BY {self.order} LIMIT {self.rows + 1}"

    def count(self) -> str:
        """Counts what matches."""
        conditions = " AND ".join(self.conditions) or "true"
        return f"SELECT count(*) FROM (SELECT 1 FROM {{table}} WHERE {conditions} LIMIT {COUNTED_MAX}) AS counted"


def query_of(request: admin_pb2.ListTransactionsRequest) -> Query:
    """What a listing asks of the index. Raises `RequestError` for a token of nobody."""
    conditions, values = [], dict[str, object]()
    if request.states:
        numbers = sorted(listing.outcomes_of(request))
        conditions.append(f"outcome IN ({', '.join(map(str, numbers))})")
    if request.participant:
        conditions.append("instr(participants, :participant) > 0")
        values["participant"] = f",{request.participant},"
    if request.key:
        conditions.append("key_hash = :key_hash")
        values["key_hash"] = key_hash(request.key)
    if request.since_ms:
        conditions.append("ended_ms >= :since_ms")
        values["since_ms"] = request.since_ms
    if request.slow_ms:
        conditions.append("ended_ms - first_attempt_ms >= :slow_ms")
        values["slow_ms"] = min(request.slow_ms, 2**62)
    if request.trace_id:
        # No column of its own: a commit's row would grow, and every store change, for what is asked now and then. All rows are read
        # for it, as for the other filters; what is sought stands in a body as it is sent.
        conditions.append("instr(body, :trace_field) > 0")
        values["trace_field"] = _TRACE_FIELD + request.trace_id.encode()
    values["place_ms"], values["place_id"] = listing.place_of(request)
    sign, direction = ("<", "DESC") if request.newest_first else (">", "ASC")
    order = f"first_attempt_ms {direction}, transaction_id {direction}"
    place = f"(first_attempt_ms, transaction_id) {sign} (:place_ms, :place_id)"
    return Query(conditions, place, order, values, listing.rows_of(request.limit))


def page_of(
    request: admin_pb2.ListTransactionsRequest, bodies: Sequence[bytes], total: int, now_ms: int
) -> admin_pb2.ListTransactionsResponse:
    """One page out of what `query_of` has found, in the form of every listing."""
    response = admin_pb2.ListTransactionsResponse(total=total, over=total)
    count = listing.fill_page(response.transactions, (row_from(body, now_ms) for body in bodies), request.limit)
    if count < len(bodies):
        response.next_page_token = listing.token_of(response.transactions[-1])
    return response


def row_from(body: bytes, now_ms: int) -> admin_pb2.TransactionSummary:
    """A row of a listing: without what only the page of one transaction shows."""
    row = admin_pb2.TransactionSummary.FromString(body)
    row.age_seconds = max(0.0, (now_ms - row.first_attempt_ms) / 1000)
    row.ClearField("timeline")
    return row


def learn(known: admin_pb2.TransactionSummary, past: admin_pb2.TransactionSummary) -> None:
    """Add to a coordinator's row of what is over what the history alone remembers of it."""
    for name in _LEARNT:
        if not getattr(known, name):
            setattr(known, name, getattr(past, name))


# ---- the page of one transaction


_LEARNT = ("ended_ms", "heuristic", "key_hash", "trace_id", "client")


def explained(known: admin_pb2.ExplainResponse, past: admin_pb2.TransactionSummary | None) -> admin_pb2.ExplainResponse:
    """What a coordinator says of a transaction, and what the history adds: all of it, where the coordinator has forgotten it."""
    if past is None:
        return known
    if not known.HasField("summary") and not known.if_forced:
        return admin_pb2.ExplainResponse(summary=past, explanation=_past_words(past), next=NOTHING_NEXT)
    if known.HasField("summary") and not known.summary.HasField("timeline"):
        learn(known.summary, past)
        known.summary.timeline.CopyFrom(past.timeline)
    return known


def _past_words(past: admin_pb2.TransactionSummary) -> str:
    cause = past.cause if past.HasField("cause") else None
    said = words.finished_words(Finished(past.outcome, past.first_attempt_ms, past.ended_ms, tuple(past.participants), cause))
    return f"{said} {past.heuristic}".rstrip()
