"""The two streams: Hello, sessions that are resumed, peers that misbehave, peers that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from shell_harness import SECONDS, FakeParticipant, ScriptedCore, eventually, hello

from coordinator.core import effects, events
from coordinator.server import Daemon
from troth.errors import Reason
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2

PROTOCOL = common_pb2.ProtocolRange(lowest=1, highest=1)


def naming(*operations: str) -> participant_pb2.Hello:
    """A Hello that is in order but for the length of what it names, perhaps."""
    named = hello()
    named.operations.extend(operations)
    return named


class FakeClient:
    """A client's stream, driven by a test."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._outgoing: asyncio.Queue[client_pb2.ConnectRequest | None] = asyncio.Queue()
        self._kept: client_pb2.ConnectResponse | None = None
        self.call = client_pb2_grpc.TransactionServiceStub(channel).Connect(self._requests())

    async def _requests(self) -> AsyncIterator[client_pb2.ConnectRequest]:
        while (frame := await self._outgoing.get()) is not None:
            yield frame

    def send(self, **fields: Any) -> None:
        self._outgoing.put_nowait(client_pb2.ConnectRequest(**fields))

    def leave(self) -> None:
        self._outgoing.put_nowait(None)

    async def read(self) -> Any:
        if self._kept is not None:
            frame, self._kept = self._kept, None
            return frame
        async with asyncio.timeout(SECONDS):
            return await self.call.read()

    async def read_until(self, field: str) -> client_pb2.ConnectResponse:
        while True:
            frame = await self.read()
            assert frame is not grpc.aio.EOF, f"the stream has ended without {field}"
            if any(descriptor.name == field for descriptor, _ in frame.ListFields()):
                return frame

    async def greet(self, resume: client_pb2.ClientWelcome | None = None) -> client_pb2.ClientWelcome:
        named = {} if resume is None else {"session": resume.session, "token": resume.token}
        self.send(hello=client_pb2.ClientHello(protocol=PROTOCOL, **named))
        frame = await self.read()
        self._kept = frame  # what comes with the Welcome is still to be read
        return frame.welcome


# ---- participants


async def test_hello_is_welcomed_with_epoch_and_limits(channel: grpc.aio.Channel) -> None:
    person = FakeParticipant(channel)
    welcome = await person.greet("payments")
    assert (welcome.coordinator, welcome.epoch, welcome.protocol_version) == ("c1", 1, 1)
    assert len(welcome.nonce) == 8
    assert welcome.limits.participants_max == 64
    person.leave()


async def test_who_only_asks_is_welcomed_and_its_stream_ends(channel: grpc.aio.Channel) -> None:
    person = FakeParticipant(channel)
    asking = hello("payments")
    asking.asks = True
    person.send(hello=asking)
    assert (await person.read()).welcome.coordinator == "c1"
    assert await person.call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({}, "PROTOCOL_ERROR"),
        ({"reports_complete": True}, "PROTOCOL_ERROR"),
        ({"hello": hello("Payments!")}, "INVALID_NAME"),
        ({"hello": hello(log_id="")}, "INVALID_ARGUMENT"),
        ({"hello": hello(incarnation=0)}, "INVALID_ARGUMENT"),
        ({"hello": naming("x" * 600_000, "y" * 600_000)}, "INVALID_ARGUMENT"),
        (
            {"hello": participant_pb2.Hello(protocol=common_pb2.ProtocolRange(lowest=9, highest=9), participant="p")},
            "VERSION_MISMATCH",
        ),
    ],
)
async def test_a_bad_hello_gets_goodbye(channel: grpc.aio.Channel, frame: dict[str, Any], reason: str) -> None:
    person = FakeParticipant(channel)
    person.send(**frame)
    assert (await person.read()).goodbye.cause.reason == reason
    assert await person.call.read() is grpc.aio.EOF


async def test_silence_instead_of_hello_gets_goodbye(scripted: Any) -> None:
    channel = await scripted(ScriptedCore(), hello_seconds=0.1)
    assert (await FakeParticipant(channel).read()).goodbye.cause.reason == "PROTOCOL_ERROR"


async def test_a_second_hello_gets_goodbye(channel: grpc.aio.Channel, daemon: Daemon) -> None:
    person = FakeParticipant(channel)
    await person.greet("payments")
    person.send(hello=hello())
    assert (await person.read_until("goodbye")).goodbye.cause.reason == "PROTOCOL_ERROR"
    assert daemon.counters()["malformed_frames"] == 1


