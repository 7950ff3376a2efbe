"""The nth call of SQLite fails, for every n, in either log: the process stops, a restart recovers, and nothing is half done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from io_faults import FULL, IO, FaultyVFS, Injector, faulty_connect, faulty_connection

from coordinator.core.settings import CoreSettings
from participant_sdk import Participant, Refuse, SqliteResource
from participant_sdk.client import call
from participant_sdk.resources import sqlite_file
from participant_sdk.testing.cluster import COORDINATOR, Cluster
from participant_sdk.testing.memory import NAME, MemoryCoordinator
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth import logs
from troth.errors import Aborted, LogError, OutcomeUnknown, Reason, RequestError, TrothError
from troth.log.contract import Log
from troth.log.sqlite import LogConnection, SqliteLog

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
NTH_MAX = 400
OPENING = 100


def bank(directory: Path, name: str) -> Participant:
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    made = Participant(name, resource=resource, data_directory=directory / name, coordinator="127.0.0.1:7420")

    @made.operation(locks=lambda account: [account])
    def move(db: Any, *, account: str, amount: int) -> int:
        sql = "INSERT INTO account VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + ? RETURNING balance"
        balance: int = db.one(sql, (account, OPENING + amount, amount))[0]
        if balance < 0:
            raise Refuse("NO_FUNDS", "not enough")
        return balance

    return made


class DiskCoordinator(MemoryCoordinator):
    """The coordinator of a cluster, with its log in a file."""

    def __init__(self, path: Path, connection_type: type[LogConnection]) -> None:
        super().__init__(CoreSettings(resend_first_seconds=0.05, resend_cap_seconds=1.0, watermark_interval_seconds=0.05))
        self._path = path
        self._connection_type = connection_type

    def make_log(self) -> Log:
        return SqliteLog(self._path, role="coordinator", name=NAME, connection_type=self._connection_type)


class Trial:
    """Transfers between two banks while one call fails."""

    def __init__(self, directory: Path, injector: Injector, connection_type: type[LogConnection] = LogConnection) -> None:
        self.injector = injector
        self.cluster = Cluster(lambda: bank(directory, "north"), lambda: bank(directory, "south"))
        self.cluster._coordinator = DiskCoordinator(directory / "coordinator.db", connection_type)
        self.expected = {"north": OPENING, "south": OPENING}
        self.failures: list[TrothError] = []
        self.revived = 0

    async def run(self, nth: int, kind: str) -> bool:
        """Returns whether anything has failed. Checks everything that must hold."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.cluster:
            await self._transfer("first", -1, 1)
            watchers = [asyncio.create_task(self._revive(name)) for name in ("north", "south", COORDINATOR)]
            self.injector.arm(nth, kind)
            for name, amounts in (("a", (-5, 5)), ("b", (-1000, 1000)), ("c", (7, -7)), ("d", (-2,)), ("e", (2,))):
                await self._transfer(name, *amounts)
            self.injector.waiting = 0
            await self._check()
            for watcher in watchers:
                watcher.cancel()
            for done in await asyncio.gather(*watchers, return_exceptions=True):
                assert isinstance(done, asyncio.CancelledError), done
        return bool(self.injector.fired)

    async def _transfer(self, key: str, *amounts: int) -> None:
        """Until it is known to be committed, or refused."""
        moves = [call(name, "move", account="x", amount=amount) for name, amount in zip(("north", "south"), amounts, strict=False)]
        while True:
            try:
                await self._until_known(self.cluster.run(*moves, key=key))
            except Aborted as aborted:
                if not aborted.retryable:
                    assert aborted.code == "NO_FUNDS", aborted
                    return
            except RequestError as refused:
                assert refused.reason.retryable, refused
            else:
                for name, amount in zip(("north", "south"), amounts, strict=False):
                    self.expected[name] += amount
                return
            await asyncio.sleep(0.01)

    async def _until_known(self, running: Awaitable[object]) -> None:
        try:
            await running
        except OutcomeUnknown as unknown:
            first = unknown.first_attempt_ms
            while True:
                try:
                    await self.cluster.get(unknown.transaction_id, "north", "south", first_attempt_ms=first, key=unknown.key)
                    return
                except (OutcomeUnknown, RequestError):
                    await asyncio.sleep(0.01)

    async def _revive(self, name: str) -> None:
        """A log that failed stops its process; here somebody starts it again."""
        while True:
            error = await self._ended(name)
            self.failures.append(error)
            self.injector.waiting = 0
            if name == COORDINATOR:
                await self.cluster.crash(COORDINATOR)
            await self.cluster.restart(name)
            self.revived += 1

    async def _ended(self, name: str) -> TrothError:
        if name == COORDINATOR:
            return await asyncio.shield(self.cluster._coordinator.failed)
        with pytest.raises(TrothError) as caught:
            await self.cluster[name].serve()
        return caught.value

    async def _check(self) -> None:
        while self.revived < bool(self.injector.fired):  # noqa: ASYNC110 - the last call may have failed a moment ago
            await asyncio.sleep(0.01)
        for name, balance in self.expected.items():
            await self.cluster[name].wait_connected()
            rows = await self.cluster[name].read(lambda db: db.execute("SELECT name, balance FROM account"))
            assert rows == [("x", balance)], f"{name}: {rows}, not {balance}: {self.injector.fired}"
        for failure in self.failures:
            assert isinstance(failure, LogError) and failure.reason is Reason.LOG_FAILED, failure
        if self.injector.fired:
            assert len(self.failures) == 1, f"{self.injector.fired} failed, and nobody stopped"


