"""The format of a log inside an SQLite file, version 1.

    troth_meta      name and value: format_version, role, name, log_id, and identity_crc over these four
    troth_records   one row a record: seq, crc over seq and body, body (a serialised record)

Any connection will do whose `execute(sql)` gives rows: sqlite3's, or apsw's. A resource that keeps its log in the author's own
file uses the same tables (without identity_crc), so `troth.log.offline` reads either. A reader of any later version reads
`format_version` first, so that row stays what and where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from troth.errors import LogDamaged, LogForeign, Reason
from troth.log.contract import LogIdentity, StoredRecord

FORMAT_VERSION = 1
APPLICATION_ID = 0x54524F54
"""`TROT`: stamped in the header of files that hold a log and nothing else."""
PROBLEMS_MAX = 100
"""How many damaged records are told one by one."""
COMPLAINTS_MAX = 100
"""How many complaints of SQLite about a file are looked at."""
_OF_A_ROW = re.compile(r"CHECK constraint failed in |NULL value in |non-\w+ value in |(TEXT|NUMERIC) value in ")
"""What SQLite says of a row that breaks a constraint of its table."""

META_SQL = "CREATE TABLE troth_meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID"
RECORDS_SQL = "CREATE TABLE troth_records (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL)"
INSERT_SQL = "INSERT INTO troth_records (seq, crc, body) VALUES (?, ?, ?)"
DROP_SQL = "DELETE FROM troth_records WHERE seq < ?"
SELECT_SQL = "SELECT seq, crc, body FROM troth_records ORDER BY seq"
_TABLES = {"troth_meta": META_SQL, "troth_records": RECORDS_SQL}

Execute = Callable[..., Iterable[Any]]
"""`connection.execute`."""


def checksum(seq: int, body: bytes) -> int:
    """What the column `crc` holds: a body that stands at another seq does not match either."""
    return crc32(body, seq & 0xFFFFFFFF)


def create(execute: Execute, identity: LogIdentity) -> None:
    """Make the two tables; the caller begins and ends the transaction."""
    execute(META_SQL)
    execute(RECORDS_SQL)
    stamps = _stamps(identity) | {"identity_crc": _identity_crc(identity)}
    for name, value in stamps.items():
        execute("INSERT INTO troth_meta VALUES (?, ?)", (name, value))


def read_identity(execute: Execute, path: Path) -> LogIdentity:
    """Who the log belongs to. Raises `LogForeign` (no log, or a newer format) or `LogDamaged`."""
    tables = dict(execute("SELECT name, sql FROM sqlite_master WHERE name IN ('troth_meta', 'troth_records')"))
    of_its_own = next(iter(execute("PRAGMA application_id")))[0] == APPLICATION_ID
    if "troth_meta" not in tables and not of_its_own:
        raise LogForeign(Reason.LOG_FOREIGN, f"{path} is an SQLite file, but holds no log of Troth")
    stamps = dict(execute("SELECT name, value FROM troth_meta")) if "troth_meta" in tables else {}
    version = stamps.get("format_version")
    if isinstance(version, str) and version.isdecimal() and int(version) > FORMAT_VERSION:
        raise LogForeign(Reason.LOG_TOO_NEW, f"{path} has format {version}, this version reads up to format {FORMAT_VERSION}")
    if tables != _TABLES:
        raise DamagedAt(path, "its schema", "the tables of the log are not as they were made")
    role, name, log_id = (str(stamps.get(stamp)) for stamp in ("role", "name", "log_id"))
    identity = LogIdentity(role, name, log_id, FORMAT_VERSION)
    expected = _identity_crc(identity) if of_its_own else stamps.get("identity_crc")
    if _stamps(identity).items() - stamps.items() or stamps.get("identity_crc") != expected:
        raise DamagedAt(path, "table troth_meta", "the identity is not complete, or does not match its checksum")
    return identity


def check_identity(identity: LogIdentity, path: Path, role: str, name: str) -> None:
    """Raise `LogForeign` when the log belongs to somebody else."""
    if (identity.role, identity.name) != (role, name):
        raise LogForeign(
            Reason.LOG_FOREIGN,
            f"{path} is the log of the {identity.role} {identity.name!r}, not of the {role} {name!r}",
        )


def check_structure(execute: Execute, path: Path) -> None:
    """Raise `LogDamaged` when SQLite finds the file malformed: pages lost, used twice, or out of order. A row of an author's table
    that breaks a constraint is no damage, and his own affair: SQLite names such rows behind all that is wrong with pages."""
    complaints = [str(line) for (line,) in execute(f"PRAGMA quick_check({COMPLAINTS_MAX})")]
    damage = [line for line in complaints if line != "ok" and not _OF_A_ROW.match(line)]
    if damage:
        raise DamagedAt(path, "its pages", "; ".join(damage[:3]))


def check_rows(rows: Iterable[Any]) -> tuple[list[StoredRecord], list[tuple[str, str]]]:
    """The records, and the (place, problem) of each damaged one. A log has no gaps, wherever its head is."""
    records: list[StoredRecord] = []
    problems: list[tuple[str, str]] = []
    expected = None
    for seq, crc, body in rows:
        if expected is not None and seq != expected:
            missing = f"record {expected}" if seq == expected + 1 else f"records {expected} to {seq - 1}"
            problems.append((missing, f"missing before record {seq}"))
        if not isinstance(body, bytes) or crc32(body, seq & 0xFFFFFFFF) != crc:
            problems.append((f"record {seq}", "the body does not match its checksum"))
        else:
            records.append(StoredRecord(seq, body))
        if len(problems) >= PROBLEMS_MAX:
            break
        expected = seq + 1
    return records, problems


def read_records(rows: Iterable[Any], path: Path) -> list[StoredRecord]:
    """The rows of `SELECT_SQL` as records. Raises `LogDamaged`, with the place."""
    records, problems = check_rows(rows)
    if problems:
        raise DamagedAt(path, *problems[0])
    if records and records[0].seq < 1:
        raise DamagedAt(path, f"record {records[0].seq}", "the first record of a log has a seq of 1 or more")
    return records


class DamagedAt(LogDamaged):
    """A damaged log, with the place apart."""

    def __init__(self, path: Path, place: str, what: str) -> None:
        super().__init__(
            Reason.LOG_DAMAGED,
            f"{path} is damaged at {place}: {what}",
            hint=f"Nothing was changed. Keep a copy of the file and its -wal, look with `troth log verify {path}`, "
            "and restore a backup.",
        )
        self.place = place
        self.what = what


def _stamps(identity: LogIdentity) -> dict[str, str]:
    return {
        "format_version": str(identity.format_version),
        "role": identity.role,
        "name": identity.name,
        "log_id": identity.log_id,
    }


def _identity_crc(identity: LogIdentity) -> str:
    return str(crc32("\n".join(_stamps(identity).values()).encode()))
