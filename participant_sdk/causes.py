"""Causes (on the wire) ↔ errors (in Python)."""

from __future__ import annotations

import secrets

from troth.errors import Aborted, Reason, Refuse, RequestError, TrothError
from troth.logs import encodable, get_logger
from troth.v1 import common_pb2

REQUEST_REASONS = frozenset(
    {
        Reason.INVALID_NAME,
        Reason.INVALID_TRANSACTION_ID,
        Reason.INVALID_ARGUMENT,
        Reason.UNKNOWN_OPERATION,
        Reason.BAD_ARGUMENTS,
        Reason.TOO_MANY_OPERATIONS,
        Reason.PAYLOAD_TOO_LARGE,
        Reason.VERSION_MISMATCH,
        Reason.NO_CONTEXT,
        Reason.OVERLOADED,
        Reason.SHUTTING_DOWN,
        Reason.STALE_EPOCH,
        Reason.STALE_INCARNATION,
        Reason.FOREIGN_LOG,
        Reason.DRAINING,
    }
)
"""To a participant and its callers: reasons of a refusal before anything ran. (A client has `client.results.WRONG_REQUESTS`.)"""

MESSAGE_CHARACTERS_MAX = 4000
CODE_CHARACTERS_MAX = 200
"""What of an error's message and code is told; the rest is cut."""

_log = get_logger("participant_sdk")


def cause_of(error: TrothError, participant: str = "") -> common_pb2.Cause:
    """The cause that tells an error to a peer. `participant` is who says it, unless the error names somebody."""
    return common_pb2.Cause(
        reason=error.reason.name,
        participant=error.participant or participant,
        code=_text(error.code, CODE_CHARACTERS_MAX),
        message=_text(error.message, MESSAGE_CHARACTERS_MAX),
        retryable=error.retryable if isinstance(error, Refuse | Aborted) else error.reason.retryable,
    )


def error_of(
    cause: common_pb2.Cause, transaction_id: str = "", *, wrong: frozenset[Reason] = REQUEST_REASONS
) -> TrothError:
    """The error that tells a cause to the caller: `RequestError` for the reasons `wrong`, otherwise `Aborted`.

    A reason that this version does not know becomes INTERNAL, with its name in the message.
    """
    reason = Reason.__members__.get(cause.reason)
    message = cause.message or "no explanation was given"
    if reason is None:
        reason, message = Reason.INTERNAL, f"{cause.reason or 'no reason'}: {message}"
    # The coordinator's messages end with the hint; our errors add it themselves.
    message = message.removesuffix(f" ({reason.hint})")
    if reason in wrong:
        return RequestError(reason, message, participant=cause.participant)
    return Aborted(
        reason,
        message,
        transaction_id=transaction_id,
        participant=cause.participant,
        code=cause.code,
        retryable=cause.retryable,
    )


def cause_of_operation(error: BaseException, participant: str, operation: str) -> common_pb2.Cause:
    """Why an operation did not happen, from what it raised.

    The text of an unexpected exception stays here, in the log: it may hold what a client must not see.
    """
    if isinstance(error, Refuse | Aborted | RequestError):
        try:
            return cause_of(error, participant)
        except Exception as slip:  # a subclass without what its parent has, a code that cannot be written as text
            slip.__cause__ = error
            error = slip
    error_id = secrets.token_hex(4)
    _log.error("operation failed", participant=participant, operation=operation, error_id=error_id, exc_info=error)
    told = f"{operation} raised {type(error).__name__} (error {error_id} in the participant's log)"
    return cause_of(Aborted(Reason.OPERATION_FAILED, told), participant)


def _text(value: object, characters_max: int) -> str:
    """The value as the wire takes it: an author may have given whatever he likes. A subclass of str counts by its content."""
    text = str.__str__(value) if isinstance(value, str) else str(value)
    return encodable(text[:characters_max])


def not_running(name: str) -> RequestError:
    """The participant has not started, or has stopped."""
    return RequestError(Reason.SHUTTING_DOWN, f"participant {name} does not run")


def error_in(cause: common_pb2.Cause | None, error: BaseException | None) -> BaseException | None:
    """The error that an answer has, if any: of a cause, or as a function raised it."""
    return error_of(cause) if cause is not None else error
