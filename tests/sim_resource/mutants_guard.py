"""Known-bad changes to what is denied, to schemas, to groups that are lost, to hazards, and to the order of waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw

from participant_sdk import causes
from participant_sdk.border import Raised
from participant_sdk.core import finishing, interactive, local, recovery, voting
from participant_sdk.core.branches import Kind, State
from participant_sdk.core.events import SchemaChange
from participant_sdk.core.locks import LOCAL, Answer, LockTable
from participant_sdk.core.machine import Machine
from participant_sdk.core.transitions import TABLE
from participant_sdk.core.work import Execute, Keys, LocalRun, Release, Undo, UndoFailed, Undone
from participant_sdk.resources import sqlite_work
from participant_sdk.resources.sqlite_guard import Guard, Rules
from participant_sdk.resources.sqlite_locks import RowLocks
from participant_sdk.resources.sqlite_log import SqliteLog, _Batch
from participant_sdk.resources.sqlite_restore import CannotUndo
from participant_sdk.resources.sqlite_schema import FINGERPRINT_BYTES, Schema
from participant_sdk.resources.sqlite_work import Answer as Done
from participant_sdk.resources.sqlite_work import Worker
from tests.sim.mutant import Mutant, adder, nothing, to
from tests.sim_resource.patching import after
from troth.errors import LogFailed, Reason

MUTANTS: list[Mutant] = []
_mutant = adder(MUTANTS)

# ---- what is denied


def _allows(*actions: int) -> Any:
    def change(original: Any) -> Any:
        def judge(self: Guard, action: int, one: str, two: str, database: str) -> Any:
            return None if action in actions else original(self, action, one, two, database)

        return judge

    return change


def _captured_anyway(*words: str) -> Any:
    def change(original: Any) -> Any:
        def why(self: Schema, *arguments: Any) -> str:
            found: str = original(self, *arguments)
            return "" if any(word in found for word in words) else found

        return why

    return change


def _readers_write(original: Any) -> Any:
    @contextmanager
    def judging(self: Guard, rules: Rules, sql: str) -> Iterator[None]:
        with original(self, Rules.WRITE if rules is Rules.READ else rules, sql):
            yield

    return judging


def _actions_may(original: Any) -> Any:
    def authorize(self: Guard, action: int, one: Any, *others: Any) -> int:
        return apsw.SQLITE_OK if one == "spoke" else int(original(self, action, one, *others))

    return authorize


def _triggers_may(original: Any) -> Any:
    def authorize(self: Guard, action: int, one: Any, two: Any, database: Any, trigger: Any) -> int:
        return apsw.SQLITE_OK if trigger == "leaked" else int(original(self, action, one, two, database, trigger))

    return authorize


def _authorizer_for_good(original: Any) -> Any:
    """Set once and left on, so that nothing expires."""

    @contextmanager
    def judging(self: Guard, rules: Rules, sql: str) -> Iterator[None]:
        self._rules, self._denial = rules, None
        if self._connection.authorizer is None:
            self._connection.authorizer = lambda *asked: self._authorize(*asked) if _judging else apsw.SQLITE_OK
        _judging.append(sql)
        try:
            yield
        finally:
            _judging.clear()
        if self._denial is None:
            self._known[rules].add(sql)

    return judging


_judging: list[str] = []


class _NoSession:
    def __init__(self, *_: Any) -> None:
        self.enabled = False

    def close(self) -> None:
        pass


def _no_session_for_good(original: Any) -> Any:
    def init(self: Worker, *arguments: Any) -> None:
        original(self, *arguments)
        self._always.close()
        self._always = _NoSession()  # type: ignore[assignment]  # that is the mutant

    return init


_DDL = [getattr(apsw, name) for name in dir(apsw) if name.startswith(("SQLITE_CREATE_", "SQLITE_DROP_"))]
_mutant(
    "transaction control is let through", "transaction control",
    (Guard, "_judge", _allows(apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT)),
)  # fmt: skip
_mutant("PRAGMA is let through", "pragma", (Guard, "_judge", _allows(apsw.SQLITE_PRAGMA)))
_mutant("ATTACH is let through", "attach", (Guard, "_judge", _allows(apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH)))
_mutant("DDL is let through", "ddl", (Guard, "_judge", _allows(*_DDL, apsw.SQLITE_ALTER_TABLE, apsw.SQLITE_REINDEX)))
_mutant("a table without a key is let through", "no key", (Schema, "_why_uncaptured", _captured_anyway("no primary key")))
_mutant("a nullable key is let through", "nullable key", (Schema, "_why_uncaptured", _captured_anyway("may be NULL")))
_mutant("a virtual table is let through", "virtual", (Schema, "_why_uncaptured", _captured_anyway("virtual", "shadow")))
_mutant("a folded key is let through", "no key", (Schema, "_why_uncaptured", _captured_anyway("collation")))
_mutant(
    "what a foreign key changes may be uncaptured", "no key",
    (Schema, "_reached_by", to(lambda self, table: [table])), (Guard, "_authorize", _actions_may),
)  # fmt: skip
_mutant("what a trigger changes may be uncaptured", "no key", (Guard, "_authorize", _triggers_may))
_mutant("a local read may write", "nobody reads undecided data", (Guard, "judging", _readers_write))
_mutant(
    "a statement of before the session stays compiled", "cached",
    (Worker, "__init__", _no_session_for_good), (Guard, "judging", _authorizer_for_good),
)  # fmt: skip
_mutant("deferred foreign keys are not checked", "deferred", (Worker, "_check_foreign_keys", to(nothing)))

# ---- schemas


def _schema_at_once(original: Any) -> Any:
    def begin(m: Machine, event: Any) -> None:
        if isinstance(event, SchemaChange):
            whole, local.WHOLE = local.WHOLE, Keys(("schema",))
            try:
                original(m, event)
            finally:
                local.WHOLE = whole
        else:
            original(m, event)

    return begin


def _names_only(self: Schema, names: Any) -> bytes:
    return ",".join(names).encode().ljust(FINGERPRINT_BYTES)[:FINGERPRINT_BYTES]


_mutant("no fingerprint", "fingerprint", (Schema, "fingerprint", to(lambda self, names: bytes(FINGERPRINT_BYTES))))
_mutant("a fingerprint of names only", "fingerprint", (Schema, "fingerprint", to(_names_only)))
_mutant("a schema script runs over undecided rows", "schema waits", (SqliteLog, "_check_undecided", to(nothing)))
_mutant("the schema changes at once", "schema waits", (local, "begin", _schema_at_once))

# ---- lost groups


def _before_the_offender_is_lost(original: Any) -> Any:
    """What stood before the offender in the lost transaction is taken for written."""

    def run(self: _Batch, index: int, worker: Worker) -> bool:
        answers = _answers.setdefault(self, {})
        if index in answers and index not in self.refused:
            return answers[index]
        answers[index] = original(self, index, worker)
        return answers[index]

    return run


_answers: dict[_Batch, dict[int, bool]] = {}


def _phase_two_once(original: Any) -> Any:
    def run(self: _Batch, index: int, worker: Worker) -> bool:
        done = _stepped.setdefault(self, set())
        if index in done:
            return True
        if isinstance(self.batch[index].apply, Undo | Release):
            done.add(index)
        return bool(original(self, index, worker))

    return run


_stepped: dict[_Batch, set[int]] = {}


def _locks_of_a_lost_group(self: RowLocks) -> None:
    self._journal.clear()


def _lost_is_said(original: Any) -> Any:
    """A failed COMMIT is taken for one that worked."""

    def commit(self: SqliteLog) -> bool:
        original(self)
        return True

    return commit


def _lost_for_good(original: Any) -> Any:
    def refuse(self: Worker, work: Any) -> Any:
        answer = original(self, work)
        if answer is not None and hasattr(answer, "cause"):
            answer.cause.retryable = False
        return answer

    return refuse


def _ended_unnoticed(original: Any) -> Any:
    """An author's ROLLBACK is taken for any other error; a transaction is begun in its place."""

    def back(self: Worker, failed: Any, answer: Any) -> None:
        if failed.lost:
            self._sql("BEGIN IMMEDIATE")
        else:
            original(self, failed, answer)

    return back


