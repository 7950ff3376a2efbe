"""Known-bad changes to how work is done, remembered, locked and undone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import apsw

from participant_sdk import registry
from participant_sdk.core import finishing, local, locks, recovery, voting
from participant_sdk.core.branches import Kind, State
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.events import SchemaChange
from participant_sdk.core.locks import Answer, LockTable
from participant_sdk.core.machine import Machine
from participant_sdk.core.transitions import TABLE
from participant_sdk.core.work import NO_KEYS, Execute, Mode, Undo
from participant_sdk.resources import sqlite_file, sqlite_log, sqlite_undo, sqlite_work
from participant_sdk.resources.sqlite import SqliteResource
from participant_sdk.resources.sqlite_database import Database
from participant_sdk.resources.sqlite_guard import Rules
from participant_sdk.resources.sqlite_locks import RowLocks
from participant_sdk.resources.sqlite_log import SqliteLog
from participant_sdk.resources.sqlite_schema import Schema
from participant_sdk.resources.sqlite_undo import NO_CHANGES, Capture
from participant_sdk.resources.sqlite_work import Answer as Done
from participant_sdk.resources.sqlite_work import Worker
from tests.sim.mutant import Mutant, adder, nothing, to
from tests.sim_resource.patching import after
from troth.errors import Refuse
from troth.v1 import common_pb2

MUTANTS: list[Mutant] = []
_mutant = adder(MUTANTS)

# ---- the author's function


def _refuse_is_a_crash(original: Any) -> Any:
    def raised(self: Worker, error: BaseException, name: str) -> Any:
        return original(self, ValueError() if isinstance(error, Refuse) else error, name)

    return raised


def _twice(original: Any) -> Any:
    def call(self: Worker, function: Any, rules: Rules, name: str, keys: Any = None) -> Any:
        if rules is Rules.WRITE:
            original(self, function, rules, name, keys)
        return original(self, function, rules, name, keys)

    return call


_mutant("Refuse is treated as a crash", "refuse", (Worker, "_raised", _refuse_is_a_crash))
_mutant("db can be kept and used later", "own connection", (Database, "end_use", to(nothing)))
_mutant("what is found on the way is not locked", "found keys", (Database, "lock", to(nothing)))
_mutant("the function runs twice", "once", (Worker, "_call", _twice))

# ---- capture


def _misses_deletes(original: Any) -> Any:
    def finish(self: Capture) -> Any:
        changes = original(self)
        data = changes.undo[sqlite_undo.HEADER_BYTES :]
        if data and all(change.op == "DELETE" for change in apsw.Changeset.iter(data)):
            return NO_CHANGES
        return changes

    return finish


def _first_undo_only(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        return original(self, Undo(work.transaction_id, work.works[:1]))

    return undo


def _record_later(original: Any) -> Any:
    """The work is committed; its records come with the next batch."""

    def group(self: SqliteLog, *arguments: Any) -> Any:
        connection = self._file.connection
        late = _late.pop(self, [])
        if late:
            connection.executemany(sqlite_log._INSERT, late)
        before = self._next_seq
        answer = original(self, *arguments)
        if answer is None and self._next_seq > before:
            _late[self] = connection.execute("SELECT * FROM troth_records WHERE seq >= ?", (before,)).fetchall()
            connection.execute("DELETE FROM troth_records WHERE seq >= ?", (before,)).fetchall()
        return answer

    return group


_late: dict[SqliteLog, list[Any]] = {}


def _one_by_one(original: Any) -> Any:
    def write(self: SqliteLog, batch: Any, sync: bool, drop_below: int) -> Any:
        parts = [original(self, [append], sync, 0) for append in batch[:-1]] + [original(self, batch[-1:], sync, drop_below)]
        return sqlite_log.Written([part.seqs[0] for part in parts], [part.events[0] for part in parts])

    return write


def _unforced_prepared(original: Any) -> Any:
    def append(self: Machine, record: Any, *arguments: Any, force: bool = True, **options: Any) -> None:
        original(self, record, *arguments, force=force and not record.HasField("branch_prepared"), **options)

    return append


def _undone_without_record(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        answer = original(self, work)
        return Done(answer.event, False)

    return undo


_mutant("deletes are not captured", "remember how to undo", (Capture, "finish", _misses_deletes))
_mutant("the record is written after the work's transaction", "one local transaction", (SqliteLog, "_group", _record_later))
_mutant("one sync for each append", "synced with the group", (SqliteLog, "_write", _one_by_one))
_mutant("PREPARED asks for no sync", "durable before YES", (Machine, "append", _unforced_prepared))
_mutant("a sync is none", "durable before YES", (sqlite_log._SYNCHRONOUS, True, to("PRAGMA synchronous = OFF")))

# ---- finishing


def _works_kept(original: Any) -> Any:
    def finish(self: Machine, branch: Any, state: State) -> None:
        works = branch.works
        original(self, branch, state)
        if state is State.COMMITTED:
            branch.works = works

    return finish


def _works_kept_in_replay(original: Any) -> Any:
    def replay(m: Machine, record: Any) -> str:
        works = recovery._known(m, record.transaction_id, record.order).works
        answer: str = original(m, record)
        m.branches[answer].works = works
        return answer

    return replay


def _commit_of_another_life(original: Any) -> Any:
    def commit(m: Machine, b: Any, e: Any) -> None:
        if b.incarnation == m.incarnation:
            original(m, b, e)
        else:
            finishing._park(m, b, common_pb2.OUTCOME_COMMITTED, "it was prepared in another life")

    return commit


def _undo_dropped_at_the_vote(m: Machine, b: Any) -> None:
    b.works = ()


_mutant("commit keeps the undo", "commit drops the undo", (Machine, "finish", _works_kept))
_mutant(
    "the log's end of a branch does not drop its undo", "commit drops the undo",
    (recovery._REPLAY, "branch_finished", _works_kept_in_replay),
)  # fmt: skip
_mutant("a commit after a restart fails", "commit cannot fail", (TABLE[State.PREPARED], Kind.COMMIT, _commit_of_another_life))
_mutant("the undo is dropped at the vote", "abort restores", (voting, "_vote_yes", after(_undo_dropped_at_the_vote)))
_mutant("only the first call is undone", "abort restores", (Worker, "_undo", _first_undo_only))
_mutant("abort forgets to undo", "abort restores", (sqlite_work, "undo", to(nothing)))
_mutant("triggers fire during undo", "triggers off", (Schema, "any_triggers", to(lambda self, names: False)))
_mutant("foreign keys act during undo", "no actions", (Schema, "any_links", to(lambda self, names: False)))
_mutant("an undo without its record", "aborted in one transaction", (Worker, "_undo", _undone_without_record))

# ---- interactive calls


def _forced_active(original: Any) -> Any:
    def append(self: Machine, record: Any, *arguments: Any, force: bool = True, **options: Any) -> None:
        original(self, record, *arguments, force=force or record.HasField("branch_active"), **options)

    return append


def _active_forgotten(original: Any) -> Any:
    def resume(m: Machine, branch: Any) -> None:
        if branch.state is State.ACTIVE:
            m.finish(branch, State.ABORTED)
        else:
            original(m, branch)

    return resume


def _active_stays(original: Any) -> Any:
    def resume(m: Machine, branch: Any) -> None:
        if branch.state is not State.ACTIVE:
            original(m, branch)

    return resume


def _serves_early(original: Any) -> Any:
    def check_started(self: ParticipantCore) -> None:
        recovering, self._m.recovering = self._m.recovering, set()
        original(self)
        self._m.recovering = recovering

    return check_started


def _oldest_first(original: Any) -> Any:
    def undo(self: Worker, work: Undo) -> Any:
        return original(self, Undo(work.transaction_id, tuple(reversed(work.works))))

    return undo


_mutant("calls ask for a sync", "unforced", (Machine, "append", _forced_active))
_mutant("unprepared work is forgotten at recovery", "undone at recovery", (recovery, "_resume", _active_forgotten))
_mutant("unprepared work stays at recovery", "undone at recovery", (recovery, "_resume", _active_stays))
_mutant("it serves before all is undone", "undone at recovery", (ParticipantCore, "_check_started", _serves_early))
_mutant("undo runs oldest first", "newest first", (Worker, "_undo", _oldest_first))

# ---- row locks


def _dropped_at_the_vote(self: Worker, work: Execute, done: Any, changes: Any) -> None:
    if work.mode is Mode.PREPARE:
        self._locks.drop(work.transaction_id)


def _own_rows_conflict(original: Any) -> Any:
    return lambda self, rows, transaction_id: original(self, rows, "")


def _passed_over(self: RowLocks, transaction_id: str, rows: Any) -> None:
    free = [row for row in rows if row not in self._holder]
    self._holder.update(dict.fromkeys(free, transaction_id))
    self._rows.setdefault(transaction_id, []).extend(free)
    self._journal.append((True, transaction_id, free))


def _local_passes(original: Any) -> Any:
    def captured(self: Worker, capture: Capture, transaction_id: str) -> Any:
        if transaction_id:
            return original(self, capture, transaction_id)
        self._check_foreign_keys()
        return capture.finish()

    return captured


def _conflict_stays(original: Any) -> Any:
    def back(self: Worker, failed: Any, answer: Any) -> None:
        if failed.cause.reason == "CONFLICT":
            self._sql(sqlite_work._RELEASE)
        else:
            original(self, failed, answer)

    return back


def _not_retryable(original: Any) -> Any:
    def cause_of(error: Any, *arguments: Any) -> Any:
        cause = original(error, *arguments)
        cause.retryable = cause.retryable and cause.reason != "CONFLICT"
        return cause

    return cause_of


_mutant("row locks are not taken", "row locks", (RowLocks, "take", to(nothing)))
_mutant(
    "a row lock of another is passed over", "row locks",
    (RowLocks, "holder", to(lambda self, rows, transaction_id: None)), (RowLocks, "take", to(_passed_over)),
)  # fmt: skip
_mutant("local work passes row locks", "row locks", (Worker, "_captured", _local_passes))
_mutant("row locks go at the vote", "until the outcome", (Worker, "_executed", after(_dropped_at_the_vote)))
_mutant("row locks outlive the outcome", "until the outcome", (RowLocks, "drop", to(nothing)))
_mutant("a branch's own rows are in its way", "until the outcome", (RowLocks, "holder", _own_rows_conflict))
_mutant("a conflict leaves its changes", "inside the apply", (Worker, "_back", _conflict_stays))
_mutant("a conflict is not retryable", "conflict is retryable", (sqlite_work, "cause_of", _not_retryable))
_mutant("row locks are not taken again", "re-derived", (SqliteResource, "recover_locks", to(nothing)))

# ---- declared keys, and reading


def _keys_go(m: Machine, b: Any) -> None:
    m.release_locks(b)


def _own_keys_only(original: Any) -> Any:
    def begin(m: Machine, event: Any) -> None:
        original(m, event if isinstance(event, SchemaChange) else replace(event, keys=NO_KEYS))

    return begin


def _no_default(original: Any) -> Any:
    return lambda name, locks, checks: original(name, () if locks is None else locks, checks)


_mutant("declared keys go at the vote", "declared keys", (voting, "_vote_yes", after(_keys_go)))
_mutant("declared keys are not taken", "declared keys", (LockTable, "request", to(lambda self, owner, age, keys: Answer.GRANTED)))
_mutant("declared keys are not taken again", "declared keys", (LockTable, "take", to(nothing)))
_mutant("no keys by default", "whole by default", (registry, "_lock_function", _no_default))
_mutant("the whole resource is a key like others", "whole by default", (locks, "WHOLE_RESOURCE", to("not a key")))
_mutant("the file is not locked", "exclusive", (sqlite_file, "_lock", to(lambda path: None)))
_mutant("local work takes no locks", "nobody reads undecided data", (local, "begin", _own_keys_only))