async def for_every_n(trial: Callable[[], Trial], kind: str, step: int = 1) -> list[str]:
    """Let the first call fail, then the second (or the next after `step`), and so on until none is left; returns what failed."""
    fired: list[str] = []
    with logs.quiet():
        for nth in range(1, NTH_MAX, step):
            one = trial()
            if not await one.run(nth, kind):
                return fired
            fired.append(one.injector.fired)
    raise AssertionError(f"{NTH_MAX} calls, and no end")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Injector]:
    """Calls of SQLite on north's database go through the injector."""
    injector = Injector()
    vfs = FaultyVFS(injector, "north.db", "unix-none")
    monkeypatch.setattr(sqlite_file.apsw, "Connection", faulty_connect(apsw.Connection))
    yield injector
    vfs.unregister()


def directories(tmp_path: Path) -> Iterator[Path]:
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        yield directory


@pytest.mark.parametrize("kind", [IO, FULL])
async def test_every_call_on_a_participants_database(kind: str, faulty: Injector, tmp_path: Path) -> None:
    fresh = directories(tmp_path)
    fired = await for_every_n(lambda: Trial(next(fresh), faulty), kind)
    assert "xWrite" in fired
    assert ("xSync" in fired) is (kind == IO)
    assert len(fired) >= 10


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done all the same"])
@pytest.mark.parametrize("kind", [IO, FULL])
async def test_every_call_on_the_coordinators_log(kind: str, after: bool, tmp_path: Path) -> None:
    fresh = directories(tmp_path)
    injector = Injector()
    connection_type = faulty_connection(injector, after=after)
    fired = await for_every_n(lambda: Trial(next(fresh), injector, connection_type), kind)
    assert {"BEGIN IMMEDIATE", "COMMIT"} <= set(fired)
    assert len(fired) >= 10


async def test_calls_while_the_write_ahead_log_is_moved(
    faulty: Injector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint in every commit; CRASH_POINTS=all takes each call, else some of them."""
    monkeypatch.setattr(sqlite_file, "_CHECKPOINT_PAGES", 2)
    fresh = directories(tmp_path)
    step = 1 if os.environ.get("CRASH_POINTS") == "all" else 5
    assert len(await for_every_n(lambda: Trial(next(fresh), faulty), IO, step)) >= 10
