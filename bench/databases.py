"""PostgreSQL to PostgreSQL: transfers through Troth against hand-written `PREPARE TRANSACTION` on both, and SQLAlchemy likewise.

The floor is the same two statements on the same two databases, prepared and committed side by side, on connections that stay open:
no coordinator, no recovery, no proof, no timeouts. Troth is an `Embedded` with its log in a file, so that both are one process and
differ by what Troth does. The server is a private one of this run, beside everything else on the same machine; CPU is that
of the process, without the server.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from bench.measure import Once, measure
from participant_sdk import Embedded, Participant, Postgres, PostgresLimits
from participant_sdk.client import call
from participant_sdk.testing.postgres import PostgresServer
from troth.log.postgres_store import init

if TYPE_CHECKING:
    from bench.stages import Bench

CALLERS = 32
ACCOUNTS = 20_000
NAMES = ("north", "south")
MOVE = "UPDATE account SET cents = cents + %s WHERE number = %s"
NOTE = "INSERT INTO movement (account, cents) VALUES (%s, %s)"
TABLES = (
    "CREATE TABLE account (number int PRIMARY KEY, cents bigint NOT NULL);"
    "CREATE TABLE movement (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int NOT NULL, cents bigint NOT NULL);"
    f"INSERT INTO account SELECT number, 1000000 FROM generate_series(0, {ACCOUNTS - 1}) AS number;"
    "VACUUM ANALYZE account"
)


async def databases(bench: Bench) -> None:
    """Every shape at the same number of callers; the floors before and after, since the machine is not always equally fast."""
    with PostgresServer(max_connections="300", max_prepared_transactions="300", autovacuum="on") as server:
        for name in NAMES:
            await _make(server, name)
        shapes = (
            ("postgres floor", _floor), ("postgres troth", _troth), ("sqlalchemy floor", _sqlalchemy_floor),
            ("sqlalchemy troth", _sqlalchemy_troth), ("postgres blocks", _blocks), ("postgres floor again", _floor),
        )  # fmt: skip
        for name, make in shapes:
            async with AsyncExitStack() as stack:
                once = await make(stack, server, bench.directory / name.replace(" ", "-"))
                bench.add(await measure(name, CALLERS, once, bench.span, bench.pids))


async def _make(server: PostgresServer, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as db:
        await db.execute(f"CREATE DATABASE {name}")
    await init(server.dsn(name), "participant", (), branches=True)
    async with await psycopg.AsyncConnection.connect(server.dsn(name), autocommit=True) as db:
        for statement in TABLES.split(";"):
            await db.execute(statement)


def _drawn() -> Callable[[], tuple[int, int, int]]:
    """Two accounts and an amount, in the same order in each shape."""
    chance = random.Random(1)
    return lambda: (chance.randrange(ACCOUNTS), chance.randrange(ACCOUNTS), chance.randrange(1, 100))


# ---- by hand


async def _floor(stack: AsyncExitStack, server: PostgresServer, directory: Path) -> Once:
    pools = [await stack.enter_async_context(_pool(server.dsn(name))) for name in NAMES]
    drawn, numbers = _drawn(), itertools.count()

    async def commit(connection: Any, gid: str) -> None:
        await connection.execute(f"COMMIT PREPARED '{gid}'", prepare=False)

    async def half(connection: Any, account: int, cents: int, gid: str) -> None:
        await connection.execute("BEGIN")
        await connection.execute(MOVE, (cents, account))
        await connection.execute(NOTE, (account, cents))
        await connection.execute(f"PREPARE TRANSACTION '{gid}'", prepare=False)

    async def once() -> bool:
        source, target, cents = drawn()
        gids = [f"{directory.name}-{next(numbers)}" for _ in NAMES]
        async with pools[0].connection() as left, pools[1].connection() as right:
            await asyncio.gather(half(left, source, -cents, gids[0]), half(right, target, cents, gids[1]))
            await asyncio.gather(commit(left, gids[0]), commit(right, gids[1]))
        return True

    return once


def _pool(dsn: str) -> AsyncConnectionPool[Any]:
    return AsyncConnectionPool(dsn, kwargs={"autocommit": True}, min_size=CALLERS, max_size=CALLERS, open=False)


async def _sqlalchemy_floor(stack: AsyncExitStack, server: PostgresServer, directory: Path) -> Once:
    """SQLAlchemy's own two-phase session over two engines."""
    engines = [_engine(stack, server, name) for name in NAMES]
    drawn = _drawn()

    async def once() -> bool:
        source, target, cents = drawn()
        async with AsyncSession(twophase=True) as session:
            for engine, account, amount in zip(engines, (source, target), (-cents, cents), strict=True):
                connection = await session.connection(bind_arguments={"bind": engine.sync_engine})
                await _moved(connection, account=account, cents=amount)
            await session.commit()
        return True

    return once


