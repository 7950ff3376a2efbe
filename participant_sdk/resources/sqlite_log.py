"""The log in the author's own file: one batch is one local transaction, with records and work in it.

A group that loses its transaction (an author's `INSERT OR ROLLBACK`) has done nothing, and nothing of it was said. It is run
again: first what came before the offender, then the rest without it. So no append runs more than twice in a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
from google.protobuf.message import Message

from participant_sdk.resources.contract import OperationRegistry
from participant_sdk.resources.sqlite_database import FATAL, Database, log_failed
from participant_sdk.resources.sqlite_file import SqliteFile
from participant_sdk.resources.sqlite_guard import Guard, Rules
from participant_sdk.resources.sqlite_locks import RowLocks
from participant_sdk.resources.sqlite_schema import Schema
from participant_sdk.resources.sqlite_work import GroupLost, Limits, Worker
from troth.errors import ConfigError, LogError, LogFailed, Reason, TrothError
from troth.log.contract import LogIdentity, StoredRecord, Written
from troth.log.schema import checksum
from troth.logs import get_logger
from troth.ready import Append, Event
from troth.v1 import record_pb2

_INSERT = "INSERT INTO troth_records VALUES (?, ?, ?)"
_DROP = "DELETE FROM troth_records WHERE seq < ?"
_BEGIN = "BEGIN IMMEDIATE"
_COMMIT = "COMMIT"
_ROLLBACK = "ROLLBACK"
_SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}
SCHEMA_SECONDS_MAX = 3600.0

_log = get_logger("participant_sdk.sqlite")


class SqliteLog:
    """The log and the worker on one file. Every method runs on the file's thread."""

    def __init__(self, path: Path, participant: str, operations: OperationRegistry, limits: Limits) -> None:
        self._file = file = SqliteFile(path)
        try:
            self.locks = RowLocks()
            self._schema = Schema(file.connection)
            self._guard = Guard(file.connection, self._schema)
            self._database = Database(file.connection, self._guard)
            self._worker = Worker(file.connection, self._database, self._schema, self.locks, operations, participant, limits)
            self._sql = file.connection.cursor().execute
            self._synchronous = True
            self._unsynced = False
            self._next_seq = 1
            self._failure: TrothError | None = None
            self.seal: Callable[[Message], bytes] | None = None
            """See `troth.log.contract.Log`."""
            self.identity: LogIdentity = file.identify(participant)
        except BaseException:
            file.close()
            raise

    def read(self, schema_script: str) -> list[StoredRecord]:
        """All records, after the schema script has been run if it is new. Raises `LogError`, `ConfigError`."""
        records, self._next_seq = self._file.records()
        self._schema.read()
        self._run_schema(schema_script, records)
        return records

    def close(self) -> None:
        """Release the file."""
        self._worker.close()
        self._file.close()

    # ---- writing

    def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int) -> Written:
        """One batch; see `troth.log.contract.Log.write`."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._write(batch, sync, drop_below)
        except TrothError as error:
            self._failure = error
        except Exception as error:  # ours or SQLite's: either way nobody knows what is in the file
            _log.critical("the log failed", exc_info=error)
            what = f"{type(error).__name__}: {error}"
            self._failure = LogFailed(Reason.LOG_FAILED, f"{self._file.path} cannot be written: {what}")
        raise self._failure

    def _write(self, batch: Sequence[Append], sync: bool, drop_below: int) -> Written:
        self._set_synchronous(sync)
        written = _Batch(batch)
        start, end = 0, len(batch)
        while start < end:
            drop = drop_below if end == len(batch) else 0
            offender = self._group(written, start, end, drop)
            if offender is None:
                start, end = end, len(batch)
            else:
                self._after_loss()
                end = offender if offender > start else len(batch)
        self._settle(sync)
        return Written(written.seqs, written.events)

    def _group(self, written: _Batch, start: int, end: int, drop_below: int) -> int | None:
        """Write appends `start` to `end` in one transaction; returns the offender's index if that was lost."""
        self._sql(_BEGIN)
        rows: list[tuple[int, int, bytes]] = []
        seq = self._next_seq
        for index in range(start, end):
            try:
                keep = written.run(index, self._worker)
            except GroupLost as lost:
                _log.warning("an operation ended the batch's transaction; the batch is run again without it")
                written.refuse(index, lost.answer)
                return index
            if keep:
                record = written.batch[index].record
                assert record is not None
                body = record.SerializeToString() if self.seal is None else self.seal(record)
                rows.append((seq, checksum(seq, body), body))
                written.seqs[index] = seq
                seq += 1
            else:
                written.seqs[index] = 0
        self._file.connection.executemany(_INSERT, rows)
        if drop_below:
            # Never the newest: a start finds in it how far the log is.
            self._sql(_DROP, (min(drop_below, seq - 1),))
            self._file.set_meta("next_seq", str(seq))
        if not self._commit():
            return self._refuse_all(written, start, end)
        self._file.places.check()
        self._unsynced = self._unsynced or not self._synchronous
        if rows and self._synchronous:
            self._unsynced = False
        self._next_seq = seq
        self.locks.keep_group()
        return None

    def _commit(self) -> bool:
        """Commit the group; says whether it is committed. An I/O error is raised, and ends the log."""
        try:
            self._sql(_COMMIT)
        except FATAL as error:
            raise log_failed(error, "committing a batch") from error
        except apsw.Error as error:
            _log.error("a batch could not be committed", exc_info=error)
            if self._file.connection.in_transaction:
                self._sql(_ROLLBACK)
            return False
        return True

    def _refuse_all(self, written: _Batch, start: int, end: int) -> int:
        """Nobody knows whose fault it was: all new work of the group is refused, and the rest is written again."""
        found = False
        for index in range(start, end):
            answer = None if index in written.refused else self._worker.refuse(written.batch[index].apply)
            if answer is not None:
                written.refuse(index, answer)
                found = True
        if not found:
            raise LogFailed(Reason.LOG_FAILED, f"{self._file.path}: records alone could not be committed")
        return start

    def _after_loss(self) -> None:
        self.locks.undo_group()
        self._schema.read()

    def _set_synchronous(self, sync: bool) -> None:
        if sync != self._synchronous:
            self._sql(_SYNCHRONOUS[sync])
            self._synchronous = sync

    def _settle(self, sync: bool) -> None:
        """A batch that wrote nothing of its own syncs nothing; what was written unsynced before it must not wait."""
        if sync and self._unsynced:
            self._file.set_meta("next_seq", str(self._next_seq))
            self._unsynced = False

    # ---- the author's schema

    def _run_schema(self, script: str, records: Sequence[StoredRecord]) -> None:
        digest = hashlib.sha256(script.encode()).hexdigest()
        if not script.strip() or self._file.meta("schema_digest") == digest:
            return
        before, rows_before = self._schema.digests(), self._file.connection.total_changes()
        self._sql(_BEGIN)
        try:
            self._execute_script(script)
            self._schema.read()
            rows = self._file.connection.total_changes() - rows_before
            self._check_undecided(before, rows, records)
            self._file.set_meta("schema_digest", digest)
            self._sql(_COMMIT)
        except BaseException as error:
            if self._file.connection.in_transaction:
                self._sql(_ROLLBACK)
            if isinstance(error, apsw.Error) and not isinstance(error, FATAL):
                raise ConfigError(f"the schema script fails: {error}", hint="Correct SqliteResource(schema=...).") from None
            raise

    def _execute_script(self, script: str) -> None:
        use = self._database.begin_use(Rules.SCHEMA, SCHEMA_SECONDS_MAX)
        try:
            self._database.execute(script)
        except TrothError:
            if use.denial is None:
                raise
            raise ConfigError(
                f"the schema script may not do this: {use.denial.what}",
                hint="Leave it out of SqliteResource(schema=...).",
            ) from None
        finally:
            self._database.end_use()

    def _check_undecided(self, before: dict[str, bytes], rows: int, records: Sequence[StoredRecord]) -> None:
        """Work that is not decided could not be undone any more after a change of its tables, or of its rows."""
        after = self._schema.digests()
        changed = sorted(name for name, digest in before.items() if after.get(name) != digest)
        if rows:
            changed.append(f"{rows} rows")  # nothing is locked yet: they may be anybody's
        undecided = _undecided(records)
        if changed and undecided:
            raise LogError(
                Reason.SCHEMA_MISMATCH,
                f"the schema script changes {', '.join(changed)} while {len(undecided)} branches are unfinished",
                hint="Start with the former schema until they are finished, then with this one.",
            )


