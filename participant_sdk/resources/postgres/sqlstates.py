"""What an error of PostgreSQL means for a branch, by its SQLSTATE.

    refused      the work is not possible, or not now: the branch votes NO, with a cause that says whether a retry may help
    retryable    the step itself may be tried again: the server is away, or busy (`may_be_done_later`)
    unknown      the connection was lost before the answer: nobody knows (`is_lost`)
    heuristic    somebody else has finished the branch: told by the marker row, and not by a SQLSTATE (see `finishing`)
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator

import psycopg

from participant_sdk.causes import cause_of, cause_of_operation
from troth.errors import Aborted, Reason
from troth.logs import get_logger
from troth.v1 import common_pb2

UNDEFINED_GID = "42704"
"""No prepared transaction of this name: finished before, never prepared, or the wrong server. Proof of nothing."""
LOCK_TIMEOUT = "55P03"
_CONFLICTS = frozenset({"40001", "40P01", LOCK_TIMEOUT})
_TOO_SLOW = "57014"
_CANNOT_PREPARE = "0A000"
_LOST_CLASSES = ("08", "57P")
_BUSY_CLASS = "53"
_CONSTRAINT_CLASS = "23"

_log = get_logger("participant_sdk.postgres")


def database_error(error: BaseException) -> psycopg.Error | None:
    """The driver's error behind what an operation raised: itself, or what SQLAlchemy or the author wrapped around it."""
    for one in behind(error):
        if isinstance(one, psycopg.Error):
            return one
        if (told := _of_asyncpg(one)) is not None:
            return told
    return None


def behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and what SQLAlchemy or an author has wrapped into it, one after the other."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        inner = getattr(seen, "orig", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__


def _of_asyncpg(error: BaseException) -> psycopg.Error | None:
    asyncpg = sys.modules.get("asyncpg")
    if asyncpg is None or not isinstance(error, asyncpg.PostgresError):
        return None
    from participant_sdk.resources.postgres.asyncpg_driver import server_error

    return server_error(error)


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that what was asked may have happened or not."""
    code = error.sqlstate
    return code.startswith(_LOST_CLASSES) if code else isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def why(error: psycopg.Error) -> str:
    """The server's words, in one line, for the log and for operators."""
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return f"{' '.join(str(error).split())}{state}"


def cause_of_error(error: BaseException, participant: str, operation: str) -> common_pb2.Cause:
    """Why an operation, or a vote, did not happen. Values of rows stay in the participant's log."""
    found = database_error(error)
    refusal = None if found is None else _refusal(found, operation)
    if refusal is None:
        return cause_of_operation(error, participant, operation)
    return cause_of(refusal, participant)


def _refusal(error: psycopg.Error, operation: str) -> Aborted | None:
    code = error.sqlstate or ""
    if is_lost(error):
        return Aborted(Reason.PARTICIPANT_AWAY, f"{operation}: the connection to the database was lost")
    if code in _CONFLICTS:
        return Aborted(Reason.CONFLICT, f"{operation}: {_primary(error)}")
    if code == _TOO_SLOW:
        return Aborted(Reason.TIMEOUT, f"{operation}: {_primary(error)}")
    if code.startswith(_BUSY_CLASS):
        return Aborted(Reason.OVERLOADED, f"{operation}: the database has no room: {_primary(error)}")
    if code == _CANNOT_PREPARE:
        return Aborted(Reason.FORBIDDEN_SQL, f"{operation}: {_primary(error)}")
    if code.startswith(_CONSTRAINT_CLASS):
        error_id = secrets.token_hex(4)
        _log.warning("a constraint refused an operation", operation=operation, error_id=error_id, error=why(error))
        name = error.diag.constraint_name or error.diag.column_name or "a constraint"
        told = f"{operation}: {name} does not hold (SQLSTATE {code}, error {error_id} in the participant's log)"
        return Aborted(Reason.CONSTRAINT, told)
    return None


def _primary(error: psycopg.Error) -> str:
    """The server's message without the detail, which has values of rows."""
    return error.diag.message_primary or type(error).__name__
