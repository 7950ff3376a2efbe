"""`troth outbox` on real servers: what is set aside is seen, tried again, or dropped, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from participant_sdk.outbox import Message, Relay, RelayLimits, put
from participant_sdk.outbox.store import store_of
from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from troth.backoff import Backoff
from troth.log.mariadb_store import connect


class OnPostgres:
    """A server, and how one asks it."""

    outbox, now = "troth.outbox", "clock_timestamp()"
    no_index = "DROP INDEX troth.outbox_topic"

    def __init__(self, server: PostgresServer) -> None:
        self.dsn = server.dsn

    async def sql(self, db: Any, statement: str) -> list[Any]:
        cursor = await db.execute(statement)
        return await cursor.fetchall() if cursor.description else []

    async def put(self, db: Any, *message: Any, key: str) -> None:
        await put(db, *message, key=key)


class OnMariadb:
    """The same."""

    outbox, now = "troth_outbox", "UTC_TIMESTAMP(6)"
    no_index = "ALTER TABLE troth_outbox DROP INDEX of_topic"

    def __init__(self, server: MariadbServer) -> None:
        self.dsn = server.dsn

    async def sql(self, db: Any, statement: str) -> list[Any]:
        return list((await db.ask(statement)).rows)

    async def put(self, db: Any, *message: Any, key: str) -> None:
        await put(db.raw, *message, key=key)


@pytest.fixture(scope="module", params=["PostgreSQL", "MariaDB"])
def server(request: pytest.FixtureRequest) -> Iterator[OnPostgres | OnMariadb]:
    if request.param == "PostgreSQL":
        with PostgresServer() as postgres:
            yield OnPostgres(postgres)
    else:
        with MariadbServer() as mariadb:
            yield OnMariadb(mariadb)


@pytest.fixture
def mariadb_only() -> Iterator[OnMariadb]:
    with MariadbServer() as mariadb:
        yield OnMariadb(mariadb)


def connected(dsn: str) -> Any:
    """As a relay is."""
    return store_of(dsn, 30.0).connected()


async def test_what_is_set_aside_is_tried_again_or_dropped(
    server: OnPostgres | OnMariadb, troth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a relay has set it aside: three messages are poison, and one has not been tried."""
    monkeypatch.setattr("participant_sdk.outbox.relay.AGAIN", Backoff(0.001, 0.001))
    dsn = ("--dsn", server.dsn())
    await troth("store", "init", "--store", server.dsn(), "--participant", "pay")
    ran = await troth("outbox", "list", *dsn)
    assert ran.code == 0 and "0 set aside; 0 wait" in ran.err
    got: list[bytes] = []

    async def refuses(message: Message) -> None:
        raise ValueError("it has no \x1b[31mend")

    async def takes(message: Message) -> None:
        got.append(message.body)

    async with connected(server.dsn()) as db:
        for body in ("one", b"\xff", "three"):
            await server.put(db, "mail", body, key="ada")
        limits = RelayLimits(attempts_max=1)
        for _ in range(3):
            assert await Relay(server.dsn(), refuses, limits=limits).deliver_once(db) == 1
        await server.put(db, "mail", "waits", key="ada")

        listed = (await troth("outbox", "list", "--json", *dsn)).json()
        assert (listed["aside"], listed["waiting"]) == (3, 1)
        first, second, third = (message["position"] for message in listed["messages"])
        assert "ValueError" in listed["messages"][0]["error"] and listed["messages"][0]["attempts"] == 1
        ran = await troth("outbox", "list", "--waiting", *dsn)
        assert "\x1b" not in ran.out and len(ran.out.splitlines()) == 5 and "3 set aside; 1 wait, the oldest for" in ran.err
        ran = await troth("doctor", *dsn)
        assert "3 messages of the outbox are set aside" in ran.out

        assert "body\tone" in (await troth("outbox", "show", str(first), *dsn)).out
        assert (await troth("outbox", "show", str(second), "--json", *dsn)).json()["body"] == "ff"
        assert (await troth("outbox", "show", str(first), "--body", *dsn)).out == "one"
        assert (await troth("outbox", "show", "999", *dsn)).code == 1

        for words in (("retry",), ("retry", "1", "--all"), ("drop", "--yes"), ("drop", str(third))):
            assert (await troth("outbox", *words, *dsn)).code == 2, words
        waiting = str(third + 1)
        for action in (("retry",), ("drop", "--yes")):
            ran = await troth("outbox", *action, waiting, *dsn)
            assert ran.code == 1 and f"not set aside, or not there: {waiting}" in ran.err
        assert (await troth("outbox", "drop", str(second), "--yes", *dsn)).out == f"dropped\t{second}\n"
        assert (await troth("outbox", "retry", str(first), "--json", *dsn)).json() == {"changed": [first], "not_set_aside": []}
        assert (await troth("outbox", "retry", "--all", *dsn)).out == f"tries again\t{third}\n"
        relay = Relay(server.dsn(), takes)
        while await relay.deliver_once(db):
            pass
    assert got == [b"one", b"three", b"waits"]