class _Batch:
    """What is known so far of a batch that is being written."""

    def __init__(self, batch: Sequence[Append]) -> None:
        self.batch = batch
        self.seqs: list[int] = [0] * len(batch)
        self.events: list[Event | None] = [None] * len(batch)
        self.refused: set[int] = set()

    def refuse(self, index: int, answer: Event) -> None:
        """Never run this one again."""
        self.refused.add(index)
        self.events[index] = answer

    def run(self, index: int, worker: Worker) -> bool:
        """Run one append's work, if it has any; says whether there is a record to write."""
        append = self.batch[index]
        if index in self.refused:
            return False
        if append.apply is None:
            return append.record is not None
        answer = worker.run(append.apply, append.record)
        self.events[index] = answer.event
        return answer.keep_record and append.record is not None


def _undecided(records: Sequence[StoredRecord]) -> set[str]:
    """The transactions whose branches the records leave unfinished."""
    unfinished: set[str] = set()
    for stored in records:
        record = record_pb2.ParticipantRecord.FromString(stored.body)
        kind = record.WhichOneof("kind")
        if kind in ("branch_active", "branch_prepared"):
            unfinished.add(getattr(record, kind).transaction_id)
        elif kind == "branch_finished":
            unfinished.discard(record.branch_finished.transaction_id)
    return unfinished
