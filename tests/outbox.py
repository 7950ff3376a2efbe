"""What an outbox does, whichever database has it and whatever `db` a branch gets: contracts that the tests of each database run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis.asyncio

from participant_sdk import Participant, Refuse
from participant_sdk.client import Aborted, call
from participant_sdk.outbox import Away, Message, Relay, RelayLimits, put
from participant_sdk.outbox.redis_stream import RedisStream
from participant_sdk.outbox.store import store_of
from participant_sdk.testing.cluster import Cluster
from tests.redis_server import RedisServer
from tests.relational import until
from troth.backoff import Backoff
from troth.errors import Reason
from troth.logs import quiet

LIMITS = RelayLimits(look_seconds=0.02, attempts_max=3, deliver_seconds_max=5.0)
ROOT = Path(__file__).resolve().parents[1]


class OutboxPlace(Protocol):
    """A database with an outbox, past the relay and the participants."""

    dsn: str
    """As a relay takes it."""

    async def rows(self) -> Sequence[Any]:
        """Body as text, attempts, error, and whether it is set aside, of each message by position."""

    async def left(self, *messages: tuple[str, str | None, str]) -> None:
        """Topic, key and body of messages that somebody has left, in this order, each by itself."""

    async def sql(self, statement: str) -> None:
        """`{outbox}` stands for the table."""

    async def try_again(self) -> None:
        """Let what is set aside be due again."""

    async def undecided(self, body: str, key: str) -> None:
        """Another software's branch has left a message, and is prepared."""

    async def decide(self) -> None:
        """Commit that."""


@dataclass(frozen=True)
class OutboxBench:
    """A database, and participants whose operations get one kind of `db`."""

    place: OutboxPlace
    resource: Any
    """Makes one for a participant."""
    blocking: bool = False

    def participant(self, name: str, directory: Path) -> Participant:
        """One that leaves messages, or refuses."""
        made = Participant(name, resource=self.resource(), data_directory=directory, coordinator="memory:1")

        def leave(db: Any, *, keys: list[str], body: str) -> Any:
            return [str(put(db, "paid", body, key=key or None)) for key in keys]

        async def leave_async(db: Any, *, keys: list[str], body: str) -> list[str]:
            return [str(await put(db, "paid", body, key=key or None)) for key in keys]

        def refuse(db: Any) -> None:
            raise Refuse("NO")

        async def refuse_async(db: Any) -> None:
            raise Refuse("NO")

        made.operation(name="leave")(leave if self.blocking else leave_async)
        made.operation(name="refuse")(refuse if self.blocking else refuse_async)
        return made


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

    def by_key(self) -> dict[str | None, list[Message]]:
        found: defaultdict[str | None, list[Message]] = defaultdict(list)
        for message in self.messages:
            found[message.key].append(message)
        return found


async def delivered(place: OutboxPlace, relay: Relay) -> None:
    """Everything that can be delivered has been."""

    async def empty() -> bool:
        return not [row for row in await place.rows() if not row[3]]

    async with relay:
        await until(empty)