async def test_a_listing_that_is_cut_goes_on_behind_a_position(server: OnPostgres | OnMariadb, troth: Any) -> None:
    """Every third is set aside; what is dropped between two pages makes no other come twice or go missing."""
    async with connected(server.dsn()) as db:
        await server.sql(db, "CREATE DATABASE long_one")
    dsn = ("--dsn", server.dsn("long_one"))
    await troth("store", "init", "--store", server.dsn("long_one"), "--participant", "pay")
    async with connected(server.dsn("long_one")) as db:
        for number in range(350):
            await server.put(db, "mail", f"{number}", key="ada")
        third = "error = 'no such host' WHERE MOD(position, 3) = 0"
        await server.sql(db, f"UPDATE {server.outbox} SET aside = {server.now}, {third}")
        rows = await server.sql(db, f"SELECT position, aside IS NOT NULL FROM {server.outbox} ORDER BY position")
        aside, everything = [row[0] for row in rows if row[1]], [row[0] for row in rows]
        cut = await troth("outbox", "list", "--limit", "50", *dsn)
        assert f"that is not all: --after {aside[49]} goes on" in cut.err and len(cut.out.splitlines()) == 51
        seen, dropped, after = list[int](), list[int](), 0
        while True:
            listed = (await troth("outbox", "list", "--limit", "50", "--after", str(after), "--json", *dsn)).json()
            seen += [message["position"] for message in listed["messages"]]
            after = listed["next_after"]
            if after is None:
                break
            if not dropped:  # the one that the first page ended with; that of the second stays
                dropped.append(after)
                assert (await troth("outbox", "drop", str(after), "--yes", *dsn)).code == 0
        assert seen == aside and dropped == [aside[49]]
        whole = await troth("outbox", "list", "--waiting", "--limit", "10000", "--json", *dsn)
        positions = [message["position"] for message in whole.json()["messages"]]
        assert positions == sorted(set(everything) - {*dropped}) and whole.json()["next_after"] is None
        full = await troth("outbox", "list", "--limit", str(len(aside) - 1), *dsn)
        assert "not all" not in full.err, "what is just full is not cut"


