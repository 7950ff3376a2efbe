"""Django's connection and models on the branch, in operations, in views, and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import django_shop
import httpx
import pytest
import uvicorn
from pg_bench import Database
from werkzeug.serving import make_server

from coordinator.config import load
from coordinator.server import make_daemon
from participant_sdk import Participant, Postgres, PostgresLimits, RequestError
from participant_sdk.client import Aborted, Client, call
from participant_sdk.testing.cluster import Cluster
from tests.relational import impatient
from troth.errors import ConfigError, Reason

LIMITS = PostgresLimits(connections_max=3, connect_wait_seconds=30.0, lock_wait_seconds=0.5)


@pytest.fixture
async def tables(database: Database) -> Database:
    await database.sql(django_shop.TABLES)
    django_shop.configure(database.dsn)
    return database


@pytest.fixture
async def cluster(tables: Database, tmp_path: Path) -> AsyncIterator[Cluster]:
    def shop() -> Participant:
        bank = django_shop.shop_of("memory:1", tmp_path / "shop", limits=LIMITS)
        for function in FORBIDDEN:
            bank.operation(function)
        return bank

    async with Cluster(shop) as cluster:
        yield cluster
    assert await tables.prepared() == []


async def rows(database: Database) -> tuple[int, int]:
    shops = await database.sql("SELECT count(*) FROM shop")
    offers = await database.sql("SELECT count(*) FROM offer")
    return shops[0][0], offers[0][0]


# ---- what an operation may not do


def commits(db: Any) -> None:
    db.commit()


def commits_at_the_driver(db: Any) -> None:
    db.connection.commit()


def rolls_back(db: Any) -> None:
    from django.db import transaction

    transaction.rollback()


def sets_autocommit(db: Any) -> None:
    db.set_autocommit(True)


def closes(db: Any) -> None:
    db.close()


def wants_a_transaction_of_its_own(db: Any) -> None:
    from django.db import transaction

    with transaction.atomic(durable=True):
        pass


def hangs_on_the_commit(db: Any) -> None:
    from django.db import transaction

    transaction.on_commit(lambda: None)


def says_it_in_sql(db: Any) -> None:
    with db.cursor() as cursor:
        cursor.execute("COMMIT")


FORBIDDEN: list[Callable[[Any], None]] = [
    commits, commits_at_the_driver, rolls_back, sets_autocommit, closes, wants_a_transaction_of_its_own, hangs_on_the_commit,
    says_it_in_sql,
]  # fmt: skip


@pytest.mark.parametrize("function", FORBIDDEN)
async def test_nobody_ends_the_branch_by_hand(cluster: Cluster, tables: Database, function: Callable[[Any], None]) -> None:
    async with cluster.client() as client:
        with pytest.raises(Aborted):
            await client.run(call("shop", "offer", shop="ann", prices=[1]), call("shop", function.__name__), attempts=1)
        assert await rows(tables) == (0, 0)
        assert (await client.run(call("shop", "offer", shop="ann", prices=[1, 2]))).results["shop"][0]
        assert await rows(tables) == (1, 2), "the connection is as before"


# ---- operations


async def test_models_work_in_an_operation(cluster: Cluster, tables: Database) -> None:
    async with cluster.client() as client:
        done = await client.run(*(call("shop", "offer", shop=name, prices=[1, 2, 3]) for name in ("ann", "bob", "ann")))
        assert [len(made) for made in done.results["shop"]] == [3, 3, 3]
        assert await rows(tables) == (2, 9)
        with pytest.raises(Aborted) as refused:
            await client.run(call("shop", "offer", shop="cid", prices=[2000]))
        assert refused.value.code == "TOO_DEAR"
        with pytest.raises(Aborted) as broken:
            await client.run(call("shop", "offer", shop="cid", prices=[-1]))
        assert broken.value.reason is Reason.CONSTRAINT and "price" in broken.value.message
        assert await rows(tables) == (2, 9)


async def test_only_so_many_branches_have_connections(cluster: Cluster) -> None:
    async with cluster.transaction() as one, cluster.transaction() as two, cluster.transaction() as three:
        for number, txn in enumerate((one, two, three)):
            with txn.call():
                await cluster["shop"].branch().run("offer", shop=f"shop{number}", prices=[1])
        with pytest.raises(Aborted):
            async with cluster.transaction() as four:
                resource = cluster["shop"]._setup.resource
                with four.call(), impatient(resource), pytest.raises(RequestError, match="connections_max") as busy:
                    await cluster["shop"].branch().run("offer", shop="x", prices=[1])
                assert busy.value.reason is Reason.OVERLOADED
                raise Aborted(Reason.CLIENT_ABORT, "enough")


async def test_what_cannot_be_is_refused(tables: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no database 'nowhere'"):
        Postgres(django="nowhere")
    with pytest.raises(ConfigError, match="sqlite3"):
        Postgres(django="other")
    with pytest.raises(ConfigError, match="more than one"):
        Postgres(tables.dsn, django="default")
    bank = Participant("x", resource=Postgres(django="default"), data_directory=tmp_path, coordinator="127.0.0.1:1")
    with pytest.raises(ConfigError, match="plain def"):

        @bank.operation
        async def asynchronous(db: Any) -> None: ...


# ---- views


@pytest.fixture
async def client(tables: Database, tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a daemon; the participant runs in the background."""
    settings = {"data_directory": str(tmp_path / "c1"), "listen": "127.0.0.1:0"}
    daemon = make_daemon(load(flags=settings, environment={}).config)
    await daemon.start()
    bank = django_shop.shop_of(daemon.address, tmp_path / "shop", limits=LIMITS)
    async with Client(daemon.address) as client:
        yield client
    await asyncio.to_thread(bank.close_in_background)
    await daemon.stop()
    assert await tables.prepared() == []


