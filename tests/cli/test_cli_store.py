"""`troth store`, and nodes that share a store: processes of their own, and a PostgreSQL server of the test's own."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from store_nodes import SECONDS, Node

from participant_sdk.testing.postgres import PostgresServer

PATIENT = ("--set", "lease_seconds=60")
"""For a test in which nobody takes anything over: it lives for as long as the test takes."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def dsn(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A database with nothing in it."""
    name = re.sub(r"\W", "_", request.node.name.lower())[:60]
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]  # the test's own name
    return server.dsn(name)


@pytest.fixture
async def store(dsn: str, troth: Any) -> str:
    """A store with the cell c1, of one shard."""
    assert (await troth("store", "init", "--store", dsn, "--shards", "1")).out == "made the cell c1 with one shard\n"
    return dsn


# ---- making one


async def test_a_store_is_made_once_and_says_who_has_what(store: str, troth: Any) -> None:
    assert "is there already" in (await troth("store", "init", "--store", store, "--shards", "1")).out
    made = (await troth("store", "init", "--store", store, "--name", "c2", "--shards", "2", "--json")).json()
    assert made == {"cell": "c2", "shards": 2, "made": ["c2-00", "c2-01"]}
    first, *others = (await troth("store", "check", "--store", store, "--json")).json()["logs"]
    assert (first["name"], first["epoch"], first["owner"], len(others)) == ("c1", 0, "", 2)
    for name, shards, told in (("c1", 4, "with 1 shards"), ("c2", 1, "with 2 shards"), ("c2-01", 1, "there already")):
        ran = await troth("store", "init", "--store", store, "--name", name, "--shards", str(shards))
        assert (ran.code, told in ran.err) == (3, True), ran
    table = (await troth("store", "check", "--store", store)).out
    assert "coordinator\tc1\t0\t0\t0\tnobody" in table


@pytest.mark.parametrize(
    ("dsn", "code", "told"),
    [
        ("", 2, "no store is named"),
        ("host=x password=s3cret", 2, "it holds a password"),
        ("postgresql://me:s3cret@x/y", 2, "it holds a password"),
        ("nonsense", 2, "it is no connection string"),
        ("host=/nowhere", 3, "LOG_AWAY"),
    ],
)
async def test_a_wrong_store_is_told_without_its_secrets(troth: Any, dsn: str, code: int, told: str) -> None:
    for command in ("check", "init"):
        ran = await troth("store", command, "--store", dsn)
        assert (ran.code, told in ran.err) == (code, True), ran
        assert "s3cret" not in ran.out + ran.err


async def test_a_password_in_a_setting_is_refused_and_not_shown(troth: Any) -> None:
    ran = await troth("config", "check", "--store", "postgresql://me:s3cret@x/y")
    assert (ran.code, "it holds a password" in ran.err, "s3cret" in ran.out + ran.err) == (2, True, False)


async def test_a_store_that_was_never_made_is_not_served(dsn: str, node: Callable[..., Node]) -> None:
    one = node(dsn)
    one.says("holds no store of Troth.*troth store init")
    assert one.ends() == 3


# ---- sharing one


async def test_the_second_node_stands_by_and_takes_over_at_once_when_the_first_is_killed(
    store: str, node: Callable[..., Node], troth: Any
) -> None:
    first = node(store)
    first.says("serving on .* epoch 1")
    second = node(store)
    second.says("standing by")
    first.running.kill()
    second.says("serving on .* epoch [2-9]")  # a lease of a second may lapse on a machine that pauses, and is claimed again
    assert (await troth("status", "--coordinator", second.address, "--json")).json()["epoch"] >= 2


async def test_a_node_that_drains_hands_over(store: str, node: Callable[..., Node]) -> None:
    first = node(store)
    first.says("serving on")
    second = node(store)
    second.says("standing by")
    assert first.ends(signal.SIGTERM) == 0
    second.says("serving on .* epoch [2-9]")
    assert second.ends(signal.SIGTERM) == 0


async def test_a_node_that_was_stopped_says_nothing_more_and_stands_by(store: str, node: Callable[..., Node]) -> None:
    first = node(store)
    first.says("serving on")
    second = node(store)
    second.says("standing by")
    first.running.send_signal(signal.SIGSTOP)
    second.says("serving on .* epoch [2-9]")
    first.running.send_signal(signal.SIGCONT)
    first.says("a shard was lost.*LOG_FENCED")
    first.says("standing by")
    assert second.ends(signal.SIGTERM) == 0
    first.says("serving on .* epoch [3-9]")


