"""Operations with SQLAlchemy: the contract suite on both kinds of engine, and what people do with sessions."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from pg_bench import LIMITS, Database, PostgresWorkbench, url
from sqlalchemy import ForeignKey, Identity, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import Done, Performed, Refused
from participant_sdk.resources.postgres import Postgres
from participant_sdk.testing.contract import FIRST, LONGER, Bench, ResourceContract, Workbench, operation
from tests.relational import impatient, session_operations
from troth.errors import ConfigError
from troth.v1 import record_pb2


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    placed: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    lines: Mapped[list[Line]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", deferrable=True, initially="DEFERRED"))
    item: Mapped[str] = mapped_column(unique=True)
    order: Mapped[Order] = relationship(back_populates="lines")


class Item(Base):
    __tablename__ = "item"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


ASYNC, BLOCKING = session_operations(Item)


@pytest.fixture(params=["psycopg", "asyncpg"])
async def engine(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url(database, request.param), pool_size=4, max_overflow=4)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


class TestAsyncEngine(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database, engine: AsyncEngine) -> Workbench:
        return PostgresWorkbench(database, ASYNC, lambda dsn: Postgres(engine=engine, limits=LIMITS))


class TestEngine(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database) -> Iterator[Workbench]:
        engine = sqlalchemy.create_engine(url(database), pool_size=4, max_overflow=4)
        yield PostgresWorkbench(database, BLOCKING, lambda dsn: Postgres(engine=engine, limits=LIMITS))
        engine.dispose()


async def performed(
    database: Database, engine: AsyncEngine, function: Callable[..., Any], **arguments: Any
) -> tuple[Any, Bench, str]:
    """What became of one operation in a branch of its own."""
    make = async_sessionmaker(expire_on_commit=False)
    bench = Bench(PostgresWorkbench(database, {**ASYNC, "it": function}, lambda dsn: Postgres(engine=engine, session=make)))
    await bench.open()
    branch = await bench.begin(LONGER)
    return await bench.resource.execute(branch, operation("it", **arguments)), bench, branch


async def test_models_relationships_server_defaults_and_identities(database: Database, engine: AsyncEngine) -> None:
    async def place(session: AsyncSession, *, items: list[str]) -> dict[str, Any]:
        order = Order(lines=[Line(item=item) for item in items])
        session.add(order)
        await session.flush()
        await session.refresh(order, ["placed"])
        session.add_all([Item(name=f"n{number}", value=number) for number in range(50)])
        found = await session.scalar(select(Order).options(selectinload(Order.lines)).where(Order.id == order.id))
        assert found is order
        async with session.begin_nested():
            session.add(Line(item="nested", order_id=order.id))
        return {"id": order.id, "lines": len(order.lines), "placed": order.placed is not None}

    answer, bench, branch = await performed(database, engine, place, items=["a", "b"])
    assert answer == Performed({"id": 1, "lines": 2, "placed": True})
    work = await bench.prepare(branch)
    assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
    counted = await database.sql("SELECT (SELECT count(*) FROM lines), (SELECT count(*) FROM item)")
    assert counted == [(3, 50)]
    await bench.resource.close()


async def commits(session: AsyncSession) -> None:
    session.add(Item(name="a", value=1))
    await session.commit()


async def rolls_back(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    await session.rollback()


async def begins(session: AsyncSession) -> None:
    async with session.begin():
        session.add(Item(name="a", value=1))


async def closes(session: AsyncSession) -> None:
    session.add(Item(name="a", value=1))
    await session.flush()
    await session.close()


async def ends_by_hand(session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


async def catches(session: AsyncSession) -> None:
    try:
        await session.commit()
    except Exception:
        return


async def makes_a_table(session: AsyncSession) -> None:
    await (await session.connection()).run_sync(lambda c: c.execute(text("CREATE TABLE x (a int)")))


@pytest.mark.parametrize("function", [commits, rolls_back, begins, closes, ends_by_hand, makes_a_table], ids=lambda f: f.__name__)
async def test_sessions_cannot_end_the_transaction(database: Database, engine: AsyncEngine, function: Callable[..., Any]) -> None:
    answer, bench, branch = await performed(database, engine, function)
    assert isinstance(answer, Refused) and answer.cause.reason == "FORBIDDEN_SQL", answer
    assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
    assert await database.sql("SELECT 1 FROM item") == []
    again = await bench.begin(FIRST)  # its connection is as good as new
    await bench.put(again, "b", 2)
    assert isinstance(await bench.resource.commit(again, await bench.prepare(again), one_phase=False), Done)
    async with AsyncSession(engine) as session:
        assert await ASYNC["get"](session, name="b") == 2
        await session.rollback()
    await bench.resource.close()


async def test_sqlalchemy_does_not_connect_anew_outside_of_the_branch(database: Database) -> None:
    """In a thread; of sessions that are asynchronous see `test_asyncpg_engine.py`."""

    def goes_on(session: Session) -> None:
        with contextlib.suppress(DBAPIError):
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        session.rollback()
        session.add(Item(name="a", value=1))
        session.commit()

    engine = sqlalchemy.create_engine(url(database))
    bench = Bench(PostgresWorkbench(database, {"it": goes_on}, lambda dsn: Postgres(engine=engine, limits=LIMITS)))
    await bench.open()
    branch = await bench.begin()
    refused = await bench.resource.execute(branch, operation("it"))
    assert isinstance(refused, Refused) and refused.cause.reason == "PARTICIPANT_AWAY" and refused.cause.retryable, refused
    assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
    assert await database.names() == []
    await bench.resource.close()
    engine.dispose()


async def test_what_is_left_to_flush_is_checked_before_the_vote(database: Database, engine: AsyncEngine) -> None:
    async def twice(session: AsyncSession) -> None:
        session.add_all([Line(item="same", order=Order()), Line(item="same", order=Order())])

    answer, bench, _ = await performed(database, engine, twice)
    assert isinstance(answer, Refused) and answer.cause.reason == "CONSTRAINT" and "same" not in answer.cause.message
    await bench.resource.close()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_an_engine_without_a_free_connection_is_overload(database: Database, driver: str) -> None:
    engine = create_async_engine(url(database, driver), pool_size=2, max_overflow=0, pool_timeout=30)
    bench = Bench(PostgresWorkbench(database, ASYNC, lambda dsn: Postgres(engine=engine)))
    await bench.open()
    held = [await engine.connect() for _ in range(2)]
    with impatient(bench.resource):
        refused = await bench.resource.begin(FIRST)
    assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED"
    for connection in held:
        await connection.close()
    await bench.begin(FIRST)
    await bench.resource.close()
    await engine.dispose()


def test_the_wrong_engine_or_style_is_refused_at_once(database: Database) -> None:
    engine = sqlalchemy.create_engine(url(database))
    for wrong in (5, sqlalchemy.create_engine("sqlite://"), sqlalchemy.create_engine(url(database, "asyncpg"))):
        with pytest.raises(ConfigError):
            Postgres(engine=wrong)
    silent = sqlalchemy.create_engine(url(database))
    silent.dialect.skip_autocommit_rollback = True  # what the argument of this name does, in versions that have it
    with pytest.raises(ConfigError, match="skip_autocommit_rollback"):
        Postgres(engine=silent)
    with pytest.raises(ConfigError, match="more than one of a database"):
        Postgres("dbname=x", engine=engine)
    with pytest.raises(ConfigError, match="create_async_engine"):
        Registry(async_reason=Postgres(engine=engine).async_reason).add(ASYNC["put"])
    asynchronous = Postgres(engine=create_async_engine(url(database)))
    with pytest.raises(ConfigError, match="plain def"):
        Registry(plain_reason=asynchronous.plain_reason).add(BLOCKING["put"])
