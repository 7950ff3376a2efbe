"""The session and the connection on paper: what belongs to whom, what is given back, and who is told what. No network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from participant_sdk.client import connection as connection_module
from participant_sdk.client.connection import Connection
from participant_sdk.client.exchange import Exchange, Lost
from participant_sdk.client.session import Session
from participant_sdk.seat import Seat
from tests.patience import SECONDS
from troth.errors import Reason, RequestError
from troth.link import Packed
from troth.v1 import client_pb2, common_pb2

NAME = "c1.1.9f2c4e1a.1"


def welcome(name: str = NAME, *, resumed: bool = False, epoch: int = 1) -> client_pb2.ClientWelcome:
    limits = common_pb2.Limits(frame_bytes_max=1_000_000)
    return client_pb2.ClientWelcome(session=name, resumed=resumed, epoch=epoch, limits=limits)


def connected(pending_max: int = 10) -> Session:
    """A session with a stream that nobody reads."""
    session = Session("127.0.0.1:1", pending_max=pending_max)
    _connected.append(session)
    session.welcomed(welcome())
    return session


_connected: list[Session] = []


@pytest_asyncio.fixture(autouse=True)
async def leaving() -> AsyncIterator[None]:
    """What a test connected leaves."""
    yield
    while _connected:
        await _connected.pop().stop(0.0)


def run(session: Session, seconds: float = 60.0) -> Exchange:
    """A one-shot request that is open."""
    deadline = asyncio.get_running_loop().time() + seconds
    return session.open("runs", client_pb2.RunRequest(), deadline)


def begin(session: Session) -> Exchange:
    """An interactive transaction that has been asked for."""
    return session.open("begins", client_pb2.BeginRequest(), asyncio.get_running_loop().time() + 60)


def answer(session: Session, number: int) -> None:
    """The coordinator answers."""
    done = client_pb2.Answer(number=number, outcome=common_pb2.OUTCOME_COMMITTED)
    session.received(client_pb2.ConnectResponse(answers=[done]))


# ---- whose answers are these


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        (welcome(resumed=True), True),
        (welcome(resumed=False), False),
        (welcome("c1.1.9f2c4e1a.2", resumed=True), False),
        (welcome("c1.1.9f2c4e1a.2"), False),
    ],
)
async def test_only_a_session_of_our_name_that_was_resumed_is_ours(again: client_pb2.ClientWelcome, kept: bool) -> None:
    session = connected()
    exchange = run(session)
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    session.welcomed(again)
    assert session.is_open(exchange) is kept
    assert kept or run(session).number == 1, "a new session counts from 1"


async def test_a_request_that_follows_has_not_been_sent_with_the_one_before() -> None:
    session = connected()
    exchange = begin(session)
    exchange.sent, exchange.resends = True, 3
    session.ask(exchange, "commits", client_pb2.CommitRequest(number=exchange.number))
    assert (exchange.sent, exchange.resends) == (False, 0)


async def test_a_repeated_begin_answers_no_commit() -> None:
    session = connected()
    exchange = begin(session)
    begun = client_pb2.ConnectResponse(begun=[client_pb2.BeginResponse(number=1, transaction_id=f"{NAME}.1")])
    session.received(begun)
    reply = session.ask(exchange, "commits", client_pb2.CommitRequest(number=1))
    session.received(begun)
    assert not reply.done()
    answer(session, 1)
    assert reply.done()


async def test_a_begin_that_is_answered_late_does_not_answer_the_abort() -> None:
    session = connected()
    exchange = begin(session)
    reply = session.ask(exchange, "aborts", client_pb2.AbortRequest(number=1))
    session.received(client_pb2.ConnectResponse(begun=[client_pb2.BeginResponse(number=1, transaction_id=f"{NAME}.1")]))
    assert not reply.done() and exchange.request is not None
    answer(session, 1)
    assert reply.done()


async def test_questions_about_one_transaction_are_answered_in_their_order() -> None:
    session = connected()
    asked = client_pb2.GetRequest(transaction_id=f"{NAME}.9")
    deadline = asyncio.get_running_loop().time() + SECONDS
    first, second = (asyncio.ensure_future(session.question(asked, deadline)) for _ in range(2))
    await asyncio.sleep(0)
    told = [client_pb2.Answer(transaction_id=f"{NAME}.9", pending=pending) for pending in (True, False)]
    session.received(client_pb2.ConnectResponse(got=[client_pb2.GetResponse(answer=one) for one in told]))
    assert [await first, await second] == told


async def test_each_request_has_its_own_end() -> None:
    session = connected()
    replies = [run(session, seconds).reply for seconds in (0.0, 0.01, 0.02)]
    async with asyncio.timeout(SECONDS):
        for reply in replies:
            assert reply is not None
            await reply
    await session.stop(0.0)


# ---- what is given back


async def test_a_question_that_is_given_up_is_forgotten() -> None:
    session = connected()
    assert await session.question(client_pb2.GetRequest(transaction_id=f"{NAME}.9"), 0.0) is None
    assert not session._questions


async def test_who_gives_up_leaves_the_line() -> None:
    session = connected(pending_max=1)
    run(session)
    with pytest.raises(Exception, match="pending_max"):
        await session.wait_ready(0.0)
    assert not session._waiting


async def test_a_turn_is_not_wasted_on_somebody_who_left() -> None:
    session = connected(pending_max=1)
    exchange = run(session)
    deadline = asyncio.get_running_loop().time() + SECONDS
    first, second = (asyncio.ensure_future(session.wait_ready(deadline)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    answer(session, exchange.number)
    await second


async def test_a_closed_session_takes_nothing() -> None:
    session = connected()
    assert session.ready
    session.refused(RequestError(Reason.SHUTTING_DOWN, "closed"))
    assert not session.ready


async def test_leaving_ends_with_the_last_answer() -> None:
    session = connected()
    exchange = run(session)
    async with asyncio.timeout(SECONDS):
        stopping = asyncio.ensure_future(session.stop(3600))
        await asyncio.sleep(0)
        assert not stopping.done()
        answer(session, exchange.number)
        await stopping


async def test_leaving_tells_all_who_wait_and_leaves_no_timer() -> None:
    session = connected()
    exchange = run(session)
    answer(session, exchange.number)  # so that the watermark has a timer
    question = session.question(client_pb2.GetRequest(transaction_id=f"{NAME}.9"), asyncio.get_running_loop().time() + 3600)
    asking = asyncio.ensure_future(question)
    exchange = run(session)
    await asyncio.sleep(0)
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    timers = [session._tick_handle, session._watermark_handle]
    await session.stop(0.0)
    async with asyncio.timeout(SECONDS):
        assert await asking is None
    assert exchange.reply is not None and exchange.reply.result() is Lost.DEADLINE_NEVER_SENT
    assert [timer is not None and timer.cancelled() for timer in timers] == [True, True]


# ---- timers and the watermark


async def test_what_is_unanswered_is_sent_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    enough = asyncio.Event()

    class Recorder:
        first_seconds = 0.001

        def delay_seconds(self, tried: int, key: str) -> float:
            tries.append(tried)
            if len(tries) == 3:
                enough.set()
            return 0.001

    monkeypatch.setattr("participant_sdk.client.session.RESEND", Recorder())
    monkeypatch.setattr("participant_sdk.client.session.TICK_SECONDS", 0.0)
    session = connected()
    run(session)
    async with asyncio.timeout(SECONDS):
        await enough.wait()
    assert tries[:3] == [1, 2, 3] and session.counters.resent >= 3


async def test_the_watermark_rides_once() -> None:
    session = connected()
    answer(session, run(session).number)

    def below() -> int:
        frame = Packed(bytearray(), {})
        session.sending(frame)
        return client_pb2.ConnectRequest.FromString(bytes(frame.data)).answered_below

    assert [below(), below()] == [2, 0]
    answer(session, run(session).number)
    assert [below(), below()] == [3, 0]


# ---- the connection


class PaperPeer:
    """Keeps what the connection tells."""

    def __init__(self) -> None:
        self.losses: list[Reason] = []
        self.refusals: list[Reason] = []
        self.seat = Seat()

    def hello(self) -> client_pb2.ClientHello:
        return client_pb2.ClientHello()

    def welcomed(self, told: client_pb2.ClientWelcome) -> Any:
        return connected().welcomed(told)

    def sending(self, frame: Packed) -> None:
        pass

    def received(self, frame: client_pb2.ConnectResponse) -> None:
        pass

    def lost(self, reason: Reason, message: str) -> None:
        self.losses.append(reason)

    def refused(self, error: RequestError) -> None:
        self.refusals.append(error.reason)


class PaperCall:
    """A stream from which one reads what was written down; then it ends, or waits."""

    def __init__(self, *frames: client_pb2.ConnectResponse, ends: bool = True) -> None:
        self._frames = deque(frames)
        self._ends = ends
        self.cancelled = False

    async def write(self, frame: Any) -> None:
        pass

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        if self._frames:
            return self._frames.popleft().SerializeToString()
        if not self._ends:
            await asyncio.Event().wait()
        return grpc.aio.EOF

    def cancel(self) -> None:
        self.cancelled = True


WELCOME = client_pb2.ConnectResponse(welcome=welcome())
DRAINING = client_pb2.ConnectResponse(goodbye=client_pb2.ClientGoodbye(cause=common_pb2.Cause(reason="DRAINING", retryable=True)))


@pytest.mark.parametrize(
    ("frames", "ends", "reason"),
    [
        ([DRAINING], True, Reason.DRAINING),
        ([WELCOME, DRAINING], True, Reason.DRAINING),
        ([WELCOME], True, Reason.COORDINATOR_AWAY),
        ([client_pb2.ConnectResponse()], True, Reason.COORDINATOR_AWAY),
        ([], False, Reason.COORDINATOR_AWAY),
    ],
)
async def test_every_stream_is_left_and_its_end_is_told(
    frames: list[client_pb2.ConnectResponse], ends: bool, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "GREETING_SECONDS", 0.01)
    call = PaperCall(*frames, ends=ends)
    async with asyncio.timeout(SECONDS):
        told, _ = await Connection("127.0.0.1:1", PaperPeer())._stream(lambda: call)
    assert (told, call.cancelled) == (reason, True)


async def test_dialling_backs_off_and_a_welcome_resets_that(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = deque([PaperCall(), PaperCall(), PaperCall(), PaperCall(WELCOME), PaperCall(), PaperCall()])
    slept: list[float] = []

    class Doubling:
        def delay_seconds(self, attempt: int, key: str) -> float:
            return float(2**attempt)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if not calls:
            raise asyncio.CancelledError

    monkeypatch.setattr(connection_module, "REDIAL", Doubling())
    monkeypatch.setattr(connection_module.asyncio, "sleep", sleep)
    peer = PaperPeer()
    with pytest.raises(asyncio.CancelledError):
        await Connection("127.0.0.1:1", peer)._dial_for_ever(calls.popleft)
    assert slept == [2.0, 4.0, 8.0, 1.0, 2.0, 4.0]
    assert peer.losses == [Reason.COORDINATOR_AWAY] * 6


async def test_who_is_refused_for_good_does_not_dial_again() -> None:
    cause = common_pb2.Cause(reason="VERSION_MISMATCH")
    call = PaperCall(client_pb2.ConnectResponse(goodbye=client_pb2.ClientGoodbye(cause=cause)))
    peer = PaperPeer()
    await Connection("127.0.0.1:1", peer)._dial_for_ever(lambda: call)
    assert peer.refusals == [Reason.VERSION_MISMATCH]


async def test_a_bug_of_the_connection_lets_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Any, connect: Any) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(Connection, "_dial_for_ever", fails)
    peer = PaperPeer()
    with pytest.raises(LookupError):
        await Connection("127.0.0.1:1", peer).run()
    assert (peer.losses, peer.refusals) == ([Reason.INTERNAL], [Reason.INTERNAL])


