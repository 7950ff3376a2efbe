"""What peers may ask of the daemon, and what is kept for them, is bounded in count and in bytes. Counted, never timed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from shell_harness import SECONDS, FakeParticipant, ScriptedCore, details, eventually, hello, reason_of
from test_shell_streams import FakeClient

from coordinator.core import effects, events
from coordinator.port import server_options
from coordinator.server import Daemon
from coordinator.services.participants import HELLO_ENTRIES_MAX
from troth import logs
from troth.errors import RemoteProtocolError
from troth.link import CHANNEL_OPTIONS
from troth.quiet import LINES_MAX
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2, participant_pb2

WATCHED = "c1.7.0badcafe.0.1"


def transactions(channel: grpc.aio.Channel) -> Any:
    return client_pb2_grpc.TransactionServiceStub(channel)


def welcoming(event: Any) -> list[Any]:
    return [effects.Welcomed(event.participant, event.stream)] if isinstance(event, events.HelloReceived) else []


# ---- calls


async def test_every_call_past_the_limit_is_told_when_to_come_back(scripted: Any) -> None:
    """gRPC's own limit on calls that wait to be taken drops them with a bare CANCELLED."""
    core = ScriptedCore()
    channel = await scripted(core, unary_calls_max=50)
    run = client_pb2.RunRequest(timeout_ms=1000)
    calls = [asyncio.ensure_future(transactions(channel).Run(run)) for _ in range(4_000)]
    told: Counter[str] = Counter()
    async with asyncio.timeout(SECONDS * 3):
        for call in asyncio.as_completed(calls):
            try:
                await call
            except grpc.aio.AioRpcError as error:
                told[error.code().name] += 1
                assert (reason_of(error), details(error)["RetryInfo"].retry_delay.seconds) == ("OVERLOADED", 1)
            if sum(told.values()) == 3_950:
                break
    assert told == {"RESOURCE_EXHAUSTED": 3_950}
    assert len([event for event in core.events if isinstance(event, events.Run)]) == 50
    # Who looks for the reason gets in, and so does a participant's stream.
    await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
    FakeParticipant(channel).send(hello=hello())
    await core.saw(events.HelloReceived)


async def test_a_crowd_of_streams_keeps_no_operator_out(scripted: Any) -> None:
    channel = await scripted(ScriptedCore(welcoming), calls_max=10)
    people = [FakeParticipant(channel) for _ in range(10)]
    for number, person in enumerate(people):
        person.send(hello=hello(f"p{number}"))
        await person.read_until("welcome")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transactions(channel).Get(client_pb2.GetRequest(transaction_id=WATCHED))
    assert reason_of(caught.value) == "OVERLOADED"
    await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())


