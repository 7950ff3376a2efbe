"""What waits for a participant: who does not read, what nobody waits for, and what is dropped when its stream ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from shell_harness import SECONDS, FakeParticipant, ScriptedCore, eventually, hello

from coordinator.core import effects, events
from coordinator.server import Daemon
from troth.v1 import common_pb2, participant_pb2


async def test_who_is_sent_away_gets_the_goodbye_and_not_what_waited(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.HelloReceived):
            return []
        prepare, away = participant_pb2.Prepare(transaction_id="t1"), common_pb2.Cause(reason="FOREIGN_LOG")
        return [
            effects.Welcomed("payments", event.stream),
            effects.Send("payments", event.stream, "prepares", prepare),
            effects.Rejected("payments", event.stream, away),
        ]

    person = FakeParticipant(await scripted(ScriptedCore(react)))
    person.send(hello=hello())
    frame = await person.read_until("goodbye")
    assert frame.goodbye.cause.reason == "FOREIGN_LOG"
    assert not frame.prepares and not frame.HasField("welcome")


async def test_an_error_of_ours_ends_the_stream_and_keeps_its_text_here(channel: grpc.aio.Channel, daemon: Daemon) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("a secret")

    person = FakeParticipant(channel)
    await person.greet("payments")
    (one,) = daemon._participants._streams.values()
    one._answer = fails
    person.send(callers=[participant_pb2.CallerQuestion(transaction_id="t1")])
    cause = (await person.read_until("goodbye")).goodbye.cause
    assert cause.reason == "INTERNAL" and "secret" not in cause.message
    assert daemon.counters()["internal_errors"] == 1


async def test_many_messages_alone_send_nobody_away(daemons: Any) -> None:
    def react(event: Any) -> list[Any]:
        if isinstance(event, events.HelloReceived):
            return [effects.Welcomed(event.participant, event.stream)]
        if isinstance(event, events.FromParticipant):
            message = participant_pb2.Prepare(transaction_id="t" * 50_000)
            return [effects.Send(event.participant, event.stream, "prepares", message)] * 5
        return []

    core = ScriptedCore(react)
    daemon, channel = await daemons(core, outbox_items_max=100, goodbye_seconds=600.0)
    person = FakeParticipant(channel)
    person.send(hello=hello())
    greeted = await core.saw(events.HelloReceived)
    stream = daemon._participants._streams[greeted.stream].stream
    async with asyncio.timeout(SECONDS):
        while stream._moving_since is None or len(stream.outbox) <= 200:
            person.send(inquiries=[participant_pb2.Inquiry(transaction_id="t1")] * 10)
            await asyncio.sleep(0.01)
    assert not stream.ending, "it has had no time to read"
    assert stream.held_bytes() > stream.outbox.held_bytes, "what the transport has not taken counts as well"
    person.call.cancel()


async def test_what_is_patient_waits_for_company(daemons: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.link.PATIENCE_SECONDS", 3600.0)

    def react(event: Any) -> list[Any]:
        if isinstance(event, events.HelloReceived):
            return [effects.Welcomed(event.participant, event.stream)]
        if not isinstance(event, events.FromParticipant):
            return []
        patient = isinstance(event.message, participant_pb2.Inquiry)
        decision = participant_pb2.Decision(transaction_id="patient" if patient else "hasty")
        return [effects.Send(event.participant, event.stream, "decisions", decision, patient)]

    core = ScriptedCore(react)
    daemon, channel = await daemons(core)
    person = FakeParticipant(channel)
    person.send(hello=hello())
    await person.read_until("welcome")
    for _ in range(3):  # each alone in its frame, if it were in a hurry
        before = len(core.events)
        person.send(inquiries=[participant_pb2.Inquiry(transaction_id="t1")])
        await eventually(lambda before=before: len(core.events) > before)  # type: ignore[misc]  # of this round
    person.send(votes=[participant_pb2.Vote(transaction_id="t1")])
    told = [decision.transaction_id for decision in (await person.read_until("decisions")).decisions]
    assert told == ["patient"] * 3 + ["hasty"]
    (one,) = daemon._participants._streams.values()
    one.stream.outbox.patience.cancel()
    person.leave()
