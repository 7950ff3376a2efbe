"""Records, batches and storages for tests of logs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from troth.log.contract import Log, StoredRecord
from troth.log.memory import Disk, MemoryLog
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import record_pb2

ROLE, NAME = "coordinator", "c1"


def record(number: int, *, size: int = 0) -> record_pb2.CoordinatorRecord:
    """A record that says its number, with `size` bytes more."""
    claim = record_pb2.KeyClaim(body_hash=b"\xa5" * size)
    return record_pb2.CoordinatorRecord(at_ms=number, ended=record_pb2.Ended(transaction_id=f"t{number}", claim=claim))


def batch(*numbers: int, size: int = 0) -> list[Append]:
    """One append for each number."""
    return [Append(record(number, size=size), owner=f"t{number}") for number in numbers]


def numbers(records: Sequence[StoredRecord]) -> list[int]:
    """The numbers of stored records, in order."""
    return [record_pb2.CoordinatorRecord.FromString(stored.body).at_ms for stored in records]


class Store(Protocol):
    """Where logs live, and outlive each other."""

    def log(self, role: str = ROLE, name: str = NAME) -> Log:
        """Another log on the same storage."""

    def crash(self) -> None:
        """The process dies as it stands; logs made from now on see what it left."""


class FileStore:
    """SQLite files in a directory. A crash copies them as they are: that is what the next process finds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._life = 0
        self.path = directory / "0" / "log.db"

    def log(self, role: str = ROLE, name: str = NAME) -> SqliteLog:
        return SqliteLog(self.path, role=role, name=name)

    def crash(self) -> None:
        self._life += 1
        clone = self._directory / str(self._life) / "log.db"
        clone.parent.mkdir()
        copy_files(self.path, clone)
        self.path = clone


class MemoryStore:
    """A disk in memory."""

    def __init__(self) -> None:
        self.disk = Disk()

    def log(self, role: str = ROLE, name: str = NAME) -> MemoryLog:
        return MemoryLog(self.disk, role=role, name=name)

    def crash(self) -> None:
        self.disk.crash()


def copy_files(source: Path, target: Path) -> None:
    """Copy a log with its write-ahead log."""
    for suffix in ("", "-wal"):
        if source.with_name(source.name + suffix).exists():
            shutil.copyfile(source.with_name(source.name + suffix), target.with_name(target.name + suffix))
