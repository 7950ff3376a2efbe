"""`troth outbox` on a real server: what is set aside is seen, tried again, or dropped, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from participant_sdk.outbox import Message, Relay, RelayLimits, put
from participant_sdk.testing.postgres import PostgresServer
from troth.backoff import Backoff


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


async def test_what_is_set_aside_is_tried_again_or_dropped(
    server: PostgresServer, troth: Any, monkeypatch: pytest.MonkeyPatch
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

    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as db:
        for body in ("one", b"\xff", "three"):
            await put(db, "mail", body, key="ada")
        limits = RelayLimits(attempts_max=1)
        for _ in range(3):
            assert await Relay(server.dsn(), refuses, limits=limits).deliver_once(db) == 1
        await put(db, "mail", "waits", key="ada")

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


async def test_a_listing_that_is_cut_goes_on_behind_a_position(server: PostgresServer, troth: Any) -> None:
    """Every third is set aside; what is dropped between two pages makes no other come twice or go missing."""
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as db:
        await db.execute("CREATE DATABASE long")
    dsn = ("--dsn", server.dsn("long"))
    await troth("store", "init", "--store", server.dsn("long"), "--participant", "pay")
    async with await psycopg.AsyncConnection.connect(server.dsn("long"), autocommit=True) as db:
        for number in range(350):
            await put(db, "mail", f"{number}", key="ada")
        await db.execute("UPDATE troth.outbox SET aside = clock_timestamp(), error = 'no such host' WHERE position % 3 = 0")
        rows = await (await db.execute("SELECT position, aside IS NOT NULL FROM troth.outbox ORDER BY position")).fetchall()
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


async def test_where_there_is_no_outbox_it_says_so(server: PostgresServer, troth: Any) -> None:
    async with await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True) as db:
        await db.execute("CREATE DATABASE bare")
    ran = await troth("outbox", "list", "--dsn", server.dsn("bare"))
    assert ran.code == 2 and "troth store init --participant" in ran.err
    for dsn in ("nonsense", "mysql://db/bank"):
        assert (await troth("outbox", "list", "--dsn", dsn)).code == 2
    ran = await troth("outbox", "list", "--dsn", "host=127.0.0.1 port=1 dbname=bank")
    assert ran.code == 3 and "cannot be reached" in ran.err
