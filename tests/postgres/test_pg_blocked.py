"""A branch in doubt that somebody else waits for, in PostgreSQL: its participant asks the database, and operators read of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pg_bench import ASYNC, LIMITS, Database, asyncpg_pool, put_asyncpg

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogBranch, LogResource, Participant, blocked
from participant_sdk.client import Client, call
from participant_sdk.resources.contract import HeldUp, Unreachable
from participant_sdk.resources.postgres import Postgres
from participant_sdk.resources.relational import finishing
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.backoff import Backoff
from troth.gids import parse_gid


async def until(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What is true at last."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await ask()):  # noqa: ASYNC110 - it is another process that gets there
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@asynccontextmanager
async def in_doubt(daemon: Daemon, bank: Participant, directory: Path) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[Any]]]:
    """A transaction in which the bank has prepared a change of the row `a`, and another participant takes its time to vote."""
    go_on = asyncio.Event()
    other = Participant("other", resource=LogResource(), data_directory=directory / "other", coordinator=daemon.address)

    @other.operation
    async def take_time(branch: LogBranch) -> None:
        await go_on.wait()

    bank._setup.limits["inquiry"] = Backoff(0.05, 0.1)  # it asks at once, and often
    async with bank, other, Client(daemon.address) as client:
        await bank.wait_connected()
        await other.wait_connected()
        running = asyncio.create_task(client.run(call("bank", "put", name="a", value=1), call("other", "take_time"), timeout=120))
        yield go_on, running
        go_on.set()
        await running


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_operators_read_who_waits_for_it(
    driver: str, database: Database, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    async def troth(*arguments: str) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(run, [*arguments, "--coordinator", daemon.address]) == 0
        captured = capsys.readouterr()
        return str(captured.out + captured.err)

    monkeypatch.setattr(blocked, "AGAIN_SECONDS", 0.05)
    await database.sql("INSERT INTO item VALUES ('a', 0)")
    pool = await asyncpg_pool(database) if driver == "asyncpg" else None
    bank = Participant(
        "bank", resource=Postgres(pool or database.dsn, limits=LIMITS), data_directory=tmp_path, coordinator=daemon.address
    )
    bank.operation(name="put")(put_asyncpg if driver == "asyncpg" else ASYNC["put"])
    async with in_doubt(daemon, bank, tmp_path) as (go_on, running):
        (gid,) = await until(database.prepared)
        parsed = parse_gid(gid)
        assert parsed is not None
        explain = ("txn", "explain", parsed.transaction)
        nobody = "0 sessions of its database waiting for it, with locks in item"
        assert "nobody is held up" in await until(lambda: _with(troth(*explain), nobody))
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as waiter:
            waiting = asyncio.create_task(waiter.execute("UPDATE item SET value = value + 10 WHERE name = 'a'"))
            said = await until(lambda: _with(troth(*explain), "1 session of its database waiting for it, the first for"))
            assert "bank says: " in said and "item" in said and ", since 20" in said and "Begun by " in said
            listed = await troth("participants")
            assert f"bank is in doubt about {parsed.transaction}: 1 session of its database waiting for it" in listed
            assert not waiting.done(), "to ask has freed nobody"
            go_on.set()
            await running
            await waiting
    assert await database.sql("SELECT value FROM item") == [(11,)]
    if pool is not None:
        await pool.close()


async def _with(said: Awaitable[str], part: str) -> str:
    text = await said
    return text if part in text else ""


async def test_a_database_that_does_not_answer_tells_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Postgres(database.dsn, limits=LIMITS)
    bank.bind("bank", None)
    assert await bank.blocked() == {}
    await database.sql("BEGIN; INSERT INTO item VALUES ('a', 1); PREPARE TRANSACTION 'troth:bank::c1.1.0a0b0c0d.1.1'")
    await database.sql("BEGIN; INSERT INTO item VALUES ('b', 1); PREPARE TRANSACTION 'troth:bank2::c1.1.0a0b0c0d.1.1'")
    assert await bank.blocked() == {"troth:bank::c1.1.0a0b0c0d.1.1": HeldUp(0, 0.0, ["item"])}
    monkeypatch.setattr(finishing, "BLOCKED_SECONDS", 0.2)
    for dsn in ("postgresql://127.0.0.1:1/none", f"{database.dsn} user=nobody"):
        nowhere = Postgres(dsn, limits=LIMITS)
        nowhere.bind("bank", None)
        assert isinstance(await nowhere.blocked(), Unreachable)
