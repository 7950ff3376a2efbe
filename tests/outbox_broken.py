"""Interleavings of the outbox relay that went wrong once, whichever database has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from participant_sdk.outbox import Relay
from participant_sdk.outbox.store import store_of
from tests.outbox import OutboxPlace, Received
from troth.backoff import Backoff
from troth.logs import quiet


class BrokenContract:
    """On each database."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("participant_sdk.outbox.relay.AGAIN", Backoff(0.01, 0.05))
        with quiet():
            yield

    @pytest.fixture
    async def connection(self, place: OutboxPlace) -> AsyncIterator[Any]:
        """As a relay has one."""
        async with store_of(place.dsn, 30.0).connected() as connection:
            yield connection

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
