"""Records, batches and storages for tests of logs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from participant_sdk.testing.postgres import PostgresServer
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import LogError
from troth.log.contract import Log, StoredRecord
from troth.log.memory import Disk, MemoryLog
from troth.log.owned import OwnedLog
from troth.log.postgres import PostgresLog
from troth.log.postgres_store import Connection, connect, init, status
from troth.log.sqlite import SqliteLog
from troth.log.store_status import LogStatus
from troth.ready import Append
from troth.v1 import record_pb2

ROLE, NAME = "coordinator", "c1"

OwnedT = TypeVar("OwnedT", bound=OwnedLog, covariant=True)


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


class PostgresStore:
    """A database of its own on a server. A crash takes the connections of every log that was made before."""

    _last = 0

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        PostgresStore._last += 1
        self.database = f"store_{PostgresStore._last}"
        self.dsn = server.dsn(self.database)
        self._logs: list[PostgresLog] = []

    async def create(self, *names: str) -> None:
        """Make the database, and in it the logs of `names`, or of `NAME`."""
        async with await psycopg.AsyncConnection.connect(self.server.dsn(), autocommit=True) as connection:
            await connection.execute(f"CREATE DATABASE {self.database}")  # type: ignore[arg-type]  # our own number
        await self.init(*(names or (NAME,)))

    async def init(self, *names: str) -> Sequence[str]:
        return await init(self.dsn, ROLE, names)

    async def status(self) -> Sequence[LogStatus]:
        return await status(self.dsn)

    async def connect(self) -> Connection:
        return await connect(self.dsn, "troth test")

    def log(self, role: str = ROLE, name: str = NAME, **more: Any) -> PostgresLog:
        self._logs.append(PostgresLog(self.dsn, role=role, name=name, **more))
        return self._logs[-1]

    def crash(self) -> None:
        """The processes that have logs here are gone, with what they had in memory."""
        self.cut()
        for log in self._logs:
            log._unsynced.clear()

    def cut(self) -> None:
        """Every connection to the database ends."""
        with psycopg.connect(self.server.dsn(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (self.database,)
            )

    async def query(self, statement: str, *parameters: Any) -> list[Any]:
        """What a statement answers, on a connection of its own."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement, parameters)  # type: ignore[arg-type]  # the test's own words
            return await cursor.fetchall() if cursor.description else []


def copy_files(source: Path, target: Path) -> None:
    """Copy a log with its write-ahead log."""
    for suffix in ("", "-wal"):
        if source.with_name(source.name + suffix).exists():
            shutil.copyfile(source.with_name(source.name + suffix), target.with_name(target.name + suffix))


class Makes(Protocol[OwnedT]):
    """A store of logs of one kind."""

    def log(self, **more: Any) -> OwnedT:
        """A log in it, not open yet."""


async def opened(store: Makes[OwnedT], **more: object) -> OwnedT:
    """A log of the store, claimed."""
    log = store.log(**more)
    await log.open()
    return log


async def lost(log: OwnedLog) -> LogError:
    """Why an owner is none any more, once it knows."""
    assert log.lost is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.shield(log.lost)
