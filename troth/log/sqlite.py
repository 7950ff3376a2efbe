"""The log in an SQLite file, through aiosqlite: the one for production.

One row a record, one connection that has the file to itself, `synchronous=FULL`: a commit returns after the write-ahead log was
synced. One batch is one transaction and one hop to the thread.

An unsynced batch waits in memory for the next synced one and shares its transaction. It costs nothing then, and every
transaction in the write-ahead log has been synced before the next began; `troth.log.wal` tells damage from a torn end by that.

SQLite's automatic checkpoint ignores I/O errors, so it is off; the checkpoint here is explicit, and its error fails the log.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiosqlite

from troth import forks
from troth.errors import LogError, LogFailed, Reason
from troth.log import files, schema
from troth.log.contract import LogIdentity, StoredRecord, UncontestedLog, Written
from troth.log.schema import checksum
from troth.ready import Append

Row = tuple[int, int, bytearray]
"""Seq, checksum and body. sqlite3 takes a bytearray as it is, and looks for an adapter for each `bytes`: that took a quarter of
the time of a row."""

CHECKPOINT_BYTES = 8 * 1024 * 1024
"""How much is written to the write-ahead log before it is moved into the file, estimated."""
UNSYNCED_RECORDS_MAX = 4096
"""How many unsynced records wait in memory before they are written without being asked."""
_BATCH_PAGES = 4
"""Pages that a batch changes beside those that its records fill, estimated."""

_SETTINGS = (
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA synchronous = FULL",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA cache_spill = OFF",  # a spilled page would be in the write-ahead log before its transaction commits
    "PRAGMA secure_delete = OFF",  # Debian's default would write every dropped page once more
    "PRAGMA fullfsync = ON",  # macOS: a plain fsync does not reach the disk there
    "PRAGMA checkpoint_fullfsync = ON",
    f"PRAGMA journal_size_limit = {2 * CHECKPOINT_BYTES}",
)


class Batch:
    """The rows of one transaction. Its `repr` shows no payload: aiosqlite logs what it executes."""

    __slots__ = ("drop_below", "rows")

    def __init__(self, rows: Sequence[Row], drop_below: int) -> None:
        self.rows = rows
        self.drop_below = drop_below

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"Batch({len(self.rows)} records)"


class LogConnection(sqlite3.Connection):
    """A connection whose `executemany` is one durable batch.

    aiosqlite carries one call of the connection to its thread and back. `executemany` is the public one that takes rows, so the
    whole transaction hangs on it; `sqlite3.connect(factory=...)` is how sqlite3 lets a connection be specialised.
    """

    written_bytes = 0
    broken = False
    places: files.StillThere

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """Insert the batch, drop the head, commit; all of it is synced on return. After an error nothing works any more."""
        if self.broken:
            raise sqlite3.OperationalError("an earlier write failed")
        assert isinstance(parameters, Batch)
        self.broken = True
        self.execute("BEGIN IMMEDIATE")
        cursor = super().executemany(sql, parameters.rows)
        cursor.close()  # an error's traceback may keep it, and an open cursor would keep the file open
        if parameters.drop_below:
            self.execute(schema.DROP_SQL, (parameters.drop_below,))
        self.execute("COMMIT")
        self.written_bytes += _BATCH_PAGES * files.PAGE_BYTES + sum(len(body) for _, _, body in parameters.rows)
        if self.written_bytes >= CHECKPOINT_BYTES:
            self.checkpoint("PASSIVE")
        self.places.check()
        self.broken = False
        return cursor

    def checkpoint(self, mode: str) -> None:
        """Move the write-ahead log into the file."""
        busy, frames, moved = self.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if busy or frames != moved:
            raise sqlite3.OperationalError("the write-ahead log could not be moved into the file")
        self.written_bytes = 0


class SqliteLog(UncontestedLog):
    """A `troth.log.contract.Log` in the file `path`, which belongs to `name` in the role `role`.

    `connection_type` lets tests put a connection that fails in its place.
    """

    def __init__(self, path: Path | str, *, role: str, name: str, connection_type: type[LogConnection] = LogConnection) -> None:
        self._path = Path(path)
        self._role = role
        self._name = name
        self._connection_type = connection_type
        self._connection: aiosqlite.Connection | None = None
        self._lock: files.FileLock | None = None
        self._loaded: tuple[LogIdentity, list[StoredRecord]] | LogError | None = None
        self._last_seq = 0
        self._unsynced: list[Row] = []
        self._drop_below = 0
        self._state = "new"

    # ---- opening

    async def open(self) -> tuple[LogIdentity, Sequence[StoredRecord]]:
        """See `Log.open`. Creates the directory (0700) and the file (0600) when they are not there."""
        assert self._state == "new", f"the log is {self._state}: a log is opened once"
        self._state = "opening"
        connecting = aiosqlite.connect(self._path, isolation_level=None, timeout=0, factory=self._load)
        opening = asyncio.ensure_future(connecting)
        try:
            self._connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])
            self._connection = opening.result()
            await self._release()
            raise
        if isinstance(self._loaded, LogError):
            await self._release()
            raise self._loaded
        assert self._loaded is not None
        (identity, records), self._loaded = self._loaded, None
        self._last_seq = records[-1].seq if records else 0
        self._state = "open"
        return identity, records

    def _load(self, *arguments: Any, **settings: Any) -> sqlite3.Connection:
        """Everything that opening means. sqlite3 calls it to make the connection, so it runs whole on aiosqlite's thread.

        It never raises: aiosqlite would not wait for the end of its thread then, and the thread would outlive the loop.
        """
        try:
            fresh = LogIdentity(self._role, self._name, secrets.token_hex(16), schema.FORMAT_VERSION)
            self._lock = files.prepare(self._path, fresh)
            connection = self._connection_type(*arguments, **settings)
            forks.keep_open(connection)
            try:
                self._loaded = self._check_and_read(connection)
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.close()
                raise
            return connection
        except LogError as error:
            self._loaded = error
        except Exception as error:
            self._loaded = files.from_error(self._path, error, "opened")
            self._loaded.__cause__ = error
        return sqlite3.connect(":memory:")

    def _check_and_read(self, connection: LogConnection) -> tuple[LogIdentity, list[StoredRecord]]:
        for setting in _SETTINGS:
            connection.execute(setting)
        identity = schema.read_identity(connection.execute, self._path)
        schema.check_identity(identity, self._path, self._role, self._name)
        schema.check_structure(connection.execute, self._path)
        records = schema.read_records(connection.execute(schema.SELECT_SQL).fetchall(), self._path)
        # From here on every frame of the write-ahead log is of this life: a torn end of the last one is gone.
        connection.checkpoint("TRUNCATE")
        connection.places = files.StillThere(self._path)
        return identity, records

    # ---- writing

    async def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int = 0) -> Written:
        """See `Log.write`. The newest record is never dropped: an empty log would number from 1 again."""
        if self._state != "open":
            raise LogFailed(Reason.LOG_FAILED, f"{self._path} cannot be written: the log is {self._state}")
        seqs = self._number(batch)
        self._drop_below = max(self._drop_below, min(drop_below, self._last_seq))
        if sync or len(self._unsynced) >= UNSYNCED_RECORDS_MAX:
            await self._commit()
        return Written(seqs, [None] * len(seqs))

    def _number(self, batch: Sequence[Append]) -> list[int]:
        seqs: list[int] = []
        last, rows, seal = self._last_seq, self._unsynced, self.seal
        for append in batch:
            assert append.apply is None, "this log cannot apply; see participant_sdk.resources.sqlite"
            record = append.record
            if record is None:
                seqs.append(0)
                continue
            last += 1
            seqs.append(last)
            body = record.SerializeToString() if seal is None else seal(record)
            rows.append((last, checksum(last, body), bytearray(body)))
        self._last_seq = last
        return seqs

    async def _commit(self) -> None:
        """Write all that waits. Whoever is cancelled here cancels nothing: the thread carries on, in order."""
        assert self._connection is not None
        batch, self._unsynced, self._drop_below = Batch(self._unsynced, self._drop_below), [], 0
        if not (batch.rows or batch.drop_below):
            return
        try:
            await self._connection.executemany(schema.INSERT_SQL, batch)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._state = "failed"
            raise files.from_error(self._path, error, "written") from error

    # ---- closing

    async def close(self) -> None:
        """See `Log.close`. Unsynced records are written first, unless the log has failed."""
        try:
            if self._state == "open":
                await self._commit()
        finally:
            await self._release()

    async def _release(self) -> None:
        """Give the file back. Closing moves only what had been synced, and of a failed log nothing is claimed."""
        self._state = "failed" if self._state == "failed" else "closed"
        connection, self._connection = self._connection, None
        lock, self._lock = self._lock, None
        try:
            if connection is not None:
                await connection.close()
        except sqlite3.Error as error:
            if self._state != "failed":
                raise files.from_error(self._path, error, "closed") from error
        finally:
            if lock is not None:
                lock.release()
