"""What an error of MariaDB means for a branch.

    refused      the work is not possible, or not now: the branch votes NO, with a cause that says whether a retry may help
    retryable    the step itself may be tried again: the server is away, busy, or was demoted
    unknown      the connection was lost before the answer: nobody knows (`errors.is_lost`)
    heuristic    somebody else has finished the branch: told by the marker row, and not by a number (see `finishing`)
"""

from __future__ import annotations

import re
import secrets

from participant_sdk.causes import cause_of, cause_of_operation
from troth.errors import Aborted, Reason
from troth.logs import get_logger
from troth.mariadb import errors
from troth.v1 import common_pb2

_KEY = re.compile(r"(?:for key|CONSTRAINT|Check constraint|Column) [`'\"]([^`'\"]+)[`'\"]")
_log = get_logger("participant_sdk.mariadb")


def database_error(error: BaseException) -> Exception | None:
    """The driver's error behind what an operation raised: itself, or what SQLAlchemy or the author wrapped around it."""
    seen: BaseException | None = error
    for _ in range(10):
        if isinstance(seen, errors.kinds()) and errors.number(seen):
            return seen if isinstance(seen, Exception) else None
        if seen is None:
            return None
        inner = getattr(seen, "orig", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return None


def cause_of_error(error: BaseException, participant: str, operation: str) -> common_pb2.Cause:
    """Why an operation, or a vote, did not happen. Values of rows stay in the participant's log."""
    found = database_error(error) or (error if isinstance(error, OSError | EOFError) else None)
    refusal = None if found is None else _refusal(found, operation)
    if refusal is None:
        return cause_of_operation(error, participant, operation)
    return cause_of(refusal, participant)


def _refusal(error: Exception, operation: str) -> Aborted | None:
    code = errors.number(error)
    if code in errors.CONFLICTS:
        return Aborted(Reason.CONFLICT, f"{operation}: {errors.message(error)}")
    if code in errors.TOO_SLOW:
        return Aborted(Reason.TIMEOUT, f"{operation}: {errors.message(error)}")
    if code in errors.NO_ROOM:
        return Aborted(Reason.OVERLOADED, f"{operation}: the database has no room: {errors.message(error)}")
    if code in errors.READ_ONLY:
        return Aborted(Reason.PARTICIPANT_AWAY, f"{operation}: the server takes no changes: {errors.message(error)}")
    if code in errors.ENDS_BRANCH:
        return Aborted(Reason.FORBIDDEN_SQL, f"{operation}: {errors.message(error)}")
    if code in errors.CONSTRAINTS:
        error_id = secrets.token_hex(4)
        _log.warning("a constraint refused an operation", operation=operation, error_id=error_id, error=errors.why(error))
        named = _KEY.search(errors.message(error))
        name = named[1] if named else "a constraint"
        told = f"{operation}: {name} does not hold (error {code}, {error_id} in the participant's log)"
        return Aborted(Reason.CONSTRAINT, told)
    if errors.is_lost(error):
        return Aborted(Reason.PARTICIPANT_AWAY, f"{operation}: the connection to the database was lost")
    return None
