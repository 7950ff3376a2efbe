"""Which records force an outcome in the log of a process that does not run, and what that will do.

What must be *done* in a resource cannot be done by writing a record. So in a participant's log the record is an order, and its
process carries it out at the next start, before it serves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from coordinator.cli.failure import REFUSED, Failure
from troth.log import offline
from troth.v1 import common_pb2, record_pb2


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be written, and what that means."""

    records: Sequence[Message]
    consequences: Sequence[str]


def make_plan(dumped: offline.Dumped, transaction_id: str, action: str, who: str, why: str) -> Plan:
    """The records for an action; raises `Failure` when it does not fit what the log holds."""
    if dumped.problems:
        problem = dumped.problems[0]
        raise Failure(3, "LOG_DAMAGED", f"{problem.place}: {problem.what}", "Nothing is forced in a damaged log.")
    found: dict[str, Any] = {}
    for record in dumped.records:
        kind = record.message.WhichOneof("kind") or ""
        body: Any = getattr(record.message, kind, None)
        if getattr(body, "transaction_id", "") == transaction_id:
            found.setdefault(kind, []).append(body)
    if dumped.identity.role == "coordinator":
        return _coordinator_plan(found, transaction_id, action, who, why)
    return _participant_plan(found, transaction_id, action, who, why)


def _refuse(reason: str, message: str, hint: str = "") -> Failure:
    return Failure(REFUSED, reason, message, hint)


def _coordinator_plan(found: dict[str, Any], transaction_id: str, action: str, who: str, why: str) -> Plan:
    if "decided" not in found or "ended" in found:
        raise _refuse(
            "NOT_ACTIVE", f"no commit of {transaction_id} waits for acknowledgements here",
            "What is not decided in a coordinator's log is aborted at its next start.",
        )  # fmt: skip
    if action != "abandon":
        raise _refuse("NOT_ACTIVE", f"{transaction_id} is decided: COMMIT; all that can be forced is to stop waiting",
                      "Use abandon.")  # fmt: skip
    decided = found["decided"][-1]
    reported = {report.participant for report in found.get("heuristic", ())}
    owing = [decided.participants[index] for index in decided.owing if decided.participants[index] not in reported]
    if not owing:
        raise _refuse("NOT_ACTIVE", f"nobody owes an acknowledgement of {transaction_id}")
    records = [
        record_pb2.CoordinatorRecord(
            at_ms=time.time_ns() // 1_000_000,
            heuristic=record_pb2.Heuristic(
                transaction_id=transaction_id, participant=name, branch_outcome=common_pb2.OUTCOME_HAZARD, who=who,
                why=why, commit_decided=True, decision=record_pb2.KNOWN_DECISION_COMMIT,
            ),
        )
        for name in owing
    ]  # fmt: skip
    return Plan(records, [
        f"{', '.join(owing)} is no longer waited for: some of them may have acknowledged already, which this log does not tell;",
        "the outcome becomes HAZARD until an operator forgets it.",
    ])  # fmt: skip


def _participant_plan(found: dict[str, Any], transaction_id: str, action: str, who: str, why: str) -> Plan:
    if "branch_prepared" not in found or "branch_finished" in found:
        raise _refuse(
            "NOT_ACTIVE", f"no branch of {transaction_id} is in doubt here",
            "What is not prepared is rolled back at the participant's next start.",
        )  # fmt: skip
    if "force_ordered" in found:
        raise _refuse("NOT_ACTIVE", f"the branch of {transaction_id} was ordered to end before", "Start the participant.")
    if action == "abandon":
        raise _refuse("INVALID_ARGUMENT", "abandon is for a coordinator's log", "Use commit or abort.")
    outcome = common_pb2.OUTCOME_COMMITTED if action == "commit" else common_pb2.OUTCOME_ABORTED
    order = record_pb2.ForceOrdered(transaction_id=transaction_id, outcome=outcome, who=who, why=why)
    return Plan([record_pb2.ParticipantRecord(force_ordered=order)], [
        f"at its next start the participant ends the branch in doubt with {action}, whatever the coordinator decided;",
        "if that contradicts the decision the transaction becomes MIXED, which people must repair.",
    ])  # fmt: skip