async def test_a_store_that_is_away_is_waited_for_and_served_again(node: Callable[..., Node], troth: Any) -> None:
    async with PostgresServer() as server:
        await troth("store", "init", "--store", server.dsn(), "--shards", "1")
        server.stop(signal.SIGQUIT)
        one = node(server.dsn())
        one.says("waiting for the store: the store cannot be reached")
        server.start()
        one.says("serving on .* epoch 1")
        server.stop(signal.SIGQUIT)
        one.says("the store does not answer", "a shard was lost")
        server.start()
        one.says("serving on .* epoch [2-9]")
        assert one.ends(signal.SIGTERM) == 0


async def test_a_store_that_became_read_only_is_served_again_when_it_is_not(store: str, node: Callable[..., Node]) -> None:
    one = node(store)
    one.says("serving on .* epoch 1")
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("ALTER ROLE troth SET default_transaction_read_only = on")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'troth%'")
        one.says("a shard was lost.*read-only")
        connection.execute("SET default_transaction_read_only = off")
        connection.execute("ALTER ROLE troth RESET default_transaction_read_only")
    one.says("serving on .* epoch [2-9]")
    assert one.ends(signal.SIGTERM) == 0


async def test_a_node_that_stands_by_ends_when_it_is_told_to(store: str, node: Callable[..., Node]) -> None:
    first = node(store)
    first.says("serving on")
    second = node(store)
    second.says("standing by")
    assert second.ends(signal.SIGTERM) == 0


