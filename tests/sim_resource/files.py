"""What survives a crash: the real files, seen through a VFS that keeps what was synced.

A killed process leaves the files as they are: they are copied, and the next life opens the copy. A power failure leaves what was
synced, and any part of the rest.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import apsw

from participant_sdk.core.work import Execute
from participant_sdk.resources import sqlite_file
from participant_sdk.resources.sqlite import SqliteResource
from participant_sdk.resources.sqlite_log import SqliteLog
from tests.sim_resource.author import Operations
from tests.sim_resource.drawn import Variant
from troth.errors import LogError, LogFailed, LogLocked, Reason
from troth.log.contract import StoredRecord
from troth.ready import Append, Event

PARTICIPANT = "bank"

class FilesFailed(Exception):
    """The log has failed, as it was made to: the process must stop."""


class _Watched(apsw.VFS):
    """One of SQLite's own, with syncs told."""

    def __init__(self, base: str) -> None:
        self._base = base
        super().__init__(f"troth-watched-{base}", base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        """Open a file of the database."""
        return _WatchedFile(self._base, name, flags)


class _WatchedFile(apsw.VFSFile):
    def __init__(self, base: str, name: Any, flags: list[int]) -> None:
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__(base, name, flags)

    def xSync(self, flags: int) -> None:
        """Keep what is durable now; nothing here needs to outlive this machine's power."""
        _synced[self._path] = _content(self._path)
        _syncs.append(self._path)


def _content(name: str) -> bytes:
    """What a file holds; one that is not there, or that a stranger has removed, holds nothing."""
    return Path(name).read_bytes() if os.path.exists(name) else b""


_synced: dict[str, bytes] = {}
"""What was synced last, of each file."""
_syncs: list[str] = []
"""The syncs of the present write."""


@cache
def _watched(base: str) -> _Watched:
    return _Watched(base)


@contextmanager
def _watching() -> Iterator[None]:
    """Files are opened through the watching VFS."""
    real = apsw.Connection

    def connect(path: str, **settings: Any) -> apsw.Connection:
        base = settings.get("vfs") or "unix"
        _watched(base)
        return real(path, **(settings | {"vfs": f"troth-watched-{base}"}))

    apsw.Connection = connect  # type: ignore[misc,assignment]  # for as long as the file is being opened
    try:
        yield
    finally:
        apsw.Connection = real  # type: ignore[misc]  # as it was


def _first_file(directory: Path, variant: Variant) -> bytes:
    """The file after the very first start."""
    path = directory / "template.db"
    connection = apsw.Connection(str(path))
    variant.fill(connection)
    connection.close()
    resource = SqliteResource(path, schema=variant.script())
    resource.bind(PARTICIPANT, Operations())
    resource._open()
    resource._opened().close()
    content = path.read_bytes()
    path.unlink()
    return content


class Files:
    """The file of one service, life after life, and the resource on it."""

    def __init__(self, directory: Path, operations: Operations, variant: Variant) -> None:
        self.directory = directory
        self.operations = operations
        self.schema = variant.script()
        self.new_script = ""
        """The service comes with this at its next start, when it may."""
        self.script_ran = ""
        """What the present life has run at its start."""
        self.script_refused = False
        """Whether it was refused, at this start."""
        self.life = 0
        self.resource: SqliteResource | None = None
        self.on_written: Callable[[Sequence[Append], Sequence[int], Sequence[Event | None]], None] = lambda *_: None
        self.lose_next_commit = False
        self.power_failures = 0
        self.syncs_of_batch = 0
        self.wal_bytes = 0
        """Of the write-ahead log, behind the last batch."""
        self.synced = _synced
        self._keep({"": _first_file(directory, variant)})

    @property
    def path(self) -> Path:
        """The present life's file."""
        return self.directory / f"life{self.life}.db"

    @property
    def log(self) -> SqliteLog:
        """What the resource is on its thread."""
        assert self.resource is not None
        return self.resource._opened()

    def read(self) -> tuple[list[int], list[bytes]]:
        """Open the file; all records and their numbers."""
        former = self.schema
        self.schema, self.new_script = self.new_script or former, ""
        try:
            records = self._open()
        except LogError as error:
            if self.schema == former or error.reason is not Reason.SCHEMA_MISMATCH:
                raise
            self.script_refused, self.schema = True, former
            records = self._open()
        self.script_ran = self.schema if self.schema != former else ""
        return [record.seq for record in records], [record.body for record in records]

    def _open(self) -> Sequence[StoredRecord]:
        self.resource = SqliteResource(self.path, schema=self.schema)
        self.resource.bind(PARTICIPANT, self.operations)
        with _watching():
            return self.resource._open()[1]

    def write(self, batch: Sequence[Append], *, sync: bool, drop_below: int) -> tuple[list[int], list[Event | None]]:
        """Carry a batch out. The log may be told that its COMMIT has failed."""
        failing = self.lose_next_commit and any(isinstance(append.apply, Execute) for append in batch)
        if failing:
            self.lose_next_commit = False
            _FailingCommit(self.log)
        _syncs.clear()
        try:
            written = self.log.write(batch, sync=sync, drop_below=drop_below)
        except LogFailed:
            if not failing:
                raise
            self.operations.runs.clear()
            raise FilesFailed from None  # nothing but records was left in the group: the process has to stop
        checkpoints = sum(not name.endswith("-wal") for name in _syncs)
        self.syncs_of_batch = len(_syncs) - 2 * checkpoints  # each syncs the write-ahead log and then the file
        self.wal_bytes = len(_content(f"{self.path}-wal"))
        self.on_written(batch, written.seqs, written.events)
        return list(written.seqs), list(written.events)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, as a COMMIT does now and then."""
        sqlite_file._checkpoint(self.log._file.connection, "main", sqlite_file._CHECKPOINT_PAGES)

    def crash(self, roll: random.Random) -> None:
        """The process, or the machine, is gone."""
        power = roll.random() < 0.4
        self.power_failures += power
        left = self._left(roll, power)
        self.close()
        self._keep(left)

    def close(self) -> None:
        """Let go of the file, and remove it: a crash has copied it."""
        if self.resource is not None:
            log, self.resource = self.log, None
            log.close()
            for name in (str(self.path), f"{self.path}-wal"):
                self.synced.pop(name, None)
                if os.path.exists(name):
                    os.unlink(name)

    def _left(self, roll: random.Random, power: bool) -> dict[str, bytes]:
        left = {}
        for suffix in ("", "-wal"):
            name = f"{self.path}{suffix}"
            now = _content(name)
            if power:
                synced = self.synced.get(name, b"")
                cut = roll.choice([0, 0, len(now), roll.randint(0, len(now))])
                now = now[:cut] + synced[cut:]
            left[suffix] = now
        return left

    def _keep(self, left: dict[str, bytes]) -> None:
        """The next life's files."""
        self.life += 1
        for suffix, content in left.items():
            if content:
                name = f"{self.path}{suffix}"
                Path(name).write_bytes(content)
                self.synced[name] = content

    # ---- others

    def change_behind(self, sql: str) -> None:
        """Somebody changes the file while no service runs on it."""
        stranger = sqlite3.connect(self.path)
        stranger.execute(sql)
        stranger.commit()
        stranger.close()
        self.all_synced()

    def all_synced(self) -> None:
        """Whoever changed the file has synced it."""
        for name in (str(self.path), f"{self.path}-wal"):
            self.synced.pop(name, None)
            if os.path.exists(name):
                self.synced[name] = Path(name).read_bytes()

    def stranger_gets_in(self, roll: random.Random) -> str:
        """Somebody else tries to open the file; says what came of it, or nothing when they were kept out."""
        if roll.random() < 0.5:
            other = SqliteResource(self.path, schema=self.schema)
            other.bind(PARTICIPANT, self.operations)
            try:
                other._open()
            except LogLocked:
                return ""
            other._opened().close()
            return "a second resource opened it"
        log = Path(f"{self.path}-wal")
        was_there = log.exists()
        found = "another library read it"
        stranger = sqlite3.connect(self.path, timeout=0)
        try:
            stranger.execute("SELECT count(*) FROM plain").fetchall()
        except sqlite3.OperationalError:
            found = ""
        stranger.close()
        return "another library removed its write-ahead log" if was_there and not log.exists() else found


class _FailingCommit:
    """Makes the next COMMIT fail, as a deferred constraint would that nobody had noticed."""

    def __init__(self, log: SqliteLog) -> None:
        self._log, self._sql = log, log._sql
        log._sql = self  # type: ignore[assignment]  # for one COMMIT

    def __call__(self, sql: str, *arguments: Any) -> Any:
        if sql.startswith("COMMIT"):
            self._log._sql = self._sql
            raise apsw.ConstraintError("the COMMIT fails")
        return self._sql(sql, *arguments)
