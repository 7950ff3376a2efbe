"""One line for each transaction at its end, with everything in it: what a log is searched for first.

Written are all of them, those that did not commit, or none (`log_transactions`). An abort is nothing to be woken up for: it is told
as information. What did not end in one way is told as an error, by the line "a branch ended ..." already; here it is a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from coordinator.config_checks import LOG_TRANSACTIONS
from coordinator.core.effects import Over
from coordinator.core.listing import trace_id_of
from coordinator.core.model import State, outcome_name
from coordinator.history.entry import key_hash
from troth.logs import get_logger
from troth.v1 import common_pb2

log = get_logger("troth.transaction")

ALL, NOT_COMMITTED, NONE = LOG_TRANSACTIONS
EVENT = "a transaction is over"
"""The name of the line. It stays: people search for it."""

_PHASES = {
    State.ACTIVE: "work_ms", State.PREPARING: "vote_ms", State.DECIDING: "decide_ms", State.COMMITTING: "commit_ms",
    State.HANDED_OVER: "one_phase_ms",
}  # fmt: skip


def teller(choice: str) -> Callable[[Over], None] | None:
    """Who writes the lines; `None` for nobody."""
    if choice == NONE:
        return None
    return tell if choice == ALL else _tell_what_did_not_commit


def _tell_what_did_not_commit(over: Over) -> None:
    if over.outcome != common_pb2.OUTCOME_COMMITTED or over.heuristic:
        tell(over)


def tell(over: Over) -> None:
    """Write the line."""
    (log.warning if over.heuristic else log.info)(EVENT, **fields_of(over))


def fields_of(over: Over) -> dict[str, Any]:
    """Everything, by names that stay; what there is nothing to say of is left out."""
    cause, moments = over.cause, over.moments
    fields: dict[str, Any] = {
        "transaction_id": over.transaction_id, "outcome": outcome_name(over.outcome),
        "participants": list(filter(None, over.participants)),
        "reason": cause.reason if cause is not None else "", "refused_by": cause.participant if cause is not None else "",
        "code": cause.code if cause is not None else "", "why": cause.message if cause is not None else "",
        "heuristic": over.heuristic, "age_ms": max(0, over.at_ms - over.first_attempt_ms),
    }  # fmt: skip
    for (state, at), (_, until) in pairwise(moments.steps):
        if state in _PHASES:
            fields[_PHASES[state]] = round((until - at) * 1000, 3)
    fields |= {
        "repeats": len(moments.repeated_at), "client": over.client, "key_hash": key_hash(over.key),
        "trace_id": trace_id_of(over.trace.traceparent) if over.trace is not None else "",
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value not in ("", [], 0) or name == "outcome"}
