"""Whose turn it is in an outbox, whichever database has it: long backlogs, and destinations that are away or slow.

What is counted are rounds and deliveries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from participant_sdk.outbox import Away, Message, Relay, RelayLimits
from participant_sdk.outbox.relay import PROBE_MAX
from participant_sdk.outbox.store import store_of
from participant_sdk.outbox.turns import TOPICS_MAX, WINDOWS_MAX
from tests.outbox import LIMITS, OnAPlace, OutboxPlace, Received, delivered
from tests.relational import until
from troth.logs import heard_by


class Destinations(Received):
    """Takes messages of topics; those that are away take none, and those that are slow do not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.away = set[str]()
        self.slow = dict[str, asyncio.Event]()

    async def __call__(self, message: Message) -> None:
        await super().__call__(message)
        if message.topic in self.away:
            raise Away(f"{message.topic} is away")
        if message.topic in self.slow:
            await self.slow[message.topic].wait()

    def tried(self) -> Counter[str]:
        """Deliveries that began, by topic."""
        return Counter(message.topic for message in self.messages)


class TurnsContract(OnAPlace):
    """On each database."""

    async def test_a_backlog_of_one_key_is_delivered_in_full_batches(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(*(("t", "a", str(number)) for number in range(100)))
        received = Received()
        relay = Relay(place.dsn, received, limits=RelayLimits(batch_max=40))
        tried = [await relay.deliver_once(connection) for _ in range(6)]
        assert [number for number in tried if number] == [40, 40, 20]
        assert received.bodies() == [str(number) for number in range(100)]

    async def test_what_fails_in_the_middle_holds_up_its_key_and_no_other(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(*(("t", key, f"{key}{number}") for number in range(5) for key in "ab"), ("t", None, "c"))
        received = Received()
        received.wrong[b"a2"] = ValueError("poison")
        relay = Relay(place.dsn, received, limits=RelayLimits(attempts_max=2))
        assert await relay.deliver_once(connection) == 9
        assert Counter(received.bodies()) == Counter(["a0", "a1", "a2", *(f"b{number}" for number in range(5)), "c"])
        assert [row[0] for row in await place.rows()] == ["a2", "a3", "a4"]
        await delivered(place, relay)
        assert [body for body in received.bodies() if body > "a1" and body < "b"] == ["a2", "a2", "a3", "a4"]

    async def test_a_key_whose_first_message_is_not_due_is_passed_by(self, place: OutboxPlace, connection: Any) -> None:
        """Many of it stand before all others."""
        await place.left(*(("t", "a", f"a{number}") for number in range(60)), ("t", "b", "b"), ("t", None, "c"))
        received = Received()
        received.wrong[b"a0"] = ValueError("poison")
        relay = Relay(place.dsn, received, limits=RelayLimits(batch_max=10))
        assert await relay.deliver_once(connection) == 3
        assert sorted(received.bodies()) == ["a0", "b", "c"]

    async def test_what_another_relay_has_holds_up_its_key_alone(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(*(("t", key, f"{key}{number}") for number in range(4) for key in "ab"))
        received, other = Received(), store_of(place.dsn, 30.0)
        relay = Relay(place.dsn, received)
        async with other.connected() as theirs, other.transaction(theirs):
            first = [one.position for one in sorted(await other.heads(theirs, ["a"], [], 2))]
            assert len(await other.take(theirs, first)) == 2
            await relay.deliver_once(connection)
            assert received.bodies() == ["b0", "b1", "b2", "b3"]
        await delivered(place, relay)
        assert received.bodies()[4:] == ["a0", "a1", "a2", "a3"]

    async def test_what_is_deleted_in_the_middle_lets_nothing_pass(
        self, place: OutboxPlace, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By somebody else, between the look and the lock."""
        await place.left(*(("t", "a", str(number)) for number in range(4)))
        received = Received()
        relay = Relay(place.dsn, received)
        store = relay._outbox
        take = store.take

        async def late(connection: Any, positions: Any) -> Any:
            if len(positions) == 4:
                await place.sql(f"DELETE FROM {{outbox}} WHERE position = {positions[1]}")
            return await take(connection, positions)

        monkeypatch.setattr(store, "take", late)
        assert await relay.deliver_once(connection) == 1
        await delivered(place, relay)
        assert received.bodies() == ["0", "2", "3"]

    async def test_a_batch_takes_no_longer_than_a_relay_may_be_silent(
        self, place: OutboxPlace, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Past its time a key goes on in the next batch: the database would end the session, and all would come again."""
        monkeypatch.setattr("participant_sdk.outbox.relay.LINE_SECONDS", 0.0)
        await place.left(*(("t", key, f"{key}{number}") for number in range(3) for key in "ab"))
        received = Received()
        relay = Relay(place.dsn, received)
        assert [await relay.deliver_once(connection) for _ in range(3)] == [2, 2, 2]
        assert [sorted(received.bodies()[at : at + 2]) for at in (0, 2, 4)] == [["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]

    async def test_a_destination_that_is_away_costs_the_others_nothing(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(*(("dead", f"d{number}", "x") for number in range(100)))
        await place.left(*(("well", f"w{number % 5}", f"{number}") for number in range(30)))
        there = Destinations()
        there.away.add("dead")
        relay = Relay(place.dsn, there, limits=RelayLimits(batch_max=20))
        for _ in range(3):
            await relay.deliver_once(connection)
        assert there.tried() == {"dead": 16, "well": 30}, "its share of the first batch, and never again"
        assert await relay.deliver_once(connection, "dead") == PROBE_MAX, "it is tried with few"
        assert relay.away["dead"].failures == 2 and relay.away["dead"].error == "Away: dead is away"
        rows = [row for row in await place.rows() if row[2] is not None]
        assert {tuple(row[1:]) for row in rows} == {(0, "Away: dead is away", False)}, "no message is at fault"
        there.away.clear()
        assert await relay.deliver_once(connection, "dead") > 0
        assert not relay.away, "it goes with the others again"
        await delivered(place, relay)
        assert not await place.rows()

    async def test_a_relay_leaves_alone_what_is_away_and_delivers_what_comes(self, place: OutboxPlace) -> None:
        """Of each try only few messages are in vain, however many wait."""
        await place.left(*(("dead", None, "x") for _ in range(60)))
        there, limits = Destinations(), RelayLimits(batch_max=10, look_seconds=0.02)
        there.away.add("dead")
        async with Relay(place.dsn, there, limits=limits) as relay:
            await until(lambda: asyncio.sleep(0, bool(relay.away) and relay.away["dead"].failures >= 4))
            tries = relay.away["dead"].failures
            assert there.tried()["dead"] <= 10 + PROBE_MAX * tries
            await place.left(*(("well", "a", str(number)) for number in range(20)))
            await until(lambda: asyncio.sleep(0, there.tried()["well"] == 20))
            there.away.clear()
            await until(lambda: asyncio.sleep(0, relay.delivered == 80))

    async def test_a_destination_that_does_not_answer_holds_up_no_other(self, place: OutboxPlace) -> None:
        """Two of them, with more messages than a batch has: they have no more than a batch each, and their places."""
        await place.left(*((topic, None, "x") for _ in range(30) for topic in ("slow", "slower")))
        there, limits = Destinations(), RelayLimits(batch_max=10, look_seconds=0.02, deliver_seconds_max=60.0)
        there.slow = {"slow": asyncio.Event(), "slower": asyncio.Event()}
        async with Relay(place.dsn, there, limits=limits) as relay:
            for number in range(5):
                await place.left(("well", "a", str(number)))
                await until(lambda number=number: asyncio.sleep(0, there.tried()["well"] == number + 1))
            await until(lambda: asyncio.sleep(0, relay.delivered == 5))
            assert there.tried()["slow"] <= 10 and there.tried()["slower"] <= 10
            assert set(relay.away) == {"slow", "slower"} and relay.away["slow"].failures == 0
            for gate in there.slow.values():
                gate.set()
            await until(lambda: asyncio.sleep(0, relay.delivered == 65))
            assert len(there.messages) == 65, "none came twice"
            await until(lambda: asyncio.sleep(0, not relay.away))

    async def test_where_everything_takes_long_all_of_it_comes_once_and_in_order(
        self, place: OutboxPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each delivery is left behind by its batch, and recorded by itself; some fail. (A machine that is slower than the time for
        which nobody else takes it brings it twice, as a relay that has died does.)"""
        monkeypatch.setattr("participant_sdk.outbox.relay.GAP_SECONDS", 60.0)
        await place.left(*((f"t{number % 2}", f"k{number % 3}", str(number)) for number in range(24)))
        received, limits = Received(), RelayLimits(look_seconds=0.0, attempts_max=1)
        received.wrong = {b"7": ValueError("poison")}

        async def takes_long(message: Message) -> None:
            for _ in range(50):
                await asyncio.sleep(0)
            await received(message)

        async def gone() -> bool:
            return [tuple(row) for row in await place.rows()] == [("7", 1, "ValueError: poison", True)]

        async with Relay(place.dsn, takes_long, limits=limits), Relay(place.dsn, takes_long, limits=limits):
            await until(gone)
        assert Counter(received.bodies()) == Counter(str(number) for number in range(24))
        for messages in received.by_key().values():
            assert [message.position for message in messages] == sorted(message.position for message in messages)

    async def test_a_destination_of_which_somebody_is_reached_goes_with_the_others(
        self, place: OutboxPlace, connection: Any
    ) -> None:
        """Hooks of many, say: who is away waits alone."""
        await place.left(*(("hooks", key, f"{key}{number}") for number in range(2) for key in "abc"))
        received = Received()
        received.wrong[b"b0"] = Away("b is away")
        relay = Relay(place.dsn, received)
        await relay.deliver_once(connection)
        assert not relay.away and sorted(received.bodies()) == ["a0", "a1", "b0", "c0", "c1"]
        received.wrong.clear()
        await delivered(place, relay)
        assert received.bodies()[5:] == ["b0", "b1"]

    async def test_a_key_keeps_its_order_over_topics(self, place: OutboxPlace, connection: Any) -> None:
        """Behind what waits for a destination that is away, messages of its key to others wait."""
        await place.left(("well", "a", "0"), ("dead", "a", "1"), ("well", "a", "2"), ("well", "b", "3"), ("dead", "c", "4"))
        there = Destinations()
        there.away.add("dead")
        relay = Relay(place.dsn, there)
        for _ in range(3):
            await relay.deliver_once(connection)
        assert sorted(there.bodies()) == ["0", "1", "3", "4"]
        there.away.clear()
        await delivered(place, relay)
        assert [message.body for message in there.by_key()["a"]] == [b"0", b"1", b"1", b"2"]

    async def test_every_topic_and_every_key_has_its_turn(self, place: OutboxPlace) -> None:
        """More than one look sees, and one key that is longer than a window."""
        topics = [f"t{number}" for number in range(2 * TOPICS_MAX + 5)]
        await place.left(*((topic, None, topic) for topic in topics), *((topic, f"k{topic}", topic) for topic in topics))
        await place.left(*(("t1", "long", str(number)) for number in range(30)))
        await place.left(*(("t1", f"x{number}", "x") for number in range(WINDOWS_MAX)))
        received = Received()
        relay = Relay(place.dsn, received, limits=RelayLimits(batch_max=7, look_seconds=0.02))
        await delivered(place, relay)
        assert len(received.messages) == 2 * len(topics) + 30 + WINDOWS_MAX
        assert received.by_key()["long"] == sorted(received.by_key()["long"], key=lambda one: one.position)

    async def test_behind_more_destinations_that_are_away_than_one_look_sees_others_have_their_turn(
        self, place: OutboxPlace, connection: Any
    ) -> None:
        away = [f"a{number:02}" for number in range(TOPICS_MAX)]
        await place.left(*((topic, None, "x") for topic in away), ("well", None, "x"))
        there = Destinations()
        there.away.update(away)
        relay = Relay(place.dsn, there)
        assert [await relay.deliver_once(connection) for _ in range(2)] == [TOPICS_MAX, 1]
        assert there.messages[-1].topic == "well"

    async def test_one_topic_with_much_takes_its_share(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(*(("much", f"m{number}", "x") for number in range(50)), ("few", "a", "x"), ("few", None, "x"))
        there = Destinations()
        assert await Relay(place.dsn, there, limits=RelayLimits(batch_max=6)).deliver_once(connection) == 6
        assert there.tried() == {"much": 4, "few": 2}

    async def test_a_table_of_an_earlier_version_will_do_and_its_missing_index_is_told(self, place: OutboxPlace) -> None:
        told = list[str]()
        await place.sql("{no_index}")
        await place.left(*(("t", key, f"{key}{number}") for number in range(20) for key in "ab"))
        received = Received()
        with heard_by(lambda level, event, fields: told.append(fields["hint"])):
            await delivered(place, Relay(place.dsn, received, limits=LIMITS))
        assert told == ["Run `troth store init --participant NAME` again."]
        assert [message.body.decode() for message in received.by_key()["a"]] == [f"a{number}" for number in range(20)]

    async def test_what_one_look_reads_is_bounded(
        self, place: OutboxPlace, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many of few keys wait: it asks few times, and each answer is short."""
        await place.left(*(("t", f"k{number % 3}", "x") for number in range(150)))
        relay = Relay(place.dsn, Received(), limits=RelayLimits(batch_max=10))
        answers = list[int]()
        for name in ("lines", "heads", "take"):
            ask = getattr(relay._outbox, name)

            async def asked(*question: Any, ask: Any = ask) -> Any:
                rows = await ask(*question)
                answers.append(len(rows))
                return rows

            monkeypatch.setattr(relay._outbox, name, asked)
        assert await relay.deliver_once(connection) == 10
        assert len(answers) <= 3 + 4 and max(answers) <= 12