async def test_of_each_topic_it_tells_what_waits_and_when_it_is_tried_again(server: OnPostgres | OnMariadb, troth: Any) -> None:
    """As a relay leaves it: one destination is away, one message is at fault, and one is set aside."""
    async with connected(server.dsn()) as db:
        await server.sql(db, "CREATE DATABASE topics")
    there = server.dsn("topics")
    await troth("store", "init", "--store", there, "--participant", "pay")
    assert (await troth("outbox", "topics", "--json", "--dsn", there)).json() == {"topics": []}

    async def fails(message: Message) -> None:
        if message.topic == "hooks":
            raise ConnectionRefusedError("nobody listens")
        raise ValueError("it has no end")

    async with connected(there) as db:
        for number in range(5):
            await server.put(db, "hooks", "x", key=f"k{number}")
        await server.put(db, "mail", "x", key="ada")
        relay = Relay(there, fails, limits=RelayLimits(attempts_max=1))
        assert await relay.deliver_once(db) == 6
        await server.put(db, "mail", "x", key="bob")
    hooks, mail = (await troth("outbox", "topics", "--json", "--dsn", there)).json()["topics"]
    assert [hooks[name] for name in ("topic", "waiting", "aside", "put_off", "error")] == [
        "hooks", 5, 0, 5, "ConnectionRefusedError: nobody listens",
    ]  # fmt: skip
    assert hooks["next_try_seconds"] is not None and hooks["oldest_waiting_seconds"] >= 0
    assert [mail[name] for name in ("topic", "waiting", "aside", "put_off", "next_try_seconds", "error")] == [
        "mail", 1, 1, 0, None, None,
    ]  # fmt: skip
    ran = await troth("outbox", "topics", "--dsn", there)
    assert ran.code == 0 and "nobody listens" in ran.out and len(ran.out.splitlines()) == 3


async def test_an_outbox_of_an_earlier_version_gets_its_index(server: OnPostgres | OnMariadb, troth: Any) -> None:
    async with connected(server.dsn()) as db:
        await server.sql(db, "CREATE DATABASE earlier")
    there, lacks = server.dsn("earlier"), "lacks its index of topics"
    await troth("store", "init", "--store", there, "--participant", "pay")
    async with connected(there) as db:
        await server.sql(db, server.no_index)
    assert lacks in (await troth("doctor", "--dsn", there)).out
    await troth("store", "init", "--store", there, "--participant", "pay")
    assert lacks not in (await troth("doctor", "--dsn", there)).out


async def test_where_there_is_no_outbox_it_says_so(server: OnPostgres | OnMariadb, troth: Any) -> None:
    async with connected(server.dsn()) as db:
        await server.sql(db, "CREATE DATABASE bare")
    ran = await troth("outbox", "list", "--dsn", server.dsn("bare"))
    assert ran.code == 2 and "troth store init --participant" in ran.err
    assert (await troth("outbox", "topics", "--dsn", server.dsn("bare"))).code == 2


async def test_names_that_lead_nowhere_are_told(troth: Any) -> None:
    for dsn in ("nonsense", "mysql://db", "mysql://me:s3cret@db/bank"):
        ran = await troth("outbox", "list", "--dsn", dsn)
        assert ran.code == 2 and "s3cret" not in ran.err, dsn
    for dsn in ("host=127.0.0.1 port=1 dbname=bank", "mysql://root@localhost/bank?unix_socket=/nowhere"):
        ran = await troth("outbox", "list", "--dsn", dsn)
        assert ran.code == 3 and "cannot be reached" in ran.err
        assert (await troth("outbox", "topics", "--dsn", dsn)).code == 3


async def test_what_a_branch_in_doubt_has_left_is_not_waited_for(mariadb_only: OnMariadb, troth: Any) -> None:
    """Its rows are among those that are set aside; `--all` means none of them."""
    dsn = ("--dsn", mariadb_only.dsn())
    await troth("store", "init", "--store", mariadb_only.dsn(), "--participant", "pay")
    undecided = "X'61',X'',1"
    async with connected(mariadb_only.dsn()) as db:
        await put(db.raw, "mail", "one")
        other = await connect(mariadb_only.dsn())
        await other.ask(f"XA START {undecided}")
        await put(other.raw, "mail", "doubt", key="ada")
        await other.ask(f"XA END {undecided}")
        await other.ask(f"XA PREPARE {undecided}")
        await other.close()
        await put(db.raw, "mail", "two")
        await db.ask("UPDATE troth_outbox SET aside = made WHERE position > 0")
    assert (await troth("outbox", "list", *dsn, "--json")).json()["aside"] == 2
    assert len((await troth("outbox", "retry", "--all", *dsn, "--json")).json()["changed"]) == 2
    ran = await troth("outbox", "list", "--waiting", *dsn)
    assert "0 set aside; 2 wait" in ran.err and len(ran.out.splitlines()) == 3
