"""The service-level objective: which of what was asked for it counts, and which of that was missed.

The one rule: whatever does not commit is our fault, unless its reason is one of `CALLERS` or its caller has reached a limit of his
own. A reason that is not known counts as ours: who is told too much looks, who is told too little does not.

It counts transactions that are over, and of what was refused before it was a transaction only what was refused by our fault: a
caller who asks for what cannot be had would otherwise make a bad hour look like a good one.
"""

from __future__ import annotations

from troth.errors import Reason
from troth.v1 import common_pb2

MET, MISSED = "met", "missed"

CALLERS = frozenset({
    Reason.INVALID_NAME, Reason.INVALID_TRANSACTION_ID, Reason.INVALID_ARGUMENT, Reason.INVALID_TIMEOUT, Reason.INVALID_KEY,
    Reason.UNKNOWN_PARTICIPANT, Reason.UNKNOWN_OPERATION, Reason.BAD_ARGUMENTS, Reason.TOO_MANY_PARTICIPANTS,
    Reason.TOO_MANY_OPERATIONS, Reason.PAYLOAD_TOO_LARGE, Reason.FRAME_TOO_LARGE, Reason.KEY_REUSED, Reason.EXPIRED,
    Reason.UNAUTHENTICATED, Reason.TOKEN_EXPIRED, Reason.FORBIDDEN, Reason.WRONG_SHARD,
    Reason.REFUSED, Reason.CONFLICT, Reason.CLIENT_ABORT, Reason.SUPERSEDED, Reason.OPERATOR_ABORT,
})  # fmt: skip
"""The reasons that are nobody's fault here: mistakes in a request, what its caller may not do, and what services, callers and
operators have wanted so."""


def is_met(outcome: common_pb2.Outcome.ValueType, reason: str) -> bool:
    """Whether the objective was met by a transaction that is over. What did not end in one way is missed, whyever."""
    return outcome == common_pb2.OUTCOME_COMMITTED or (outcome == common_pb2.OUTCOME_ABORTED and is_callers(reason))


def is_callers(reason: str) -> bool:
    """Whether a reason is nobody's fault here; what a participant made up is not."""
    return reason in Reason.__members__ and Reason[reason] in CALLERS


def is_ours(reason: Reason, by_caller: bool) -> bool:
    """Whether something was refused by our fault."""
    return not (by_caller or reason in CALLERS)