_mutant("an author's ROLLBACK is not noticed", "lost group", (Worker, "_back", _ended_unnoticed))
_mutant("what a lost group did is not run again", "lost group", (_Batch, "run", _before_the_offender_is_lost))
_mutant("a failed COMMIT is said to have worked", "lost group", (SqliteLog, "_commit", _lost_is_said))
_mutant("a lost group's locks stay", "lost group", (RowLocks, "undo_group", to(_locks_of_a_lost_group)))
_mutant("GROUP_LOST is not retryable", "lost group", (Worker, "refuse", _lost_for_good))
_mutant("a lost group's phase two is not queued again", "queued again", (_Batch, "run", _phase_two_once))

# ---- hazards


def _swallowed(original: Any) -> Any:
    def undo(*arguments: Any) -> None:
        try:
            original(*arguments)
        except CannotUndo:
            return

    return undo


def _half_undone(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        self._sql("SAVEPOINT half")
        try:
            for done in reversed(work.works):
                for data in reversed(done.undo):
                    sqlite_work.undo(self._connection, self._schema, data)
        except CannotUndo as error:
            return Done(UndoFailed(work.transaction_id, str(error)), False)
        finally:
            self._sql("RELEASE half")
        self._locks.drop(work.transaction_id)
        return Done(Undone(work.transaction_id), True)

    return undo


def _parked_without_row_locks(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        answer = original(self, work)
        self._locks.drop(work.transaction_id)
        return answer

    return undo


def _parked_without_keys(m: Machine, b: Any, *_: Any) -> None:
    m.release_locks(b)


def _parked_for_this_life(original: Any) -> Any:
    def replay(m: Machine, record: Any) -> str:
        answer: str = original(m, record)
        m.finish(m.branches[answer], State.ABORTED)
        return answer

    return replay


def _hazard_stops_all(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        answer = original(self, work)
        if isinstance(answer.event, UndoFailed):
            raise LogFailed(Reason.LOG_FAILED, "an inverse does not apply")
        return answer

    return undo


_mutant("an inverse that does not apply is passed over", "hazard", (sqlite_work, "undo", _swallowed))
_mutant("half of an undo stays", "hazard", (Worker, "_undo", _half_undone))
_mutant("HAZARD is forgotten in a crash", "hazard", (recovery._REPLAY, "branch_parked", _parked_for_this_life))
_mutant("a parked branch lets its row locks go", "hazard keeps locks", (Worker, "_undo", _parked_without_row_locks))
_mutant("a parked branch lets its keys go", "hazard keeps locks", (finishing, "_park", after(_parked_without_keys)))
_mutant("HAZARD stops the service", "everything else goes on", (Worker, "_undo", _hazard_stops_all))

# ---- waiting


def _own_time(original: Any) -> Any:
    def request(self: LockTable, owner: Any, rank: Any, keys: Any) -> Any:
        if rank is not LOCAL:
            age = (_arrivals.setdefault(owner, len(_arrivals)), "")
            rank = rank._replace(age=age, eldest=age)
        return original(self, owner, rank, keys)

    return request


_arrivals: dict[Any, int] = {}


def _nobody_dies(original: Any) -> Any:
    def request(self: LockTable, owner: Any, rank: Any, keys: Any) -> Any:
        return original(self, owner, rank._replace(age=(0, "")) if rank is not LOCAL else rank, keys)

    return request


def _the_old_die(original: Any) -> Any:
    def request(self: LockTable, owner: Any, rank: Any, keys: Any) -> Any:
        if rank is not LOCAL:
            age = (-rank.age[0], rank.age[1])
            rank = rank._replace(age=age, eldest=age)
        return original(self, owner, rank, keys)

    return request


def _death_is_final(original: Any) -> Any:
    def refusal(m: Machine, answer: Answer) -> Any:
        cause = original(m, answer)
        cause.retryable = False
        return cause

    return refusal


_mutant("nobody dies", "wait-die", (LockTable, "request", _nobody_dies))
_mutant("the older dies", "wait-die", (LockTable, "request", _the_old_die))
_mutant("who waits waits for ever", "bounded", (TABLE[State.WAITING], Kind.LOCK_TIMEOUT, to(finishing.ignore)))
_mutant("age is this attempt's", "first attempt", (LockTable, "request", _own_time))
_mutant(
    "death is final", "the dead may retry",
    (interactive, "lock_refusal", _death_is_final), (voting, "lock_refusal", _death_is_final),
)  # fmt: skip

# ---- an append with work


def _record_of_the_refused(original: Any) -> Any:
    def run(self: _Batch, index: int, worker: Worker) -> bool:
        kept = bool(original(self, index, worker))
        append = self.batch[index]
        return kept or (isinstance(append.apply, Execute) and append.record is not None and index not in self.refused)

    return run


def _refusal_refuses_all(original: Any) -> Any:
    """One refused append takes the rest of the batch with it."""

    def run(self: _Batch, index: int, worker: Worker) -> bool:
        work = self.batch[index].apply
        refused = any(type(event).__name__ == "ExecuteRefused" for event in self.events[:index] if event is not None)
        if refused and isinstance(work, Execute | LocalRun):
            answer = worker.refuse(work)
            if answer is not None:
                self.refuse(index, answer)
                return False
        return bool(original(self, index, worker))

    return run


def _only_exceptions(original: Any) -> Any:
    def called(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            return Raised(error)

    return called


def _as_it_is(value: Any, characters_max: int) -> Any:
    return value


_mutant("what is no Exception goes on", "slips", (sqlite_work, "called", _only_exceptions))
_mutant("a refusal's texts go out as they are", "slips", (causes, "_text", to(_as_it_is)))
_mutant("the record of refused work is kept", "apply", (_Batch, "run", _record_of_the_refused))
_mutant("one refusal refuses the batch", "apply", (_Batch, "run", _refusal_refuses_all))

# ---- operators


def _force_is_no_abort(original: Any) -> Any:
    def force_abort(m: Machine, b: Any, e: Any) -> None:
        finishing.force_commit(m, b, e)

    return force_abort


_mutant("orders written offline are not carried out", "offline", (recovery, "_obey", to(nothing)))
_mutant("an order to roll back commits", "offline", (recovery, "force_abort", _force_is_no_abort))
_mutant(
    "an order to roll back a parked branch commits", "online", (TABLE[State.PARKED], Kind.FORCE_ABORT, _force_is_no_abort)
)
