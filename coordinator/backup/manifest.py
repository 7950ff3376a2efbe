"""A backup: a directory with one file for each log, and `backup.json`, which says what each is and its checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.backup import copying
from coordinator.history.sqlite import FILE as HISTORY_FILE
from troth import __version__
from troth.errors import ConfigError, LogDamaged, LogError, LogFailed, LogForeign, Reason
from troth.log import files

FORMAT = 1
MANIFEST_FILE = "backup.json"
IDENTITY_FILE = "identity.db"
"""A participant's, beside the database that holds its branches."""
HISTORY = "history"
"""The role of what is no log: the index of what is over."""
ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a backup."""

    file: str
    came_from: str
    """Its absolute path at the time."""
    role: str
    """coordinator, participant, resource (a participant's own database), or history."""
    name: str
    """Of the coordinator or the participant."""
    log_id: str
    records: int
    last_seq: int
    """The position that the log had."""
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made, or read."""

    directory: Path
    made_at_ms: int
    software: str
    entries: tuple[Entry, ...]


def find(sources: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The databases that are named, and those of the directories that are. Raises `ConfigError`."""
    named: list[Path] = []
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.glob("*.db") if path.is_file())
            if not inside:
                raise ConfigError(f"{source} has no file *.db", hint="Name a data directory, or the files themselves.")
            found += inside
        else:
            named.append(source)
    names = [path.name for path in (*named, *found)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"two files are called {min(twice)}", hint="Make a backup of each process, each in its own directory.")
    return named, found


def make(sources: Sequence[Path], directory: Path) -> tuple[Backup, tuple[Path, ...]]:
    """Make a backup in a directory that is not there yet; it appears whole. Returns it, and what was left out, which is no log.
    Raises `LogError` and `ConfigError`."""
    named, found = find(sources)
    if directory.exists():
        raise ConfigError(f"{directory} is there already", hint="A backup never replaces another: name a new directory.")
    files.make_directory(directory.parent)
    building = directory.with_name(directory.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    files.make_directory(building)
    try:
        made_at_ms = time.time_ns() // 1_000_000
        entries, left_out = _copy_all(named, found, building)
        backup = Backup(directory, made_at_ms, __version__, entries)
        _write(backup, building)
        building.rename(directory)
        files.sync(directory.parent)
    except OSError as error:
        raise files.from_error(directory, error, "written") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return backup, left_out


def _copy_all(named: list[Path], found: list[Path], building: Path) -> tuple[tuple[Entry, ...], tuple[Path, ...]]:
    """Copy each; of a participant's two files no start may lie between the copies."""
    paths = sorted((*named, *found), key=lambda path: path.name == IDENTITY_FILE)
    identity = paths[-1] if paths and paths[-1].name == IDENTITY_FILE else None
    for _ in range(ATTEMPTS_MAX):
        before = copying.copy_log(identity, building / IDENTITY_FILE).last_seq if identity else 0
        entries: list[Entry] = []
        left_out: list[Path] = []
        for path in paths:
            try:
                entries.append(_copy_one(path, building / path.name))
            except LogForeign:
                if path in named:
                    raise
                (building / path.name).unlink(missing_ok=True)
                files.wal_path(building / path.name).unlink(missing_ok=True)
                left_out.append(path)
        if identity is None or entries[-1].last_seq == before:
            break
    else:
        raise LogFailed(Reason.LOG_FAILED, f"{identity} was begun anew each time it was copied", hint="Its process keeps starting.")
    if not entries:
        raise ConfigError("none of these files is a log of Troth", hint="Name a data directory, or the files themselves.")
    return tuple(entries), tuple(left_out)


def _copy_one(source: Path, target: Path) -> Entry:
    where = str(source.resolve())
    if source.name == HISTORY_FILE:
        copying.copy_pages(source, target)
        _check_history(source, target)
        copying.fold(target)
        return Entry(target.name, where, HISTORY, "", "", 0, 0, target.stat().st_size, _sha256(target))
    found = copying.copy_log(source, target)
    assert found.identity is not None, "a log without problems has an identity"
    one = found.identity
    size, digest = target.stat().st_size, _sha256(target)
    return Entry(target.name, where, one.role, one.name, one.log_id, found.records, found.last_seq, size, digest)


def _check_history(source: Path, target: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(target)) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise files.from_error(source, error, "opened") from error
    if said != "ok":
        raise LogDamaged(Reason.LOG_DAMAGED, f"{source}: {said}")


def _write(backup: Backup, building: Path) -> None:
    document = {
        "format": FORMAT, "made_at_ms": backup.made_at_ms, "software": backup.software,
        "files": [asdict(entry) for entry in backup.entries],
    }  # fmt: skip
    path = building / MANIFEST_FILE
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    files.sync(path)
    files.sync(building)


def read(directory: Path) -> Backup:
    """Read what a backup has, and compare every checksum. Raises `LogError`."""
    path = directory / MANIFEST_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] > FORMAT:
            raise LogForeign(Reason.LOG_TOO_NEW, f"{path} has format {document['format']}; this version reads up to {FORMAT}")
        entries = tuple(Entry(**entry) for entry in document["files"])
        backup = Backup(directory, int(document["made_at_ms"]), str(document["software"]), entries)
    except OSError as error:
        raise LogError(Reason.LOG_FOREIGN, f"{directory} is no backup: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LogDamaged(Reason.LOG_DAMAGED, f"{path} is not as it was written: {error}") from error
    for entry in entries:
        if Path(entry.file).name != entry.file or not (directory / entry.file).is_file():
            raise LogDamaged(Reason.LOG_DAMAGED, f"{directory / entry.file} is not there")
        if _sha256(directory / entry.file) != entry.sha256:
            raise LogDamaged(Reason.LOG_DAMAGED, f"{directory / entry.file} is not as it was written: its SHA-256 differs")
    return backup


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
