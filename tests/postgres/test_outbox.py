"""The outbox: written in branches, delivered after the commit, at least once, in order per key; also to a broker that is killed."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis.asyncio
from pg_bench import Database
from redis_server import RedisServer
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from participant_sdk import Participant, Postgres, PostgresLimits, Refuse
from participant_sdk.client import Aborted, call
from participant_sdk.outbox import BODY_BYTES_MAX, Away, Message, Relay, RelayLimits, put
from participant_sdk.outbox.redis_stream import RedisStream
from participant_sdk.testing.cluster import Cluster
from tests.relational import until
from troth.backoff import Backoff
from troth.errors import Reason, RequestError
from troth.logs import quiet

LIMITS = RelayLimits(look_seconds=0.02, attempts_max=3, deliver_seconds_max=5.0)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("participant_sdk.outbox.relay.AGAIN", Backoff(0.01, 0.05))
    with quiet():
        yield


def bank_of(database: Database, directory: Path, **resource: Any) -> Participant:
    limits = PostgresLimits(connections_max=8, lock_wait_seconds=0.3)
    resource = resource or {"database": database.dsn}
    bank = Participant("bank", resource=Postgres(**resource, limits=limits), data_directory=directory, coordinator="memory:1")

    def leave(db: Any, *, keys: list[str], body: str) -> Any:
        return [str(put(db, "paid", body, key=key or None)) for key in keys]

    async def leave_async(db: Any, *, keys: list[str], body: str) -> list[str]:
        return [str(await put(db, "paid", body, key=key or None)) for key in keys]

    def refuse(db: Any) -> None:
        raise Refuse("NO")

    postgres = bank._setup.resource
    if not postgres.async_reason:
        bank.operation(leave_async)
    if not postgres.plain_reason:
        bank.operation(leave)
        bank.operation(refuse)
    return bank


@pytest.fixture
async def cluster(database: Database, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(bank_of(database, tmp_path)) as cluster:
        yield cluster


class Received:
    """Takes messages; fails as it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.wrong: dict[bytes, BaseException] = {}

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if message.body in self.wrong:
            raise self.wrong[message.body]

    def bodies(self) -> list[str]:
        return [message.body.decode() for message in self.messages]


async def rows(database: Database) -> list[Any]:
    columns = "convert_from(body, 'UTF8'), attempts, error, aside IS NOT NULL"
    return await database.sql(f"SELECT {columns} FROM troth.outbox ORDER BY position")


async def delivered(database: Database, relay: Relay) -> None:
    """Everything that can be delivered has been."""

    async def empty() -> bool:
        return not [row for row in await rows(database) if not row[3]]

    async with relay:
        await until(empty)


async def test_what_a_branch_left_is_delivered_if_it_commits(cluster: Cluster, database: Database) -> None:
    made = (await cluster.run(call("bank", "leave_async", keys=["a", "", "b"], body="1"))).results["bank"][0]
    await cluster.run(call("bank", "leave", keys=["a"], body="2"))
    with pytest.raises(Aborted):
        await cluster.run(call("bank", "leave", keys=["a"], body="3"), call("bank", "refuse"))
    received = Received()
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert sorted(received.bodies()) == ["1", "1", "1", "2"]
    assert {str(message.id) for message in received.messages if message.body == b"1"} == set(made)
    assert [m.body for m in received.messages if m.key == "a"] == [b"1", b"2"] and {m.topic for m in received.messages} == {"paid"}


async def test_nothing_is_delivered_of_a_branch_that_is_in_doubt_and_its_key_waits(cluster: Cluster, database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as other:
        await other.execute("BEGIN")
        await put(other, "paid", "1", key="a")
        await other.execute("PREPARE TRANSACTION 'undecided'")
    with pytest.raises(Aborted) as busy:
        await cluster.run(call("bank", "leave", keys=["a"], body="2"))
    assert busy.value.reason is Reason.CONFLICT and busy.value.retryable
    await cluster.run(call("bank", "leave", keys=["b", ""], body="3"))
    received = Received()
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert received.bodies() == ["3", "3"]
    await database.sql("COMMIT PREPARED 'undecided'")
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert received.bodies() == ["3", "3", "1"]


async def test_a_message_that_cannot_be_delivered_is_set_aside_and_others_go_on(cluster: Cluster, database: Database) -> None:
    for body in ("good", "poison", "after"):
        await cluster.run(call("bank", "leave", keys=["a"], body=body))
    received = Received()
    received.wrong[b"poison"] = ValueError("it has no\0 end")
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert received.bodies() == ["good", "poison", "poison", "poison", "after"]
    assert await rows(database) == [("poison", 3, "ValueError: it has no  end", True)]
    assert len({message.id for message in received.messages}) == 3
    received.wrong.clear()
    await database.sql("UPDATE troth.outbox SET aside = NULL, attempts = 0, due = now() WHERE aside IS NOT NULL")
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert received.bodies()[-1] == "poison" and await rows(database) == []


class Speechless(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


SLIPS = {
    "StopIteration": (StopIteration(), "RuntimeError: coroutine raised StopIteration"),
    "CancelledError": (asyncio.CancelledError(), "CancelledError: "),
    "SystemExit": (SystemExit(1), "SystemExit: 1"),
    "a group": (BaseExceptionGroup("two", [SystemExit(1), ValueError("x")]), "BaseExceptionGroup: two (2 sub-exceptions)"),
    "a surrogate": (ValueError("cut in two: \ud83d"), "ValueError: cut in two: \\ud83d"),
    "no text": (Speechless(), "Speechless"),
}


@pytest.mark.parametrize("slip", SLIPS)
async def test_whatever_the_function_raises_is_that_messages_fault_and_the_relay_goes_on(
    cluster: Cluster, database: Database, slip: str
) -> None:
    for body in ("poison", "after"):
        await cluster.run(call("bank", "leave", keys=["a"], body=body))
    received = Received()
    received.wrong[b"poison"], told = SLIPS[slip]
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert received.bodies() == ["poison", "poison", "poison", "after"]
    assert await rows(database) == [("poison", 3, told, True)]


async def test_a_plain_function_delivers_too(cluster: Cluster, database: Database) -> None:
    await cluster.run(call("bank", "leave", keys=["a"], body="1"))
    taken: list[bytes] = []
    await delivered(database, Relay(database.dsn, lambda message: taken.append(message.body), limits=LIMITS))
    assert taken == [b"1"]


@pytest.mark.parametrize("error", [Away("no broker"), ConnectionRefusedError(), TimeoutError()])
async def test_when_nobody_takes_them_no_message_is_at_fault(cluster: Cluster, database: Database, error: Exception) -> None:
    await cluster.run(call("bank", "leave", keys=["a", "b"], body="1"))
    received = Received()
    received.wrong[b"1"] = error

    async def tried() -> bool:
        return len(received.messages) >= 12

    async with Relay(database.dsn, received, limits=LIMITS):
        await until(tried)
    assert [row[1:] for row in await rows(database)] == [(0, None, False)] * 2
    received.wrong.clear()
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))


