"""Interleavings of the outbox relay that went wrong once, whichever database has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from participant_sdk.outbox import Away, Message, Relay, RelayLimits
from participant_sdk.outbox.relay import LOOKS_MAX
from participant_sdk.outbox.turns import TOPICS_MAX
from tests.outbox import OnAPlace, OutboxPlace, Received
from tests.outbox_turns import Destinations
from tests.relational import until
from troth.backoff import Backoff
from troth.logs import heard_by


class BrokenContract(OnAPlace):
    """On each database."""

    async def test_a_fault_of_the_relay_itself_ends_no_delivery(
        self, place: OutboxPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told, and whatever it was about is tried again."""
        await place.left(("t", "a", "0"))
        received, faults, told = Received(), [KeyError("t"), UnicodeEncodeError("ascii", "✗", 0, 1, "no such letter")], list[str]()
        async with Relay(place.dsn, received) as relay:
            chosen = relay._turns.of_all

            async def slips(*said: Any) -> Any:
                if faults:
                    raise faults.pop()
                return await chosen(*said)

            monkeypatch.setattr(relay._turns, "of_all", slips)
            with heard_by(lambda level, event, fields: told.append(f"{level} {event}")):
                await until(lambda: asyncio.sleep(0, relay.delivered == 1))
        assert [message.body for message in received.messages] == [b"0"]
        assert told.count("error a relay failed; it goes on") == 2

    async def test_what_was_put_off_between_look_and_lock_is_not_delivered(
        self, place: OutboxPlace, connection: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By another relay, which delivers it at this moment, and has left it behind."""
        await place.left(("t", "a", "0"), ("t", "a", "1"), ("t", None, "2"))
        received = Received()
        relay = Relay(place.dsn, received)
        chosen = relay._turns.of_all

        async def late(*told: Any) -> Any:
            found = await chosen(*told)
            async with relay._outbox.connected() as theirs:
                for one in (found[0], found[2]):
                    await relay._outbox.put_off(theirs, one.position, "it takes long", 60.0)
            return found

        monkeypatch.setattr(relay._turns, "of_all", late)
        await relay.deliver_once(connection)
        assert not received.messages

    async def test_a_topic_that_goes_with_the_others_while_it_is_recorded_as_away_does_not_end_the_relay(
        self, place: OutboxPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of what was left behind one is away, and another batch of its topic has been delivered since."""
        await place.left(("t", "a", "0"), ("u", "b", "1"))
        there, gates = list[str](), {"t": asyncio.Event(), "u": asyncio.Event()}

        async def deliver(message: Message) -> None:
            there.append(message.body.decode())
            if there.count(message.body.decode()) == 1:
                await gates[message.topic].wait()
                raise Away("nobody")

        relay = Relay(place.dsn, deliver, limits=RelayLimits(look_seconds=0.02, deliver_seconds_max=60.0))
        put_off, rounds = relay._outbox.put_off, list[Any]()

        async def slowly(connection: Any, position: int, error: str, wait_seconds: float) -> None:
            await put_off(connection, position, error, wait_seconds)
            if error == "Away: nobody" and not rounds:
                async with relay._outbox.connected() as other:
                    rounds.append(await relay.deliver_once(other, "t"))

        monkeypatch.setattr(relay._outbox, "put_off", slowly)
        async with relay:
            await until(lambda: asyncio.sleep(0, len(there) == 2))
            await until(lambda: asyncio.sleep(0, set(relay.away) == {"t", "u"}))
            await place.left(("t", "c", "2"))
            gates["t"].set()
            gates["u"].set()
            await until(lambda: asyncio.sleep(0, relay.delivered >= 3))
            assert not relay._running.done()

    async def test_where_nothing_was_tried_nobody_has_answered(self, place: OutboxPlace, connection: Any) -> None:
        """What waits is not due, or another relay has it: that the topic is away is not forgotten for it."""
        await place.left(("dead", "a", "x"), ("slow", "b", "x"))
        there = Destinations()
        there.away.add("dead")
        there.slow["slow"] = asyncio.Event()
        relay = Relay(place.dsn, there, limits=RelayLimits(look_seconds=0.02))
        one = asyncio.create_task(relay.deliver_once(connection))
        await until(lambda: asyncio.sleep(0, set(relay.away) == {"dead", "slow"}))
        there.slow["slow"].set()
        await one
        await place.sql("UPDATE {outbox} SET due = '2099-01-01'")
        for topic in ("dead", "slow"):
            assert await relay.deliver_once(connection, topic) == 0
        assert set(relay.away) == {"dead", "slow"} and relay.away["dead"].failures == 1
        await place.sql("UPDATE {outbox} SET due = '2000-01-01'")
        await place.left(("slow", "b", "x"))
        there.away.clear()
        for topic in ("dead", "slow"):
            assert await relay.deliver_once(connection, topic) == 1
        assert not relay.away

    async def test_it_rests_after_some_looks_in_vain_and_not_at_each_one_from_then_on(
        self, place: OutboxPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who stands behind many that are away is found in a few rests."""
        away = [f"a{number:03}" for number in range(TOPICS_MAX * LOOKS_MAX * 2)]
        there, rests = Destinations(), 0
        there.away.update(away)
        relay = Relay(place.dsn, there, limits=RelayLimits(look_seconds=0.0))
        await place.left(("well", None, "x"))
        for topic in away:
            relay._apart.away(topic, "", Backoff(600.0, 600.0))
        await place.left(*((topic, None, "x") for topic in away))

        def rest() -> float:
            nonlocal rests
            rests += 1
            return 0.0

        monkeypatch.setattr(relay, "_pause_seconds", rest)
        async with relay:
            await until(lambda: asyncio.sleep(0, relay.delivered == 1))
            assert rests <= 3

    async def test_what_failed_has_its_turn_while_more_comes_than_is_delivered(self, place: OutboxPlace, connection: Any) -> None:
        await place.left(("t", None, "failed"), ("t", "a", "of key"))
        received = Received()
        received.wrong = {b"failed": Away("x"), b"of key": Away("x")}
        relay = Relay(place.dsn, received, limits=RelayLimits(batch_max=10))
        await place.left(*(("t", key, "x") for number in range(30) for key in (None, f"b{number:05}")))
        await relay.deliver_once(connection)
        received.wrong.clear()
        number = 100
        for _ in range(60):
            await place.left(*(("t", key, "x") for at in range(number, number + 6) for key in (None, f"b{at:05}")))
            number += 6
            await relay.deliver_once(connection)
        assert received.bodies().count("failed") == 2 and received.bodies().count("of key") == 2
