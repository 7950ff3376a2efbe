"""Benches on each driver that a branch can work with, for tests that hold for all of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pg_bench import ASYNC, ASYNCPG, Database, PostgresWorkbench, asyncpg_pool, url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from participant_sdk.resources.postgres import Postgres, PostgresLimits
from participant_sdk.testing.contract import Bench
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.relational import session_operations


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


SESSIONS, _ = session_operations(Item)
DRIVERS = ["psycopg", "asyncpg", "sqlalchemy+asyncpg"]


@contextlib.asynccontextmanager
async def bench_with(driver: str, database: Database, limits: PostgresLimits) -> AsyncIterator[Bench]:
    """One whose branches have at most `limits.connections_max` connections of a driver. It is open."""
    async with contextlib.AsyncExitStack() as stack:
        if driver == "psycopg":
            workbench = PostgresWorkbench(database, ASYNC, lambda dsn: Postgres(dsn, limits=limits))
        elif driver == "asyncpg":
            pool = await asyncpg_pool(database, max_size=limits.connections_max)
            # It waits for what was not given back.
            stack.push_async_callback(lambda: asyncio.wait_for(pool.close(), PATIENCE_SECONDS))
            workbench = PostgresWorkbench(database, ASYNCPG, lambda dsn: Postgres(pool, limits=limits))
        else:
            engine = await stack.enter_async_context(disposed(database, pool_size=limits.connections_max, max_overflow=0))
            workbench = PostgresWorkbench(database, SESSIONS, lambda dsn: Postgres(engine=engine, limits=limits))
        bench = Bench(workbench)
        await bench.open()
        stack.push_async_callback(bench.resource.close)
        yield bench


@contextlib.asynccontextmanager
async def disposed(database: Database, driver: str = "asyncpg", **options: object) -> AsyncIterator[AsyncEngine]:
    """An engine of a service, for the time of the block."""
    engine = create_async_engine(url(database, driver), **options)
    yield engine
    await engine.dispose()
