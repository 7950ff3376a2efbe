"""`SqliteResource`: the embedded default. Do the work, and remember how to undo it.

An operation runs once, in a savepoint, while a session records what it changes. Its change, the inverse of it, and the
branch's new state are one local transaction, synced together with everything else that waits. To commit is to drop the undo,
which cannot fail. To abort is to apply it. Rows that a branch changed are locked against all others until then.

The file belongs to this process alone: undecided changes are in it, and nobody may see them. The service reads and writes
its own data through `participant.read` and `participant.local`.

    sqlite.py           this file: the asyncio side
    sqlite_log.py       batches, groups, the schema script       (from here on everything is on the file's thread)
    sqlite_work.py      one piece of work in its savepoint
    sqlite_database.py  what the author's functions get as `db`
    sqlite_guard.py     what they may not do
    sqlite_undo.py      capture: what an undo is made of
    sqlite_restore.py   undo, and the proof that it restored everything
    sqlite_schema.py    which tables can be captured; fingerprints
    sqlite_locks.py     locks on changed rows
    sqlite_file.py      opening, identity, reading records
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from participant_sdk.resources.contract import OperationRegistry
from participant_sdk.resources.sqlite_database import Database
from participant_sdk.resources.sqlite_log import SqliteLog
from participant_sdk.resources.sqlite_work import Limits
from troth.log.contract import LogIdentity, StoredRecord, UncontestedLog, Written
from troth.ready import Append

__all__ = ["Database", "SqliteResource", "schema_change"]

_T = TypeVar("_T")


class SqliteResource(UncontestedLog):
    """A SQLite file as a participant's resource, and as the log of its branches (`AtomicResource`).

    `path`                    the file; created when it is not there, and an existing database is taken over.
    `schema`                  a script that is run at the first start with this very text: `CREATE TABLE IF NOT EXISTS ...`.
                              Every table that operations change needs a primary key that is NOT NULL.
    `operation_seconds_max`   a statement that is still running after this is broken off, and its operation refused.
    `results_bytes_max`       of what the operations of one call return together.

    Foreign keys are enforced. Deferred ones are checked at the end of each call.
    """

    atomic = True
    async_reason = "it would have to wait on the database's thread"
    batch_max = 512
    """Records of one batch: what a caller waits for at most, besides its own work."""

    def __init__(
        self,
        path: str | Path,
        *,
        schema: str = "",
        operation_seconds_max: float = 5.0,
        results_bytes_max: int = 1024 * 1024,
    ) -> None:
        self._path = Path(path)
        self._script = schema
        self._limits = Limits(operation_seconds_max, results_bytes_max)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="troth-sqlite")
        self._participant = ""
        self._operations: OperationRegistry | None = None
        self._log: SqliteLog | None = None
        self.seal: Callable[[Message], bytes] | None = None
        """See `Log`."""

    @property
    def results_bytes_max(self) -> int:
        """Bytes of what the operations of one call may return."""
        return self._limits.results_bytes_max

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def bind(self, participant: str, operations: OperationRegistry) -> None:
        """Learn the participant's name and operations; called once, before `open`."""
        self._participant = participant
        self._operations = operations

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """Lock, check and read the file; create it when it is not there. Raises `LogError`, `ConfigError`."""
        assert self._log is None, "the file is open"
        opening = asyncio.ensure_future(self._on_thread(self._open))
        try:
            return await asyncio.shield(opening)
        except BaseException:
            await asyncio.wait((opening,))  # whoever is cancelled does not stop the thread, which has the file then
            await self.close()
            raise

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """Write one batch and carry out its work; one hop to the thread. See `troth.log.contract.Log.write`."""
        log = self._opened()
        log.seal = self.seal
        return await self._on_thread(lambda: log.write(batch, sync=sync, drop_below=drop_below))

    async def close(self) -> None:
        """Release the file."""
        log, self._log = self._log, None
        try:
            if log is not None:
                await self._on_thread(log.close)
        finally:
            self._executor.shutdown(wait=False)

    def recover_locks(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        """Lock again the rows of an unfinished branch; after `open` and before the first `write`."""
        locks = self._opened().locks
        locks.take(transaction_id, rows)
        locks.keep_group()

    # ---- inside

    def _open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        assert self._operations is not None, "bind comes before open"
        log = SqliteLog(self._path, self._participant, self._operations, self._limits)
        try:
            records = log.read(self._script)
        except BaseException:
            log.close()
            raise
        self._log = log
        return log.identity, records

    def _opened(self) -> SqliteLog:
        assert self._log is not None, "the file is not open"
        return self._log

    async def _on_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


def schema_change(sql: str) -> Callable[[Database], Any]:
    """The function of a `LocalRun(schema=True)` that changes the schema by one or more statements."""
    return lambda db: db.execute(sql)
