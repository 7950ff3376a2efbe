"""Carrying out the work of one append, in a savepoint of its own inside the group's transaction.

Whatever goes wrong in the author's code ends in an answer (`ExecuteRefused`, `LocalDone` with an error) and an undone
savepoint. Only two things go further: the group's transaction was ended (`GroupLost`), and the file failed (`LogFailed`).
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw
from google.protobuf.message import Message

from participant_sdk.border import Raised, called
from participant_sdk.causes import cause_of, cause_of_operation
from participant_sdk.core.work import (
    NO_KEYS,
    Execute,
    Executed,
    ExecuteRefused,
    Keys,
    LocalDone,
    LocalRun,
    Mode,
    Release,
    Undo,
    UndoFailed,
    Undone,
    Wanted,
)
from participant_sdk.resources.contract import OperationRegistry
from participant_sdk.resources.sqlite_database import Database, Use
from participant_sdk.resources.sqlite_guard import Rules
from participant_sdk.resources.sqlite_locks import RowLocks
from participant_sdk.resources.sqlite_restore import CannotUndo, undo
from participant_sdk.resources.sqlite_schema import Schema
from participant_sdk.resources.sqlite_undo import CannotCapture, Capture, Changes
from participant_sdk.tracing import inside
from troth import failpoints, tracing
from troth.errors import Aborted, Reason, RequestError, TrothError
from troth.logs import get_logger
from troth.ready import Event, frozen
from troth.v1 import common_pb2, record_pb2
from troth.values import add_result

_SAVEPOINT = "SAVEPOINT troth_work"
_RELEASE = "RELEASE troth_work"
_ROLLBACK = "ROLLBACK TO troth_work"
_ACTIVE, _PREPARE, _ONE_PHASE = Mode.ACTIVE, Mode.PREPARE, Mode.ONE_PHASE
_READ, _WRITE, _SCHEMA, _SHARED = Rules.READ, Rules.WRITE, Rules.SCHEMA, Rules.SHARED
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})

_log = get_logger("participant_sdk.sqlite")


class Limits(NamedTuple):
    """What one piece of the author's code may use."""

    operation_seconds_max: float = 5.0
    results_bytes_max: int = 1024 * 1024


class GroupLost(Exception):
    """The group's transaction is gone. `answer` is for the work that ended it."""

    def __init__(self, answer: Event) -> None:
        super().__init__()
        self.answer = answer


class _Failed(Exception):
    """The work failed: why, and whether the group's transaction went with it."""

    def __init__(self, error: BaseException, cause: common_pb2.Cause, *, lost: bool = False) -> None:
        super().__init__()
        self.error = error
        self.cause = cause
        self.lost = lost


class _Wants(Exception):
    """An operation needs more keys."""

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self.keys = keys


@frozen
class Answer:
    """What became of one append's work."""

    event: Event | None
    keep_record: bool


