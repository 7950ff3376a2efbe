"""How reasons become gRPC statuses in unary calls.

OK means that what was asked has happened: `Run` and `Commit` are OK only when the transaction committed, so that a caller who
forgets to look at the answer does not take an abort for a commit. Everything else is a status whose code stands in the table of
`troth.errors.Reason`, with a google.rpc.Status that carries

- ErrorInfo: `reason`, the domain `troth`, and `participant`, `code`, `retryable`, `transaction_id` where they are known, and
  `outcome` wherever a transaction was answered: ABORTED is a clean NO, and nothing else is (COMMITTED, to Abort; IN_DOUBT,
  EXPIRED, MIXED, HAZARD). Without an outcome the request was refused, and nothing of it has run;
- RetryInfo, when the same request may succeed later after a pause.

`UNKNOWN` with the reason IN_DOUBT is OutcomeUnknown: ask with the transaction id. `INTERNAL` with HEURISTIC needs people.
"""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has stubs but no py.typed

from coordinator.core.model import outcome_name
from troth.errors import Reason, TransactionError, TrothError
from troth.v1 import client_pb2, common_pb2

DOMAIN = "troth"
STATUS_METADATA_KEY = "grpc-status-details-bin"
MESSAGE_CHARACTERS_MAX = 800
"""Of a status message. Trailers above 8 KiB get lost, and ErrorInfo holds the message's parts a second time at most."""
TEXT_CHARACTERS_MAX = 200
"""Of any other text in the details."""
RETRY_DELAY_SECONDS = 1
"""How long a refused caller is asked to wait."""

_WAIT_FIRST = frozenset({Reason.OVERLOADED, Reason.DRAINING, Reason.PARTICIPANT_AWAY, Reason.CONFLICT})


def reason_named(name: str) -> Reason:
    """The reason of a name that came over the wire; INTERNAL for one that this version does not know."""
    return Reason.__members__.get(name, Reason.INTERNAL)


def cause_of(error: TrothError, participant: str = "") -> common_pb2.Cause:
    """What a peer is told about an error."""
    return common_pb2.Cause(
        reason=error.reason.name, participant=error.participant or participant, message=f"{error.message} ({error.hint})",
        retryable=error.reason.retryable,
    )  # fmt: skip


def cause(reason: Reason, message: str) -> common_pb2.Cause:
    """A cause with a stable reason."""
    return common_pb2.Cause(reason=reason.name, message=f"{message} ({reason.hint})", retryable=reason.retryable)


def status_of(
    cause: common_pb2.Cause, transaction_id: str = "", outcome: str = ""
) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The gRPC status of a cause, with its rich details."""
    reason = reason_named(cause.reason)
    code = grpc.StatusCode[reason.grpc_code]
    number: int = code.value[0]
    message = f"{cause.reason}: {cause.message}"[:MESSAGE_CHARACTERS_MAX]
    status = status_pb2.Status(code=number, message=message)
    info = error_details_pb2.ErrorInfo(reason=cause.reason[:TEXT_CHARACTERS_MAX], domain=DOMAIN)
    known = {"participant": cause.participant, "code": cause.code, "transaction_id": transaction_id, "outcome": outcome}
    for key, text in known.items():
        if text:
            info.metadata[key] = text[:TEXT_CHARACTERS_MAX]
    info.metadata["retryable"] = "true" if cause.retryable else "false"
    status.details.add().Pack(info)
    if reason in _WAIT_FIRST and cause.retryable:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = RETRY_DELAY_SECONDS
        status.details.add().Pack(retry)
    return code, status


async def abort(
    context: grpc.aio.ServicerContext,  # type: ignore[type-arg]  # a call of any kind
    cause: common_pb2.Cause, transaction_id: str = "", outcome: str = "",
) -> NoReturn:  # fmt: skip
    """End a call with the status of a cause."""
    code, status = status_of(cause, transaction_id, outcome)
    await context.abort(code, status.message, ((STATUS_METADATA_KEY, status.SerializeToString()),))


async def abort_with(context: grpc.aio.ServicerContext, error: TrothError) -> NoReturn:  # type: ignore[type-arg]  # a call of any kind
    """End a call with the status of an error."""
    transaction_id = error.transaction_id if isinstance(error, TransactionError) else ""
    await abort(context, cause_of(error), transaction_id)


_NOT_DONE = {
    common_pb2.OUTCOME_IN_DOUBT: Reason.IN_DOUBT,
    common_pb2.OUTCOME_MIXED: Reason.HEURISTIC,
    common_pb2.OUTCOME_HAZARD: Reason.HEURISTIC,
    common_pb2.OUTCOME_EXPIRED: Reason.EXPIRED,
    common_pb2.OUTCOME_COMMITTED: Reason.ALREADY_COMMITTED,
}


def why_not(answer: client_pb2.Answer, wanted: common_pb2.Outcome.ValueType) -> common_pb2.Cause | None:
    """Why an answer is not the wanted outcome; `None` when it is.

    An abort keeps its own cause. Every other outcome gets the reason of its kind: a caller must be able to tell "nothing
    happened" from "ask again" by the reason alone.
    """
    if answer.outcome == wanted:
        return None
    if answer.outcome == common_pb2.OUTCOME_ABORTED:
        return answer.cause if answer.cause.reason else cause(Reason.ROLLED_BACK, "the transaction was rolled back")
    reason = _NOT_DONE.get(answer.outcome, Reason.INTERNAL)
    told = cause(reason, f"the outcome of {answer.transaction_id or 'the transaction'} is {outcome_name(answer.outcome)}")
    if answer.cause.message:
        told.message += f"; {answer.cause.message}"
    return told


def told_outcome(answer: client_pb2.Answer) -> str:
    """The outcome as ErrorInfo has it. A request behind the retention was not run, but its first attempt may have been."""
    expired = answer.cause.reason == Reason.EXPIRED.name and not answer.cause.participant
    if answer.outcome == common_pb2.OUTCOME_ABORTED and expired:
        return "EXPIRED"
    return outcome_name(answer.outcome) if answer.outcome else ""