class TriedSoon:
    """What fails is tried again at once."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("participant_sdk.outbox.relay.AGAIN", Backoff(0.01, 0.05))
        with quiet():
            yield


class OnAPlace(TriedSoon):
    """What contracts of relays alone need: `place` is given by the module that runs them."""

    @pytest.fixture
    async def connection(self, place: OutboxPlace) -> AsyncIterator[Any]:
        """As a relay has one."""
        async with store_of(place.dsn, 30.0).connected() as connection:
            yield connection


class OnABench(TriedSoon):
    """What each contract needs: `bench` is given by the class that runs it."""

    @pytest.fixture
    async def cluster(self, bench: OutboxBench, tmp_path: Path) -> AsyncIterator[Cluster]:
        async with Cluster(*(bench.participant(name, tmp_path) for name in ("bank", "shop"))) as cluster:
            yield cluster

    @pytest.fixture
    def place(self, bench: OutboxBench) -> OutboxPlace:
        return bench.place


class LeavingContract(OnABench):
    """Messages in branches, for each kind of `db`."""

    async def test_what_a_branch_left_is_delivered_if_it_commits(self, cluster: Cluster, place: OutboxPlace) -> None:
        """In one phase, in two, and not."""
        made = (await cluster.run(call("bank", "leave", keys=["a", "", "b"], body="1"))).results["bank"][0]
        await cluster.run(call("bank", "leave", keys=["a"], body="2"), call("shop", "leave", keys=["c"], body="2"))
        with pytest.raises(Aborted):
            await cluster.run(call("bank", "leave", keys=["a"], body="3"), call("shop", "refuse"))
        with pytest.raises(Aborted):
            await cluster.run(call("bank", "leave", keys=["a"], body="4"), call("bank", "refuse"))
        assert [row[0] for row in await place.rows()] == ["1", "1", "1", "2", "2"]
        received = Received()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert sorted(received.bodies()) == ["1", "1", "1", "2", "2"]
        assert {str(message.id) for message in received.messages if message.body == b"1"} == set(made)
        assert [message.body for message in received.by_key()["a"]] == [b"1", b"2"]
        assert {message.topic for message in received.messages} == {"paid"}
        assert {message.key for message in received.messages} == {"a", "b", "c", None}

    async def test_a_branch_in_doubt_holds_back_its_key_and_no_other(self, cluster: Cluster, place: OutboxPlace) -> None:
        await place.undecided("1", "a")
        with pytest.raises(Aborted) as busy:
            await cluster.run(call("bank", "leave", keys=["a"], body="2"))
        assert busy.value.reason is Reason.CONFLICT and busy.value.retryable
        await cluster.run(call("bank", "leave", keys=["b", ""], body="3"))
        received = Received()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert received.bodies() == ["3", "3"]
        await place.decide()
        await cluster.run(call("bank", "leave", keys=["a"], body="4"))
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert received.bodies() == ["3", "3", "1", "4"]

    async def test_every_text_and_every_byte_arrives_as_it_was(self, bench: OutboxBench, tmp_path: Path) -> None:
        key, topic, body = "ключ 🔑 '\"\\%s ", "t \u00e9\n", bytes(range(256))
        keeper = bench.participant("keeper", tmp_path)

        def odd(db: Any) -> None:
            for one in (key, key.rstrip()):
                put(db, topic, body, key=one)

        async def odd_async(db: Any) -> None:
            for one in (key, key.rstrip()):
                await put(db, topic, body, key=one)

        keeper.operation(name="odd")(odd if bench.blocking else odd_async)
        async with Cluster(keeper) as cluster:
            await cluster.run(call("keeper", "odd"))
        received, dsn = Received(), bench.place.dsn
        async with Relay(dsn, received, limits=LIMITS):
            await until(lambda: asyncio.sleep(0, len(received.messages) == 2))
        assert [(message.topic, message.key, message.body) for message in received.messages] == [
            (topic, key, body), (topic, key.rstrip(), body),
        ]  # fmt: skip


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


class RelayContract(OnABench):
    """Relays, on each database and with each driver that one has."""

    async def test_a_message_that_cannot_be_delivered_is_set_aside_and_others_go_on(
        self, cluster: Cluster, place: OutboxPlace
    ) -> None:
        for body in ("good", "poison", "after"):
            await cluster.run(call("bank", "leave", keys=["a"], body=body))
        received = Received()
        received.wrong[b"poison"] = ValueError("it has no\0 end")
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert received.bodies() == ["good", "poison", "poison", "poison", "after"]
        assert list(await place.rows()) == [("poison", 3, "ValueError: it has no  end", True)]
        assert len({message.id for message in received.messages}) == 3
        assert [message.attempts for message in received.messages] == [0, 0, 1, 2, 0]
        received.wrong.clear()
        await place.try_again()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert received.bodies()[-1] == "poison" and not await place.rows()

    @pytest.mark.parametrize("slip", SLIPS)
    async def test_whatever_the_function_raises_is_that_messages_fault_and_the_relay_goes_on(
        self, cluster: Cluster, place: OutboxPlace, slip: str
    ) -> None:
        for body in ("poison", "after"):
            await cluster.run(call("bank", "leave", keys=["a"], body=body))
        received = Received()
        received.wrong[b"poison"], told = SLIPS[slip]
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert received.bodies() == ["poison", "poison", "poison", "after"]
        assert list(await place.rows()) == [("poison", 3, told, True)]

    async def test_a_plain_function_delivers_too(self, cluster: Cluster, place: OutboxPlace) -> None:
        await cluster.run(call("bank", "leave", keys=["a"], body="1"))
        taken: list[bytes] = []
        await delivered(place, Relay(place.dsn, lambda message: taken.append(message.body), limits=LIMITS))
        assert taken == [b"1"]

    @pytest.mark.parametrize("error", [Away("no broker"), ConnectionRefusedError(), TimeoutError()])
    async def test_when_nobody_takes_them_no_message_is_at_fault(
        self, cluster: Cluster, place: OutboxPlace, error: Exception
    ) -> None:
        await cluster.run(call("bank", "leave", keys=["a", "b"], body="1"))
        received = Received()
        received.wrong[b"1"] = error

        async def tried() -> bool:
            return len(received.messages) >= 12

        async with Relay(place.dsn, received, limits=LIMITS):
            await until(tried)
        told = f"{type(error).__name__}: {error}"
        assert [tuple(row[1:]) for row in await place.rows()] == [(0, told, False)] * 2
        received.wrong.clear()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))

    async def test_a_relay_that_ends_between_delivery_and_record_delivers_again_under_the_same_id(
        self, cluster: Cluster, place: OutboxPlace
    ) -> None:
        await cluster.run(call("bank", "leave", keys=["a"], body="1"))
        given = asyncio.Event()
        ids = []

        async def hangs(message: Message) -> None:
            ids.append(message.id)
            given.set()
            await asyncio.Event().wait()

        async with Relay(place.dsn, hangs, limits=LIMITS):
            await given.wait()
        received = Received()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert [message.id for message in received.messages] == ids

    async def test_a_relay_that_is_killed_keeps_nothing_back(self, cluster: Cluster, place: OutboxPlace, tmp_path: Path) -> None:
        """Another process, in the middle of a delivery: what it had is delivered by the next one, under the same ids."""
        await cluster.run(call("bank", "leave", keys=["a"], body="hangs"), call("shop", "leave", keys=["b", ""], body="1"))
        await cluster.run(call("bank", "leave", keys=["a"], body="2"))
        there = tmp_path / "delivered"
        command = [sys.executable, str(ROOT / "tests" / "outbox_relay.py"), place.dsn, str(there)]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            await until(lambda: asyncio.to_thread(lambda: there.exists() and there.read_text().count("\n") == 3))
        finally:
            process.kill()
            await process.wait()
        received = Received()
        await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert Counter(received.bodies()) == {"hangs": 1, "1": 2, "2": 1}
        again = {f"{message.id} {message.body.decode()}" for message in received.messages}
        assert set(there.read_text().splitlines()) == {one for one in again if not one.endswith(" 2")}

    async def test_a_relay_that_is_silent_for_long_loses_what_it_holds(self, cluster: Cluster, place: OutboxPlace) -> None:
        """Its computer is gone, say, and the server has not noticed: another one goes on."""
        await cluster.run(call("bank", "leave", keys=["a"], body="1"))
        silent, received, taken = store_of(place.dsn, idle_seconds=0.5), Received(), list[Message]()
        while not taken:  # on a machine that pauses it is silent for so long before it has anything
            with suppress(*silent.kinds):  # it has no session any more
                async with silent.connected() as connection, silent.transaction(connection):
                    heads = await silent.heads(connection, ["a"], [], 10)
                    taken = await silent.take(connection, [one.position for one in heads])
                    await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert [message.id for message in received.messages] == [message.id for message in taken]
        assert len(taken) == 1

    async def test_several_relays_keep_the_order_of_each_key(
        self, cluster: Cluster, place: OutboxPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """(What a relay does not record within this time another one brings again.)"""
        monkeypatch.setattr("participant_sdk.outbox.relay.GAP_SECONDS", 60.0)
        for number in range(30):
            await cluster.run(call("bank", "leave", keys=[f"k{number % 3}"], body=str(number)))
        received = Received()
        limits = RelayLimits(batch_max=2, batch_bytes_max=2, look_seconds=0.02)
        relays = [Relay(place.dsn, received, limits=limits) for _ in range(3)]
        async with relays[0], relays[1], relays[2]:
            await until(lambda: asyncio.sleep(0, sum(relay.delivered for relay in relays) == 30))
        assert len(received.messages) == 30, "none came twice"
        assert not await place.rows()
        numbers = [[int(message.body) for message in messages] for messages in received.by_key().values()]
        assert numbers == [sorted(one) for one in numbers]

    async def test_nothing_of_a_key_appears_below_what_was_delivered(self, cluster: Cluster, place: OutboxPlace) -> None:
        """Branches in one phase and in two leave messages of few keys at the same time, while relays deliver."""
        left: list[str] = []

        async def leave(number: int) -> None:
            calls = [call(name, "leave", keys=[f"k{(number + own) % 3}"], body=f"{number}.{name}")
                     for own, name in enumerate(("bank", "shop")[: 1 + number % 2])]  # fmt: skip
            with suppress(Aborted):  # another one has the key for too long
                await cluster.run(*calls)
                left.extend(f"{number}.{name}" for name in ("bank", "shop")[: len(calls)])

        received = Received()
        async with Relay(place.dsn, received, limits=LIMITS):
            for wave in count():
                await asyncio.gather(*(leave(wave * 6 + number) for number in range(6)))
                if wave >= 5 and len(left) >= 12:  # on a slow machine most of them wait for a key in vain
                    break
            await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert sorted(received.bodies()) == sorted(left)
        positions = [[message.position for message in messages] for messages in received.by_key().values()]
        assert positions == [sorted(one) for one in positions]

    async def test_a_broker_that_is_killed_gets_everything_in_order(self, cluster: Cluster, place: OutboxPlace) -> None:
        count = 60

        async def leave() -> None:
            for number in range(count):
                await cluster.run(call("bank", "leave", keys=[f"k{number % 4}"], body=str(number)))

        def server_dies() -> None:
            server.kill()
            server.start()

        async def half() -> bool:
            return relay.delivered > count // 4

        with RedisServer() as server:
            async with redis.asyncio.Redis(port=server.port) as client:
                leaving = asyncio.create_task(leave())
                relay = Relay(place.dsn, RedisStream(client), limits=LIMITS)
                async with relay:
                    await until(half)
                    await asyncio.to_thread(server_dies)
                    await leaving
                await delivered(place, Relay(place.dsn, RedisStream(client), limits=LIMITS))
                entries = [fields for _, fields in await client.xrange("paid")]
        seen: Counter[bytes] = Counter(fields[b"id"] for fields in entries)
        first = {fields[b"id"]: fields for fields in reversed(entries)}
        assert len(seen) == count, "each at least once"
        by_key: defaultdict[bytes, list[int]] = defaultdict(list)
        for fields in sorted(first.values(), key=lambda one: entries.index(one)):
            by_key[fields[b"key"]].append(int(fields[b"body"]))
        assert all(numbers == sorted(numbers) for numbers in by_key.values()) and len(by_key) == 4
