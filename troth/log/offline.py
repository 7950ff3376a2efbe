"""The log of a process that does not run, for people: `troth log verify | dump | resolve`.

Reads a log of either side: a coordinator's, a participant's, or the one that a resource keeps in the author's file. Reading
works on a private copy and changes nothing; only `append_offline` opens the file itself.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

from troth.errors import LogError, LogForeign, Reason
from troth.log import files, schema, sealing
from troth.log.contract import LogIdentity, StoredRecord
from troth.v1 import record_pb2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a log."""

    place: str
    """Such as `record 17` or `byte 4128 (frame 2)`."""
    what: str


@dataclass(frozen=True, slots=True)
class DumpedRecord:
    """One record, decoded."""

    seq: int
    message: Message
    """A `CoordinatorRecord` or a `ParticipantRecord`, with the name of its key in place of each sealed value."""
    keys: frozenset[str]
    """The payload keys that it needs."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found. The log is sound when there are no problems."""

    path: Path
    identity: LogIdentity | None
    """`None` when it could not be read."""
    records: int
    first_seq: int
    """0 in an empty log."""
    last_seq: int
    torn_frames: int
    """Frames of an unfinished transaction at the end of the write-ahead log. The next start cuts them; nothing was promised."""
    problems: tuple[Problem, ...]
    keys: tuple[str, ...] = ()
    """The payload keys that its records need; nobody has to have them."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """All records of a log that can be read, and what cannot."""

    identity: LogIdentity
    records: tuple[DumpedRecord, ...]
    problems: tuple[Problem, ...]


def verify(path: Path) -> Verified:
    """Check everything that opening checks, and go on after the first problem. Raises `LogLocked` while a process has the log,
    and `LogError` when there is no file."""
    with _locked(path):
        return _verify(path)


def dump(path: Path) -> Dumped:
    """Read all records. Raises `LogError` when not even the identity can be read; damaged records are left out and told."""
    with _locked(path):
        found = _inspect(path)
    if found.identity is None:
        raise schema.DamagedAt(path, found.problems[-1].place, found.problems[-1].what)
    decoded = [(record.seq, decode(found.identity, record)) for record in found.records]
    records = tuple(_dumped(seq, message) for seq, message in decoded if message is not None)
    return Dumped(found.identity, records, tuple(found.problems))


def _dumped(seq: int, message: Message) -> DumpedRecord:
    keys = frozenset(sealing.keys_of(message))
    sealing.show_sealed(message)
    return DumpedRecord(seq, message, keys)


def append_offline(path: Path, body: bytes) -> int:
    """Append one serialised record, durably, to a sound log that no process has; returns its seq. Raises `LogError`."""
    with _locked(path):
        verified = _verify(path)
        if verified.problems:
            raise schema.DamagedAt(path, verified.problems[0].place, verified.problems[0].what)
        seq = verified.last_seq + 1
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=0)
            try:
                for setting in ("locking_mode = EXCLUSIVE", "synchronous = FULL"):
                    connection.execute(f"PRAGMA {setting}")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(schema.INSERT_SQL, (seq, schema.checksum(seq, body), body))
                connection.execute("COMMIT")
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise files.from_error(path, error, "written") from error
    return seq


def stand_in(path: Path, name: str, log_id: str, body: bytes) -> None:
    """Make the log of a coordinator that has the identity of one that is lost, and one record. Raises `LogError`; nothing is ever
    replaced."""
    if path.exists():
        raise LogError(Reason.LOG_FOREIGN, f"{path} is there already", hint="A log is never replaced: name another path.")
    files.prepare(path, LogIdentity("coordinator", name, log_id, schema.FORMAT_VERSION)).release()
    append_offline(path, body)


def decode(identity: LogIdentity, record: StoredRecord) -> Message | None:
    """The record as its message, or `None` when it is none."""
    kind = record_pb2.CoordinatorRecord if identity.role == "coordinator" else record_pb2.ParticipantRecord
    message: Message | None = sealing.parsed(kind, record.body)
    return message


@dataclass(slots=True)
class _Found:
    identity: LogIdentity | None = None
    records: list[StoredRecord] = field(default_factory=list)
    torn_frames: int = 0
    keys: set[str] = field(default_factory=set)
    """Payload keys that the records need."""
    problems: list[Problem] = field(default_factory=list)


def _verify(path: Path) -> Verified:
    found = _inspect(path)
    first, last = (found.records[0].seq, found.records[-1].seq) if found.records else (0, 0)
    keys = tuple(sorted(found.keys))
    return Verified(path, found.identity, len(found.records), first, last, found.torn_frames, tuple(found.problems), keys)


def _inspect(path: Path) -> _Found:
    """Look at everything, on a copy, and note what is wrong instead of stopping there."""
    found = _Found()
    with _private_copy(path) as copy:
        _note(found, lambda: files.check(copy))
        scanned = files.scan_wal(copy)
        found.torn_frames = scanned.torn_frames
        connection = sqlite3.connect(copy, isolation_level=None)
        try:
            _note(found, lambda: _read(found, connection, path))
        finally:
            connection.close()
    # A resource also writes unsynced transactions, of which a crash may tear several.
    if scanned.problem and not (found.identity and found.identity.role == "resource"):
        found.problems.insert(0, Problem(*scanned.problem))
    return found


def _read(found: _Found, connection: sqlite3.Connection, path: Path) -> None:
    found.identity = schema.read_identity(connection.execute, path)
    _note(found, lambda: schema.check_structure(connection.execute, path))
    found.records, problems = schema.check_rows(connection.execute(schema.SELECT_SQL))
    found.problems.extend(Problem(place, what) for place, what in problems)
    for record in found.records:
        message = decode(found.identity, record)
        if message is None:
            found.problems.append(Problem(f"record {record.seq}", "the body is no record"))
        else:
            found.keys |= sealing.keys_of(message)


def _note(found: _Found, look: Callable[[], None]) -> None:
    """Take a look, and note the problem that it raises."""
    try:
        look()
    except schema.DamagedAt as error:
        found.problems.append(Problem(error.place, error.what))
    except LogForeign as error:
        found.problems.append(Problem("its identity", error.message))
    except (sqlite3.Error, UnicodeError) as error:
        found.problems.append(Problem("its pages", str(error)))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Have the log to oneself, as against logs of Troth. Where no lock file can be made, nobody can be writing either."""
    if not path.is_file():
        raise LogError(Reason.LOG_FOREIGN, f"{path} is no file")
    lock = None
    try:
        lock = files.FileLock(path)
    except LogError as error:
        if error.reason is not Reason.LOG_READ_ONLY:
            raise
    try:
        files.check_unused(path)
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def _private_copy(path: Path) -> Iterator[Path]:
    """The file and its write-ahead log, where SQLite may do with them as it likes."""
    with tempfile.TemporaryDirectory(prefix="troth-log-") as directory:
        copy = Path(directory) / path.name
        for source, target in ((path, copy), (files.wal_path(path), files.wal_path(copy))):
            with suppress(FileNotFoundError):
                shutil.copyfile(source, target)
        yield copy