@pytest.fixture(params=["wsgi", "asgi"])
async def url(client: Client, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Django under a server of each kind."""
    if request.param == "wsgi":
        from django.core.wsgi import get_wsgi_application

        server = make_server("127.0.0.1", 0, get_wsgi_application(), threaded=True)
        serving = asyncio.create_task(asyncio.to_thread(server.serve_forever))
        yield f"http://127.0.0.1:{server.port}"
        await asyncio.to_thread(server.shutdown)
        await serving
        server.server_close()
        return
    from django.core.asgi import get_asgi_application

    asgi = uvicorn.Server(uvicorn.Config(get_asgi_application(), host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    with asgi.capture_signals():
        serving = asyncio.create_task(asgi._serve())
        while not asgi.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.002)
        yield f"http://127.0.0.1:{asgi.servers[0].sockets[0].getsockname()[1]}"
        asgi.should_exit = True
        await serving


@pytest.mark.parametrize("view", ["put", "later"])
async def test_models_of_a_view_are_the_branchs_inside_of_the_block_only(
    client: Client, url: str, tables: Database, view: str
) -> None:
    async with client.carry(httpx.AsyncClient()) as http, client.transaction() as tx:
        for name in ("ann", "bob"):
            answer = await http.get(f"{url}/{view}/{name}")
            assert answer.raise_for_status().json() == {"seen": False}
        assert tx.acknowledged == {"shop": 2}
        assert await rows(tables) == (0, 0)
    assert await rows(tables) == (2, 0)


async def test_what_a_view_raises_aborts_with_its_reason(client: Client, url: str, tables: Database) -> None:
    with pytest.raises(Aborted) as refused:
        async with client.carry(httpx.AsyncClient()) as http, client.transaction():
            (await http.get(f"{url}/refuse/ann")).raise_for_status()
    assert (refused.value.participant, refused.value.code) == ("shop", "TOO_DEAR")
    with pytest.raises(Aborted):
        async with client.carry(httpx.AsyncClient()) as http, client.transaction():
            assert (await http.get(f"{url}/bug/ann")).status_code == 500
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/put/ann", headers={"troth-context-bin": "AAAA"})).status_code == 400
    assert await rows(tables) == (0, 0)


async def test_a_view_outside_of_a_transaction_has_none(client: Client, url: str) -> None:
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/put/ann")).status_code == 500