async def _moved(db: Any, *, account: int, cents: int) -> None:
    parameters = {"account": account, "cents": cents}
    await db.execute(text("UPDATE account SET cents = cents + :cents WHERE number = :account"), parameters)
    await db.execute(text("INSERT INTO movement (account, cents) VALUES (:account, :cents)"), parameters)


def _engine(stack: AsyncExitStack, server: PostgresServer, name: str) -> AsyncEngine:
    where = f"host={server.directory}&user=troth&dbname={name}"
    engine = create_async_engine(f"postgresql+psycopg://?{where}", pool_size=CALLERS, max_overflow=0)
    stack.push_async_callback(engine.dispose)
    return engine


# ---- through Troth


async def _troth(stack: AsyncExitStack, server: PostgresServer, directory: Path) -> Once:
    """Operations."""
    here, _ = await _service(stack, directory, lambda name: Postgres(server.dsn(name), limits=_limits()))
    return _runs(here)


async def _sqlalchemy_troth(stack: AsyncExitStack, server: PostgresServer, directory: Path) -> Once:
    """Operations on sessions."""
    here, _ = await _service(stack, directory, lambda name: Postgres(engine=_engine(stack, server, name), limits=_limits()), _moved)
    return _runs(here)


async def _blocks(stack: AsyncExitStack, server: PostgresServer, directory: Path) -> Once:
    """Blocks in the caller's own code, one after the other."""
    here, banks = await _service(stack, directory, lambda name: Postgres(server.dsn(name), limits=_limits()))
    drawn = _drawn()

    async def once() -> bool:
        source, target, cents = drawn()
        async with here.transaction(timeout=30.0):
            for bank, account, amount in zip(banks, (source, target), (-cents, cents), strict=True):
                async with bank.branch() as db:
                    await _move(db, account=account, cents=amount)
        return True

    return once


def _limits() -> PostgresLimits:
    return PostgresLimits(connections_max=CALLERS, pinned_max=CALLERS * 2)


async def _move(db: Any, *, account: int, cents: int) -> None:
    await db.execute(MOVE, (cents, account))
    await db.execute(NOTE, (account, cents))


async def _service(
    stack: AsyncExitStack, directory: Path, make: Callable[[str], Postgres], move: Callable[..., Any] = _move
) -> tuple[Embedded, list[Participant]]:
    here = Embedded(directory / "here")
    banks = [Participant(name, resource=make(name), data_directory=directory / name, coordinator=here) for name in NAMES]
    for bank in banks:
        bank.operation(name="move")(move)
    await stack.enter_async_context(here)
    return here, banks


def _runs(here: Embedded) -> Once:
    drawn = _drawn()

    async def once() -> bool:
        source, target, cents = drawn()
        halves = call("north", "move", account=source, cents=-cents), call("south", "move", account=target, cents=cents)
        await here.run(*halves, timeout=30.0)
        return True

    return once