async def test_places_are_given_back(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        answer = client_pb2.Answer(outcome=common_pb2.OUTCOME_IN_DOUBT)
        return [effects.Got(event.ticket, answer)] if isinstance(event, events.Get) else []

    channel = await scripted(ScriptedCore(react), unary_calls_max=1)
    for _ in range(3):
        await transactions(channel).Get(client_pb2.GetRequest(transaction_id=WATCHED))


@pytest.mark.parametrize("limit", ["watches_max", "connection_watches_max", "transaction_watches_max", "unary_calls_max"])
async def test_watches_are_bounded(scripted: Any, limit: str) -> None:
    core = ScriptedCore()
    channel = await scripted(core, **{limit: 3})
    watches = [transactions(channel).Watch(client_pb2.WatchRequest(transaction_id=WATCHED)) for _ in range(3)]
    reading = [asyncio.ensure_future(watch.read()) for watch in watches]
    await eventually(lambda: sum(isinstance(event, events.Watch) for event in core.events) == 3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(SECONDS):
            await transactions(channel).Watch(client_pb2.WatchRequest(transaction_id=WATCHED)).read()
    assert reason_of(caught.value) == "OVERLOADED"
    assert limit in caught.value.details()
    watches[0].cancel()
    await core.saw(events.Unwatch)
    watch = transactions(channel).Watch(client_pb2.WatchRequest(transaction_id=WATCHED))
    reading.append(asyncio.ensure_future(watch.read()))
    await eventually(lambda: sum(isinstance(event, events.Watch) for event in core.events) == 4)


# ---- frames


@pytest.mark.parametrize("first", [False, True])
async def test_a_frame_of_too_many_messages_ends_the_stream_unheard(scripted: Any, first: bool) -> None:
    core = ScriptedCore(welcoming)
    person = FakeParticipant(await scripted(core, frame_messages_max=100))
    many = {"votes": [participant_pb2.Vote()] * 50, "inquiries": [participant_pb2.Inquiry()] * 51}
    if first:
        person.send(hello=hello(), **many)
    else:
        person.send(hello=hello())
        welcome = (await person.read_until("welcome")).welcome
        assert welcome.limits.frame_messages_max == 100
        person.send(**many)
    goodbye = (await person.read_until("goodbye")).goodbye
    assert goodbye.cause.reason == "FRAME_TOO_LARGE"
    assert "101 messages, frame_messages_max is 100" in goodbye.cause.message
    assert not [event for event in core.events if isinstance(event, events.FromParticipant)]


async def test_a_frame_of_as_many_messages_as_allowed_is_heard(scripted: Any) -> None:
    core = ScriptedCore(welcoming)
    person = FakeParticipant(await scripted(core, frame_messages_max=100))
    person.send(hello=hello(), votes=[participant_pb2.Vote()] * 50, inquiries=[participant_pb2.Inquiry()] * 50)
    person.leave()
    await core.saw(events.ParticipantLost)
    assert sum(isinstance(event, events.FromParticipant) for event in core.events) == 100


async def test_the_first_violation_ends_the_stream_with_the_rule_and_few_lines(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if isinstance(event, events.FromParticipant):
            raise RemoteProtocolError("'vote' for transaction t1, which is COMMITTED")
        return welcoming(event)

    core = ScriptedCore(react)
    channel = await scripted(core)
    streams = set(range(1, LINES_MAX + 6))
    events_told: list[str] = []
    with logs.heard_by(lambda level, event, fields: events_told.append(event)):
        for _ in streams:
            person = FakeParticipant(channel)
            person.send(hello=hello())
            await person.read_until("welcome")
            person.send(votes=[participant_pb2.Vote(transaction_id="t1")] * 2_000)
            cause = (await person.read_until("goodbye")).goodbye.cause
            assert (cause.reason, cause.retryable) == ("PROTOCOL_ERROR", True)
            assert "'vote' for transaction t1, which is COMMITTED" in cause.message
    assert events_told.count("protocol violation") == LINES_MAX
    await eventually(lambda: {event.stream for event in core.events if isinstance(event, events.ParticipantLost)} == streams)


async def test_no_room_is_no_violation(scripted: Any) -> None:
    from troth.errors import Reason

    def react(event: Any) -> list[Any]:
        if isinstance(event, events.FromParticipant):
            raise RemoteProtocolError("there is no room", reason=Reason.OVERLOADED)
        return welcoming(event)

    core = ScriptedCore(react)
    person = FakeParticipant(await scripted(core))
    person.send(hello=hello(), votes=[participant_pb2.Vote()])
    await person.read_until("welcome")
    person.send(reports_complete=True)
    await core.saw(events.ReportsReceived)
    assert not [event for event in core.events if isinstance(event, events.ParticipantLost)]


# ---- bytes


async def test_outboxes_are_bounded_in_bytes_together(daemons: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for large results and reads none of them is sent away; another one is not."""
    results = bytes(50_000)

    def react(event: Any) -> list[Any]:
        if isinstance(event, events.Get):
            answer = client_pb2.Answer(transaction_id=WATCHED, outcome=common_pb2.OUTCOME_COMMITTED)
            answer.results.add(participant="p", results=results)
            return [effects.Got(event.ticket, answer)]
        return []

    limit = 2_000_000
    core = ScriptedCore(react)
    daemon, channel = await daemons(core, outboxes_bytes_max=limit)
    held: list[int] = []
    monkeypatch.setattr(daemon._context.outboxes, "queued", _measured(daemon, held))
    greedy, modest = FakeClient(channel), FakeClient(channel)
    await greedy.greet()
    await modest.greet()
    modest.send(gets=[client_pb2.GetRequest(transaction_id=WATCHED)])
    assert (await modest.read_until("got")).got[0].answer.results
    lost = asyncio.ensure_future(core.saw(events.SessionLost))
    while not lost.done():
        greedy.send(gets=[client_pb2.GetRequest(transaction_id=WATCHED)] * 50)
        await asyncio.wait((lost,), timeout=0.01)
    assert max(held) <= limit + limit // 8 + len(results) + 100
    assert daemon.counters()["overloaded_streams"] == 1
    modest.send(gets=[client_pb2.GetRequest(transaction_id=WATCHED)])
    assert (await modest.read_until("got")).got[0].answer.results
    modest.leave()


def _measured(daemon: Daemon, held: list[int]) -> Any:
    queued = daemon._context.outboxes.queued

    def measure(size: int) -> None:
        queued(size)
        held.append(daemon._context.outboxes.held_bytes())

    return measure


async def test_reading_waits_for_a_core_that_is_far_behind(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a peer sends waits in its own window, not in our memory, while the engine has more than enough to do."""
    monkeypatch.setattr("troth.link.BACKLOG_EVENTS_MAX", -1)
    core = ScriptedCore(welcoming)
    person = FakeParticipant(await scripted(core))
    person.send(hello=hello())
    await person.read_until("welcome")
    for number in range(5):
        person.send(votes=[participant_pb2.Vote(transaction_id=str(number))])
    await core.saw(events.FromParticipant)
    await asyncio.sleep(0.05)
    assert [event.message.transaction_id for event in core.events if isinstance(event, events.FromParticipant)] == ["0"]
    monkeypatch.undo()
    await eventually(lambda: sum(isinstance(event, events.FromParticipant) for event in core.events) == 5)


async def test_a_call_has_as_few_messages_as_a_frame(scripted: Any) -> None:
    channel = await scripted(ScriptedCore(), frame_messages_max=100)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transactions(channel).Run(client_pb2.RunRequest(branches=[client_pb2.BranchRequest()] * 101))
    assert reason_of(caught.value) == "FRAME_TOO_LARGE"


@pytest.mark.parametrize("name", ["operations", "capabilities", "heard", "starts", "starts_after"])
async def test_lists_in_a_hello_are_bounded(scripted: Any, name: str) -> None:
    said = hello()
    entry = {"heard": participant_pb2.Heard(), "starts_after": 1}.get(name, "")
    getattr(said, name).extend([entry] * (HELLO_ENTRIES_MAX + 1))
    core = ScriptedCore(welcoming)
    person = FakeParticipant(await scripted(core))
    person.send(hello=said)
    assert (await person.read_until("goodbye")).goodbye.cause.reason == "INVALID_ARGUMENT"
    assert not [event for event in core.events if isinstance(event, events.HelloReceived)]


# ---- frozen peers


def test_both_sides_give_up_a_peer_that_does_not_answer_a_ping(daemon: Daemon) -> None:
    """gRPC waits a minute for the answer unless told otherwise by a second option."""
    both = {"keepalive_time_ms": 30_000, "keepalive_timeout_ms": 10_000, "http2.ping_timeout_ms": 10_000}
    for options in (dict(CHANNEL_OPTIONS), dict(server_options(daemon.config))):
        assert {name: options[f"grpc.{name}"] for name in both} == both


