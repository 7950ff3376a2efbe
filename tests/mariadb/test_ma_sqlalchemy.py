"""Operations with SQLAlchemy on MariaDB: the contract suite on each kind of engine, and what people do with sessions."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from ma_bench import LIMITS, Database, MariadbWorkbench
from sqlalchemy import ForeignKey, String, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from participant_sdk.resources.contract import Done, Performed, Refused
from participant_sdk.resources.mariadb import MariaDB
from participant_sdk.testing.contract import FIRST, LONGER, Bench, ResourceContract, Workbench, operation
from tests.relational import impatient, session_operations
from troth.errors import ConfigError, RequestError
from troth.v1 import record_pb2


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    placed: Mapped[datetime.datetime] = mapped_column(server_default=func.now())
    lines: Mapped[list[Line]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    item: Mapped[str] = mapped_column(String(60), unique=True)
    order: Mapped[Order] = relationship(back_populates="lines")


class Item(Base):
    __tablename__ = "item"
    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    value: Mapped[int]


ASYNC, BLOCKING = session_operations(Item)


def url(database: Database, driver: str) -> sqlalchemy.URL:
    query = {"unix_socket": str(database.server.socket)}
    scheme = f"{database.dialect.name.lower()}+{driver}"
    return sqlalchemy.URL.create(scheme, username="root", host="localhost", database=database.name, query=query)


@pytest.fixture(params=["aiomysql", "asyncmy"])
async def engine(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url(database, request.param), pool_size=4, max_overflow=4)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


class TestAsyncEngine(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database, engine: AsyncEngine) -> Workbench:
        return MariadbWorkbench(database, ASYNC, lambda _: MariaDB(engine=engine, limits=LIMITS))


class TestEngine(ResourceContract):
    @pytest.fixture
    def workbench(self, database: Database) -> Iterator[Workbench]:
        engine = sqlalchemy.create_engine(url(database, "pymysql"), pool_size=4, max_overflow=4)
        yield MariadbWorkbench(database, BLOCKING, lambda _: MariaDB(engine=engine, limits=LIMITS))
        engine.dispose()


async def performed(
    database: Database, engine: AsyncEngine, function: Callable[..., Any], **arguments: Any
) -> tuple[Any, Bench, str]:
    """What became of one operation in a branch of its own."""
    make = async_sessionmaker(expire_on_commit=False)
    bench = Bench(MariadbWorkbench(database, {**ASYNC, "it": function}, lambda _: MariaDB(engine=engine, session=make)))
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
        try:
            async with session.begin_nested():
                session.add(Line(item=items[0], order_id=order.id))
        except IntegrityError:
            pass
        return {"lines": len(order.lines), "placed": order.placed is not None}

    answer, bench, branch = await performed(database, engine, place, items=["a", "b"])
    assert answer == Performed({"lines": 2, "placed": True})
    assert database.sql("SELECT COUNT(*) FROM `lines`") == [(0,)]
    assert isinstance(await bench.resource.commit(branch, await bench.prepare(branch), one_phase=False), Done)
    assert database.sql("SELECT COUNT(*) FROM `lines`") == [(3,)]
    assert database.sql("SELECT COUNT(*) FROM item") == [(50,)]
    await bench.resource.close()


async def commit(session: AsyncSession) -> None:
    session.add(Item(name="x", value=1))
    await session.commit()


async def rollback(session: AsyncSession) -> None:
    session.add(Item(name="x", value=1))
    await session.flush()
    await session.rollback()


async def commit_text(session: AsyncSession) -> None:
    await session.execute(text("COMMIT"))


async def schema_change(session: AsyncSession) -> None:
    await session.execute(text("DROP TABLE orders"))


@pytest.mark.parametrize("function", [commit, rollback, commit_text, schema_change])
async def test_what_ends_the_transaction_is_refused(database: Database, engine: AsyncEngine, function: Callable[..., Any]) -> None:
    answer, bench, branch = await performed(database, engine, function)
    assert isinstance(answer, Refused) and answer.cause.reason == "FORBIDDEN_SQL", answer
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert await bench.visible("x") is None
    await bench.resource.close()


async def test_sqlalchemy_does_not_connect_anew_outside_of_the_branch(database: Database, engine: AsyncEngine) -> None:
    async def goes_on(session: AsyncSession) -> None:
        database.sql(f"KILL {await session.scalar(text('SELECT CONNECTION_ID()'))}")
        with contextlib.suppress(DBAPIError):
            await session.execute(text("SELECT 1"))
        with contextlib.suppress(RequestError):
            await session.rollback()
        session.add(Item(name="x", value=1))
        await session.commit()

    answer, bench, branch = await performed(database, engine, goes_on)
    assert isinstance(answer, Refused) and answer.cause.reason == "PARTICIPANT_AWAY" and answer.cause.retryable, answer
    assert isinstance(await bench.resource.prepare(branch), Refused)
    assert await bench.visible("x") is None
    await bench.resource.close()


async def test_what_the_flush_finds_is_the_reason(database: Database, engine: AsyncEngine) -> None:
    async def twice(session: AsyncSession) -> None:
        session.add_all([Line(item="a", order_id=77)])

    answer, bench, _ = await performed(database, engine, twice)
    assert isinstance(answer, Refused) and answer.cause.reason == "CONSTRAINT", answer
    await bench.resource.close()


async def test_an_engine_whose_connections_are_all_taken_is_overloaded(database: Database) -> None:
    engine = create_async_engine(url(database, "aiomysql"), pool_size=1, max_overflow=0, pool_timeout=30)
    bench = Bench(MariadbWorkbench(database, ASYNC, lambda _: MariaDB(engine=engine)))
    await bench.open()
    branch = await bench.begin(FIRST)
    with impatient(bench.resource):
        refused = await bench.resource.begin(LONGER)
    assert isinstance(refused, Refused) and refused.cause.reason == "OVERLOADED"
    await bench.resource.rollback(branch, record_pb2.BranchWork())
    async with engine.connect() as connection:
        assert (await connection.scalar(text("SELECT @@autocommit"))) == 0, "it is as the service left it"
    await bench.resource.close()
    await engine.dispose()


def test_what_is_no_engine_or_of_another_database_is_refused(database: Database) -> None:
    with pytest.raises(ConfigError, match="no SQLAlchemy engine"):
        MariaDB(engine=database)
    with pytest.raises(ConfigError, match="sqlite"):
        MariaDB(engine=sqlalchemy.create_engine("sqlite://"))
    with pytest.raises(ConfigError, match="a database and an engine"):
        MariaDB(database.dsn(), engine=sqlalchemy.create_engine("sqlite://"))