async def test_a_second_hello_of_a_client_gets_goodbye(channel: grpc.aio.Channel, daemon: Daemon) -> None:
    client = FakeClient(channel)
    await client.greet()
    client.send(hello=client_pb2.ClientHello(protocol=PROTOCOL))
    assert (await client.read_until("goodbye")).goodbye.cause.reason == "PROTOCOL_ERROR"
    assert daemon.counters()["malformed_frames"] == 1


async def test_who_breaks_the_protocol_is_told_the_rule(channel: grpc.aio.Channel, daemon: Daemon) -> None:
    person = FakeParticipant(channel)
    await person.greet("payments")
    person.send(reports_complete=True, acknowledgements=[participant_pb2.Acknowledgement(transaction_id="t", kind=99)])  # type: ignore[arg-type]  # of a later version
    cause = (await person.read_until("goodbye")).goodbye.cause
    assert cause.reason == "PROTOCOL_ERROR" and "unknown kind 99" in cause.message
    assert daemon.counters()["protocol_errors"] == 1


async def test_another_log_under_the_same_name_is_refused(channel: grpc.aio.Channel) -> None:
    await FakeParticipant(channel).greet("payments")
    other = FakeParticipant(channel)
    other.send(hello=hello("payments", log_id="22" * 16), reports_complete=True)
    assert (await other.read()).goodbye.cause.reason == "FOREIGN_LOG"


async def test_a_newer_incarnation_sends_the_older_stream_away(channel: grpc.aio.Channel) -> None:
    older = FakeParticipant(channel)
    await older.greet("payments")
    newer = FakeParticipant(channel)
    newer.send(hello=hello("payments", incarnation=2), reports_complete=True)
    assert (await newer.read()).HasField("welcome")
    assert (await older.read_until("goodbye")).goodbye.cause.reason == "STALE_INCARNATION"


async def test_a_frame_reaches_the_core_field_by_field(scripted: Any) -> None:
    core = ScriptedCore()
    person = FakeParticipant(await scripted(core))
    report = participant_pb2.BranchReport(transaction_id="t1")
    person.send(
        hello=hello(),
        reports=[report],
        reports_complete=True,
        settlements=[participant_pb2.Settlement(transaction_id="t5")],
        inquiries=[participant_pb2.Inquiry(transaction_id="t4")],
        acknowledgements=[participant_pb2.Acknowledgement(transaction_id="t3")],
        votes=[participant_pb2.Vote(transaction_id="t2")],
        enlists=[participant_pb2.Enlist(transaction_id="t1")],
        position=41,
    )
    person.leave()
    await core.saw(events.ParticipantLost)
    kinds = [type(event).__name__ for event in core.events if not isinstance(event, events.Administer)]
    assert kinds[:2] == ["HelloReceived", "ReportsReceived"]
    messages = [event.message for event in core.events if isinstance(event, events.FromParticipant)]
    assert [message.transaction_id for message in messages] == ["t1", "t2", "t3", "t4", "t5"]
    told = [event.position for event in core.events if isinstance(event, events.HelloReceived | events.FromParticipant)]
    assert told == [41] * 6, "with each goes how far its log was"


async def test_nothing_is_said_before_welcome(scripted: Any) -> None:
    """What the core wants to say before the binding is durable waits for the Welcome."""

    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.HelloReceived):
            return []
        prepare, heard = participant_pb2.Prepare(transaction_id="t1"), participant_pb2.Watermark(epoch=1, below=3)
        return [
            effects.Send("payments", event.stream, "prepares", prepare),
            effects.SendWatermark("payments", event.stream, heard),
            effects.Welcomed("payments", event.stream),
        ]

    person = FakeParticipant(await scripted(ScriptedCore(react)))
    person.send(hello=hello())
    first = await person.read()
    assert first.HasField("welcome")
    assert [prepare.transaction_id for prepare in first.prepares] == ["t1"]
    assert first.watermark.below == 3


@pytest.mark.parametrize("welcomed", [effects.Welcomed, effects.MayBegin])
async def test_welcome_says_how_far_the_participants_log_was_heard(scripted: Any, welcomed: Any) -> None:
    def react(event: Any) -> list[Any]:
        return [welcomed("payments", event.stream, 41)] if isinstance(event, events.HelloReceived) else []

    person = FakeParticipant(await scripted(ScriptedCore(react)))
    person.send(hello=hello())
    assert (await person.read()).welcome.heard == 41
    person.leave()