async def test_a_services_database_is_made_ready_for_its_role(dsn: str, troth: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('CREATE ROLE "shop app" LOGIN')
    for _ in range(2):
        ran = await troth("store", "init", "--store", dsn, "--participant", "payments", "--grant-to", "shop app")
        assert ran.out == "the database is ready for the participant payments\n"
    with psycopg.connect(f"{dsn} user='shop app'", autocommit=True) as connection:
        connection.execute("INSERT INTO troth.branch (gid) VALUES ('x')")
    assert "INVALID_NAME" in (await troth("store", "init", "--store", dsn, "--participant", "No!")).err


async def test_a_node_whose_port_is_taken_claims_nothing(store: str, node: Callable[..., Node], troth: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one = node(store, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        one.says("PORT_TAKEN")
        assert one.ends() == 2
    (log,) = (await troth("store", "check", "--store", store, "--json")).json()["logs"]
    assert (log["epoch"], log["owner"]) == (0, "")


# ---- cells


async def test_nodes_share_the_shards_of_a_cell_and_show_it(dsn: str, node: Callable[..., Node], troth: Any) -> None:
    await troth("store", "init", "--store", dsn, "--shards", "4")

    async def shared(asked: Node) -> Any:
        return (await troth("cell", "--coordinator", asked.address, "--json")).json()

    first = node(dsn, "--set", "node=one")
    first.says("4 of 4 shards of c1")
    second = node(dsn, "--set", "node=two")
    second.says("2 of 4 shards of c1")
    first.says("2 of 4 shards of c1")
    # On a busy machine a lease may lapse while the shards are shared out, and the shard is nobody's for a moment.
    for one in (first, second):
        async with asyncio.timeout(SECONDS):
            while True:
                cell = await shared(one)
                if {shard["node"] for shard in cell["shards"]} == {"one", "two"}:
                    break
                await asyncio.sleep(0.1)
        assert [node["node"] for node in cell["nodes"]] == ["one", "two"]
        assert [shard["coordinator"] for shard in cell["shards"]] == [f"c1-0{number}" for number in range(4)]
    told = (await troth("cell", "--coordinator", first.address)).out
    assert "one" in told and "c1-03" in told
    for command in (("txn", "list"), ("participants",), ("status",)):
        done = await troth(*command, "--coordinator", first.address)
        assert done.code == 0
    assert "cell of 4 shards" in done.out and "one part in 4" in done.out, "whose the limits are"
    there = next(shard["coordinator"] for shard in cell["shards"] if shard["node"] == "two")
    explained = await troth("txn", "explain", f"{there}.1.9f2c4e1a.1.1", "--coordinator", first.address, "--json")
    assert "UNKNOWN_TRANSACTION" in explained.out
    assert first.ends(signal.SIGTERM) == 0
    second.says("4 of 4 shards of c1")


async def test_a_node_whose_name_is_taken_by_one_that_lives_ends(store: str, node: Callable[..., Node]) -> None:
    lives = ("--set", "node=one", "--set", "lease_seconds=3")  # over a short pause; the second one waits for the end of a lease
    first = node(store, *lives)
    first.says("serving on")
    second = node(store, *lives)
    second.says("LOG_LOCKED.*is the node 'one', and lives")
    assert second.ends() == 3


async def test_a_node_of_a_cell_that_is_not_there_ends(store: str, node: Callable[..., Node]) -> None:
    one = node(store, "--name", "c9")
    one.says("LOG_FOREIGN.*has no cell 'c9'; it has 'c1'")
    assert one.ends() == 3


async def test_a_store_of_the_first_format_is_refused_and_upgraded(store: str, node: Callable[..., Node], troth: Any) -> None:
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("DROP TABLE troth.node, troth.cell")
        connection.execute("ALTER TABLE troth.lease DROP COLUMN leaving")
        connection.execute("UPDATE troth.store SET format_version = 1")
    one = node(store)
    one.says("LOG_FOREIGN.*older format 1.*troth store upgrade")
    assert one.ends() == 3
    assert (await troth("store", "upgrade", "--store", store)).out == "upgraded the store from format 1 to 2\n"
    assert (await troth("store", "upgrade", "--store", store, "--json")).json() == {"before": 2, "now": 2}
    again = node(store)
    again.says("serving on .* epoch 1")
    assert again.ends(signal.SIGTERM) == 0


async def test_an_upgrade_waits_for_nobody_and_disturbs_nobody(store: str, node: Callable[..., Node], troth: Any) -> None:
    one = node(store, *PATIENT)
    one.says("serving on")
    with psycopg.connect(store, autocommit=True) as connection:
        connection.execute("UPDATE troth.store SET format_version = 1")
    ran = await troth("store", "upgrade", "--store", store)
    assert (ran.code, "in use" in ran.err) == (3, True)


async def test_the_service_manager_hears_that_a_node_has_its_place(
    store: str, node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """One that stands by is as ready as one that serves: whoever starts the nodes one after the other goes on."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{directory}/notify")
        manager.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        for place in ("serving on", "standing by on"):
            one = node(store, *PATIENT)
            one.says(place)
            while not manager.recv(65_536).decode().startswith(f"READY=1\nSTATUS={place} {one.address}"):
                pass


async def test_a_canary_takes_its_part_and_more_once_it_is_reloaded(
    dsn: str, troth: Any, node: Callable[..., Node], tmp_path: Path
) -> None:  # fmt: skip
    assert (await troth("store", "init", "--store", dsn, "--shards", "8")).code == 0
    old = node(dsn)
    old.says("8 of 8 shards")
    settings = tmp_path / "canary.toml"
    settings.write_text("canary = 0.25\n")
    canary = node(dsn, "--config", str(settings), "--set", "node=canary")
    canary.says("2 of 8 shards")
    row = re.compile(r"canary\t127[^\n]*\t2\t[^\n]*\tcanary 0.25\n")
    async with asyncio.timeout(SECONDS):  # a node tells what it saw last
        while not row.search((await troth("cell", "--coordinator", old.address)).out):
            pass
    settings.write_text("canary = 1.0\n")
    ran = await troth("config", "reload", "--coordinator", canary.address)
    assert (ran.code, "canary\t0.25\t1\treload" in ran.out) == (0, True), ran
    canary.says("4 of 8 shards")
    old.ends(signal.SIGTERM)
    canary.says("8 of 8 shards")


async def test_nodes_with_other_settings_are_told_by_each(dsn: str, troth: Any, node: Callable[..., Node], tmp_path: Path) -> None:
    assert (await troth("store", "init", "--store", dsn, "--shards", "2")).code == 0
    one = node(dsn, "--set", "node=one")
    one.says("2 of 2 shards")
    other = node(dsn, "--set", "node=other", "--set", "skew_seconds=60", "--set", "retention_seconds=7200")
    one.says("another node has other settings than this one.*retention_seconds, skew_seconds")
    other.says("another node has other settings than this one.*retention_seconds, skew_seconds")
    rows = (await troth("cell", "--coordinator", one.address)).out.splitlines()
    assert [row.rpartition("\t")[2] for row in rows[1:3]] == ["", "other retention_seconds, skew_seconds"]