async def test_a_relay_that_ends_between_delivery_and_record_delivers_again_under_the_same_id(
    cluster: Cluster, database: Database
) -> None:
    await cluster.run(call("bank", "leave", keys=["a"], body="1"))
    given = asyncio.Event()
    ids = []

    async def hangs(message: Message) -> None:
        ids.append(message.id)
        given.set()
        await asyncio.Event().wait()

    async with Relay(database.dsn, hangs, limits=LIMITS):
        await given.wait()
    received = Received()
    await delivered(database, Relay(database.dsn, received, limits=LIMITS))
    assert [message.id for message in received.messages] == ids


async def test_several_relays_keep_the_order_of_each_key(cluster: Cluster, database: Database) -> None:
    for number in range(30):
        await cluster.run(call("bank", "leave", keys=[f"k{number % 3}"], body=str(number)))
    received = Received()
    limits = RelayLimits(batch_max=2, batch_bytes_max=2, look_seconds=0.02)
    relays = [Relay(database.dsn, received, limits=limits) for _ in range(3)]
    async with relays[0], relays[1]:
        await delivered(database, relays[2])
    assert sum(relay.delivered for relay in relays) == 30
    by_key: defaultdict[str | None, list[int]] = defaultdict(list)
    for message in received.messages:
        by_key[message.key].append(int(message.body))
    assert all(numbers == sorted(numbers) for numbers in by_key.values()) and len(received.messages) == 30


async def test_messages_have_limits(cluster: Cluster, database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database.dsn) as db:
        for topic, key, body in (("", None, ""), ("t", "", ""), ("t" * 201, None, ""), ("t", None, b"x" * (BODY_BYTES_MAX + 1))):
            with pytest.raises(RequestError):
                put(db, topic, body, key=key)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_sessions_of_sqlalchemy_leave_messages_too(database: Database, tmp_path: Path, asynchronous: bool) -> None:
    url = f"postgresql+psycopg://?{'&'.join(part for part in _query(database.dsn))}"
    engine: Any = create_async_engine(url) if asynchronous else create_engine(url)
    async with Cluster(bank_of(database, tmp_path, engine=engine)) as cluster:
        await cluster.run(call("bank", "leave_async" if asynchronous else "leave", keys=["a", ""], body="1"))
    assert [row[0] for row in await rows(database)] == ["1", "1"]
    await engine.dispose() if asynchronous else engine.dispose()


def _query(dsn: str) -> list[str]:
    from psycopg.conninfo import conninfo_to_dict

    return [f"{name}={value}" for name, value in conninfo_to_dict(dsn).items()]


async def test_a_broker_that_is_killed_gets_everything_in_order(cluster: Cluster, database: Database) -> None:
    count = 60

    async def leave() -> None:
        for number in range(count):
            await cluster.run(call("bank", "leave_async", keys=[f"k{number % 4}"], body=str(number)))

    def server_dies() -> None:
        server.kill()
        server.start()

    async def half() -> bool:
        return relay.delivered > count // 4

    with RedisServer() as server:
        async with redis.asyncio.Redis(port=server.port) as client:
            leaving = asyncio.create_task(leave())
            relay = Relay(database.dsn, RedisStream(client), limits=LIMITS)
            async with relay:
                await until(half)
                await asyncio.to_thread(server_dies)
                await leaving
            await delivered(database, Relay(database.dsn, RedisStream(client), limits=LIMITS))
            entries = [fields for _, fields in await client.xrange("paid")]
    seen: Counter[bytes] = Counter(fields[b"id"] for fields in entries)
    first = {fields[b"id"]: fields for fields in reversed(entries)}
    assert len(seen) == count, "each at least once"
    by_key: defaultdict[bytes, list[int]] = defaultdict(list)
    for fields in sorted(first.values(), key=lambda one: entries.index(one)):
        by_key[fields[b"key"]].append(int(fields[b"body"]))
    assert all(numbers == sorted(numbers) for numbers in by_key.values()) and len(by_key) == 4