async def test_a_peer_that_does_not_read_is_sent_away_and_reading_goes_on(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if isinstance(event, events.HelloReceived):
            return [effects.Welcomed(event.participant, event.stream)]
        if isinstance(event, events.FromParticipant):
            message = participant_pb2.Prepare(transaction_id="t" * 100)
            return [effects.Send(event.participant, event.stream, "prepares", message)] * 50
        return []

    core = ScriptedCore(react)
    channel = await scripted(core, outbox_items_max=200, goodbye_seconds=0.2)
    person = FakeParticipant(channel)
    person.send(hello=hello())
    # Nothing is read, so the window of the stream fills, then the outbox, and then the stream is ended.
    lost = asyncio.ensure_future(core.saw(events.ParticipantLost))
    while not lost.done():
        person.send(inquiries=[participant_pb2.Inquiry(transaction_id="t1")] * 100)
        await asyncio.wait((lost,), timeout=0.01)
    assert (await lost).participant == "payments"


async def test_bytes_that_are_no_frame_get_goodbye(scripted: Any) -> None:
    core = ScriptedCore()
    channel = await scripted(core)

    async def frames() -> AsyncIterator[bytes]:
        yield participant_pb2.SessionRequest(hello=hello()).SerializeToString()
        await core.saw(events.HelloReceived)
        yield b"\xff\xff\xff"
        await core.saw(events.ParticipantLost)

    call = channel.stream_stream(
        "/troth.v1.ParticipantService/Session", response_deserializer=participant_pb2.SessionResponse.FromString
    )(frames())
    answers = [frame async for frame in call]
    assert answers[-1].goodbye.cause.reason == "INVALID_ARGUMENT"


# ---- clients


async def test_a_session_runs_and_begins(channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    welcome = await client.greet()
    assert not welcome.resumed
    client.send(begins=[client_pb2.BeginRequest(number=1, timeout_ms=5000)])
    begun = (await client.read_until("begun")).begun[0]
    assert begun.transaction_id == f"{welcome.session}.1"
    client.send(commits=[client_pb2.CommitRequest(number=1)], gets=[client_pb2.GetRequest(transaction_id=begun.transaction_id)])
    frame = await client.read_until("answers")
    assert frame.answers[0].outcome == common_pb2.OUTCOME_COMMITTED
    client.leave()


async def test_what_a_frame_ends_comes_before_what_it_begins(scripted: Any) -> None:
    core = ScriptedCore()
    client = FakeClient(await scripted(core))
    await client.greet()
    begun = asyncio.create_task(core.saw(events.Begin))
    client.send(
        runs=[client_pb2.RunRequest(number=3)],
        begins=[client_pb2.BeginRequest(number=4)],
        commits=[client_pb2.CommitRequest(number=1)],
        aborts=[client_pb2.AbortRequest(number=2)],
    )
    await begun
    asked = [event for event in core.events if isinstance(event, events.Run | events.Begin | events.Commit | events.Abort)]
    assert [event.request.number for event in asked] == [1, 2, 3, 4]
    client.leave()


async def test_a_resumed_session_is_told_again_what_it_has_not_acknowledged(channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    session = await client.greet()
    client.send(begins=[client_pb2.BeginRequest(number=n, timeout_ms=5000) for n in (1, 2)])
    client.send(commits=[client_pb2.CommitRequest(number=n) for n in (1, 2)])
    seen: set[int] = set()
    while seen != {1, 2}:
        seen |= {answer.number for answer in (await client.read_until("answers")).answers}
    client.send(answered_below=2)
    client.leave()
    while await client.read() is not grpc.aio.EOF:
        pass
    again = FakeClient(channel)
    welcome = await again.greet(session)
    assert (welcome.session, welcome.resumed) == (session.session, True)
    assert [answer.number for answer in (await again.read_until("answers")).answers] == [2]
    again.leave()


async def test_a_session_of_another_boot_is_not_resumed(channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    welcome = await client.greet(client_pb2.ClientWelcome(session="c1.1.0badcafe.1", token=b"x" * 16))
    assert not welcome.resumed
    assert welcome.session != "c1.1.0badcafe.1"
    client.leave()


@pytest.mark.parametrize("token", [b"", b"x" * 16, b"x"])
async def test_a_session_is_not_taken_over_by_its_name(channel: grpc.aio.Channel, token: bytes) -> None:
    """The name is in every id of its transactions, and counted up: whoever guessed it got the answers, and sent its client away."""
    owner, thief = FakeClient(channel), FakeClient(channel)
    session = (await owner.greet()).session
    stolen = await thief.greet(client_pb2.ClientWelcome(session=session, token=token))
    assert (stolen.resumed, stolen.session != session) == (False, True)
    thief.leave()
    owner.send(begins=[client_pb2.BeginRequest(number=1, timeout_ms=5000)])
    assert (await owner.read_until("begun")).begun[0].number == 1
    owner.leave()


async def test_a_newer_stream_of_a_session_sends_the_older_away(channel: grpc.aio.Channel) -> None:
    older, newer = FakeClient(channel), FakeClient(channel)
    session = await older.greet()
    assert (await newer.greet(session)).resumed
    assert (await older.read_until("goodbye")).goodbye.cause.reason == "SUPERSEDED_STREAM"
    newer.send(begins=[client_pb2.BeginRequest(number=1, timeout_ms=5000)])
    assert (await newer.read_until("begun")).begun[0].number == 1
    newer.leave()


async def test_a_session_that_nobody_resumes_is_forgotten(scripted: Any) -> None:
    core = ScriptedCore()
    channel = await scripted(core, session_linger_seconds=0.1)
    client = FakeClient(channel)
    session = await client.greet()
    client.leave()
    await core.saw(events.SessionLost)
    async with asyncio.timeout(SECONDS):
        while True:
            again = FakeClient(channel)
            if not (await again.greet(session)).resumed:
                break
            again.call.cancel()
            await asyncio.sleep(0.15)  # longer than the linger: each look in between begins it anew


async def test_a_session_that_is_resumed_does_not_end_as_one_that_is_not(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    welcome = await client.greet()
    session = daemon._sessions._sessions[welcome.session]
    client.leave()
    await eventually(lambda: session.expiry is not None)
    expiry = session.expiry
    again = FakeClient(channel)
    assert (await again.greet(welcome)).resumed
    assert expiry is not None and expiry.cancelled(), "it would be dropped while its stream is open"
    again.leave()


async def test_more_sessions_than_allowed_are_refused(scripted: Any) -> None:
    channel = await scripted(ScriptedCore(), sessions_max=1)
    first, second = FakeClient(channel), FakeClient(channel)
    await first.greet()
    second.send(hello=client_pb2.ClientHello(protocol=PROTOCOL))
    assert (await second.read()).goodbye.cause.reason == "OVERLOADED"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({}, "PROTOCOL_ERROR"),
        ({"hello": client_pb2.ClientHello(protocol=common_pb2.ProtocolRange(lowest=2, highest=3))}, "VERSION_MISMATCH"),
        (
            {"hello": client_pb2.ClientHello(protocol=PROTOCOL), "runs": [client_pb2.RunRequest(timeout_ms=1)]},
            "INVALID_ARGUMENT",
        ),
    ],
)
async def test_a_bad_client_hello_gets_goodbye(channel: grpc.aio.Channel, frame: dict[str, Any], reason: str) -> None:
    client = FakeClient(channel)
    client.send(**frame)
    assert (await client.read_until("goodbye")).goodbye.cause.reason == reason
    assert await client.read() is grpc.aio.EOF


async def test_results_that_do_not_fit_into_a_frame_are_left_out(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.Run):
            return []
        answer = client_pb2.Answer(number=1, outcome=common_pb2.OUTCOME_COMMITTED, results_available=True)
        for name in ("a", "b"):
            answer.results.add(participant=name, results=bytes(60_000))
        return [effects.Answered(event.session, answer)]

    client = FakeClient(await scripted(ScriptedCore(react), frame_bytes_max=100_000, payload_bytes_max=30_000))
    await client.greet()
    client.send(runs=[client_pb2.RunRequest(number=1)])
    answer = (await client.read_until("answers")).answers[0]
    assert answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert not answer.results
    assert not answer.results_available


async def test_an_illegal_request_of_a_session_is_answered(scripted: Any) -> None:
    from troth.errors import RemoteProtocolError

    def react(event: Any) -> list[Any]:
        if isinstance(event, events.Commit):
            raise RemoteProtocolError("no such transition")
        return []

    client = FakeClient(await scripted(ScriptedCore(react)))
    await client.greet()
    client.send(commits=[client_pb2.CommitRequest(number=4)])
    answer = (await client.read_until("answers")).answers[0]
    assert (answer.number, answer.outcome) == (4, common_pb2.OUTCOME_IN_DOUBT)
    assert answer.cause.reason == Reason.PROTOCOL_ERROR.name