class Worker:
    """Carries out work on the one connection; all calls are on its thread, inside a transaction."""

    def __init__(
        self,
        connection: apsw.Connection,
        database: Database,
        schema: Schema,
        locks: RowLocks,
        operations: OperationRegistry,
        participant: str,
        limits: Limits,
    ) -> None:
        self._connection = connection
        self._sql = connection.cursor().execute
        self._database = database
        self._schema = schema
        self._locks = locks
        self._operations = operations
        self._participant = participant
        self._limits = limits
        # While a session exists every statement is compiled so that it can be captured. Without this one, which records
        # nothing, a `DELETE FROM t` compiled before a capture began would be invisible to it.
        self._always = apsw.Session(connection, "main")
        self._always.enabled = False

    def close(self) -> None:
        """Let go of the connection."""
        self._always.close()

    def run(self, work: Any, record: Message | None) -> Answer:
        """Carry out one piece of work. Raises `GroupLost`, `LogFailed`."""
        if isinstance(work, Execute):
            assert isinstance(record, record_pb2.ParticipantRecord)
            return self._execute(work, record)
        if isinstance(work, Release):
            self._locks.drop(work.transaction_id)
            return Answer(None, True)
        if isinstance(work, Undo):
            return self._undo(work)
        assert isinstance(work, LocalRun), f"{type(work).__name__} is no work of an atomic resource"
        return self._local(work)

    def refuse(self, work: Any) -> Event | None:
        """The answer to work whose group could not be committed; `None` for work that cannot be the reason."""
        error = Aborted(Reason.GROUP_LOST, "the batch could not be committed")
        if isinstance(work, Execute):
            return ExecuteRefused(work.transaction_id, work.call_id, cause_of(error, self._participant))
        if isinstance(work, LocalRun) and (work.write or work.schema):
            return LocalDone(work.ticket, error=error)
        return None

    # ---- the kinds of work

    def _execute(self, work: Execute, record: record_pb2.ParticipantRecord) -> Answer:
        done = _work_in(record, work.mode)
        done.Clear()  # a lost group runs its appends again
        self._sql(_SAVEPOINT)
        capture = Capture(self._connection, self._schema)
        try:
            if tracing.spans is None:
                self._perform(work.operations, done.results, work.keys)
            else:
                with inside(self._participant, work.transaction_id, work.call_id):
                    self._perform(work.operations, done.results, work.keys)
            changes = self._captured(capture, work.transaction_id)
        except _Failed as failed:
            refused = ExecuteRefused(work.transaction_id, work.call_id, failed.cause)
            self._back(failed, refused)
            return Answer(refused, False)
        except _Wants as wants:
            self._undo_savepoint()
            return Answer(Wanted(work.transaction_id, work.call_id, wants.keys), False)
        finally:
            capture.close()
        self._sql(_RELEASE)
        failpoints.hit("participant", "after-apply", "operation")
        if work.mode is _ONE_PHASE:
            record.branch_finished.results.CopyFrom(done.results)
        return self._executed(work, done, changes)

    def _executed(self, work: Execute, done: record_pb2.BranchWork, changes: Changes) -> Answer:
        changed = bool(changes.undo)
        if work.mode is _ONE_PHASE:
            self._locks.drop(work.transaction_id)
        elif changed:
            rows = changes.rows
            done.undo.append(changes.undo)
            done.rows.extend(rows)
            self._locks.take(work.transaction_id, rows)
        work.keys.into(done)
        keep = changed or (work.mode is not _ACTIVE and (work.hold or work.earlier_changed))
        return Answer(Executed(work.transaction_id, work.call_id, done, changed), keep)

    def _undo(self, work: Undo) -> Answer:
        self._sql(_SAVEPOINT)
        try:
            for done in reversed(work.works):
                for data in reversed(done.undo):
                    undo(self._connection, self._schema, data)
        except CannotUndo as error:
            self._sql(_ROLLBACK)
            self._sql(_RELEASE)
            _log.error("undo failed", transaction_id=work.transaction_id, why=str(error))
            return Answer(UndoFailed(work.transaction_id, str(error)), False)
        self._sql(_RELEASE)
        self._locks.drop(work.transaction_id)
        return Answer(Undone(work.transaction_id), True)

    def _local(self, work: LocalRun) -> Answer:
        rules = _SCHEMA if work.schema else _WRITE if work.write else _READ
        self._sql(_SAVEPOINT)
        capture = Capture(self._connection, self._schema)
        try:
            value = self._call(work.function, rules, "the local function")
            if rules is _SCHEMA:
                self._check_foreign_keys()
                self._schema.read()
            else:
                self._captured(capture, "")
        except _Failed as failed:
            done = LocalDone(work.ticket, error=failed.error)
            self._back(failed, done)
            return Answer(done, False)
        finally:
            capture.close()
        self._sql(_RELEASE)
        return Answer(LocalDone(work.ticket, value), True)

    # ---- steps

    def _back(self, failed: _Failed, answer: Event) -> None:
        """Undo the savepoint. Raises `GroupLost` when there is none any more."""
        if failed.lost:
            raise GroupLost(answer)
        self._undo_savepoint()

    def _undo_savepoint(self) -> None:
        self._sql(_ROLLBACK)
        # Without the RELEASE each later ROLLBACK TO would replay the journal of this one again.
        self._sql(_RELEASE)

    def _perform(self, operations: Sequence[common_pb2.Operation], results: common_pb2.Results, keys: Keys) -> None:
        results.SetInParent()
        shared = keys.only_read
        for operation in operations:
            try:
                name = operation.name
                bound = self._operations.bind(operation)
                rules = _SHARED if shared or getattr(bound, "reads_only", False) else _WRITE
                add_result(results, self._call(bound, rules, name, keys), name)
            except RequestError as error:
                raise self._failed(error) from error
        if results.ByteSize() > self._limits.results_bytes_max:
            raise self._failed(Aborted(Reason.BAD_RESULT, f"the results are larger than {self._limits.results_bytes_max} bytes"))

    def _call(self, function: Callable[[Database], Any], rules: Rules, name: str, keys: Keys | None = None) -> Any:
        """Let the author's code run. Raises `_Failed`, `_Wants`, `LogFailed`."""
        use = self._database.begin_use(rules, self._limits.operation_seconds_max, keys)
        value = called(function, self._database)
        self._database.end_use()
        if use.spoilt:
            raise self._spoilt(use, name)
        if type(value) is Raised:
            raise self._raised(value.error, name)
        if type(value) not in _PLAIN and inspect.isawaitable(value):
            _close(value)
            raise self._failed(Aborted(Reason.OPERATION_FAILED, f"{name} returned an awaitable: it must be a plain def"))
        return value

    def _captured(self, capture: Capture, transaction_id: str) -> Changes:
        """What was changed, after all that can still speak against it. Raises `_Failed`."""
        self._check_foreign_keys()
        try:
            changes = capture.finish()
        except CannotCapture as error:
            raise self._failed(Aborted(Reason.UNCAPTURED_TABLE, str(error))) from error
        if self._locks.holder(changes.rows, transaction_id) is not None:
            raise self._failed(Aborted(Reason.CONFLICT, "a row was changed by another transaction that is not finished"))
        return changes

    def _check_foreign_keys(self) -> None:
        """Deferred foreign keys must hold now: at the group's COMMIT they would fail everybody."""
        if self._connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
            raise self._failed(Aborted(Reason.CONSTRAINT, "a deferred foreign key does not hold", retryable=self._may_pass()))

    # ---- what went wrong

    def _spoilt(self, use: Use, name: str) -> _Failed | _Wants:
        if use.fatal is not None:
            raise use.fatal
        if use.wanted != NO_KEYS:
            return _Wants(use.wanted)
        if use.denial is not None:
            message = f"{name}: {use.denial.what}"
            return self._failed(Aborted(use.denial.reason, message), lost=use.lost)
        if use.late:
            message = f"{name} took longer than {self._limits.operation_seconds_max} seconds"
            return self._failed(Aborted(Reason.OPERATION_FAILED, message), lost=use.lost)
        return self._failed(
            Aborted(Reason.FORBIDDEN_SQL, f"{name}: OR ROLLBACK or RAISE(ROLLBACK) ended the transaction"), lost=True
        )

    def _raised(self, error: BaseException, name: str) -> _Failed:
        """The author's function raised: its own refusal goes out whole, of anything else only the type."""
        if not isinstance(error, apsw.ConstraintError):
            return _Failed(error, cause_of_operation(error, self._participant, name))
        error_id = secrets.token_hex(4)
        _log.warning("a constraint refused an operation", operation=name, error_id=error_id, error=str(error))
        told = f"{name}: {_constraint(error)} (error {error_id} in the participant's log)"
        return _Failed(error, cause_of(Aborted(Reason.CONSTRAINT, told, retryable=self._may_pass()), self._participant))

    def _may_pass(self) -> bool:
        """Whether a constraint may hold later: the row that stood in the way, or is missing, may be one that another
        transaction has not finished with."""
        return len(self._locks) > 0

    def _failed(self, error: TrothError, *, lost: bool = False) -> _Failed:
        return _Failed(error, cause_of(error, self._participant), lost=lost)


def _work_in(record: record_pb2.ParticipantRecord, mode: Mode) -> record_pb2.BranchWork:
    if mode is _PREPARE:
        return record.branch_prepared.work
    if mode is _ACTIVE:
        return record.branch_active.work
    return record_pb2.BranchWork()


def _constraint(error: apsw.ConstraintError) -> str:
    # apsw sets the attribute on each error; its type stub does not know.
    kind = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0), "SQLITE_CONSTRAINT")
    return f"{str(kind).removeprefix('SQLITE_')} of the database"


def _close(value: Any) -> None:
    if inspect.iscoroutine(value):
        value.close()
