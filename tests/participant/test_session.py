"""The session on loopback: greeting, frames, endings, and dialling again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator

from participant_sdk import session as session_module
from participant_sdk.session import Session
from troth.errors import ProtocolError, Reason, RequestError
from troth.link import BACKLOG_EVENTS_MAX
from troth.v1 import participant_pb2


class Listener:
    """An owner that writes down what it is told."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[int] = asyncio.Queue()
        self.closed_streams: asyncio.Queue[int] = asyncio.Queue()
        self.frames: asyncio.Queue[tuple[int, participant_pb2.SessionResponse]] = asyncio.Queue()
        self.refusal: ProtocolError | None = None
        self.waiting = 0
        self.at = self.heard = 0
        self.asks = iter(())

    def hello(self) -> participant_pb2.Hello:
        return participant_pb2.Hello(participant="bank", incarnation=3, asks=next(self.asks, False))

    def position(self) -> int:
        return self.at

    async def accept(self, welcome: participant_pb2.Welcome, position: int) -> bool:
        if self.refusal is not None:
            raise self.refusal
        return True

    def opened(self, stream: int, welcome: participant_pb2.Welcome, position: int) -> None:
        self.heard = position
        self.streams.put_nowait(stream)

    def received(self, stream: int, frame: participant_pb2.SessionResponse) -> None:
        self.frames.put_nowait((stream, frame))

    def closed(self, stream: int) -> None:
        self.closed_streams.put_nowait(stream)

    def backlog(self) -> int:
        return self.waiting

    async def stream(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.streams.get()

    async def frame(self) -> participant_pb2.SessionResponse:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self.frames.get())[1]


pytestmark = pytest.mark.usefixtures("redials_at_once")


@pytest.fixture
def listener() -> Listener:
    return Listener()


@contextlib.asynccontextmanager
async def dialled(coordinator: PaperCoordinator, listener: Listener) -> AsyncIterator[tuple[Session, asyncio.Task[None]]]:
    session = Session("bank", coordinator.address, listener)
    task = asyncio.create_task(session.run())
    try:
        yield session, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def vote(name: str) -> participant_pb2.Vote:
    return participant_pb2.Vote(transaction_id=name)


async def test_frames_go_both_ways(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        assert (stream.hello.participant, stream.hello.incarnation) == ("bank", 3)
        stream.welcome()
        number = await listener.stream()
        assert (await listener.frame()).HasField("welcome")
        session.send(number, "votes", vote("t1"))
        assert (await stream.heard("votes")).transaction_id == "t1"
        stream.say(decisions=[participant_pb2.Decision(transaction_id="t1")])
        assert (await listener.frame()).decisions[0].transaction_id == "t1"


async def test_the_answer_to_a_hello_that_only_asked_lets_nobody_in(coordinator: PaperCoordinator, listener: Listener) -> None:
    """Also when the participant has begun meanwhile, by the answer of another shard: that stream is over."""
    listener.asks = iter((True,))
    async with dialled(coordinator, listener):
        stream = await coordinator.accept()
        assert not stream.hello.asks
        assert listener.streams.empty()
        stream.welcome()
        await listener.stream()
        assert listener.streams.empty() and listener.closed_streams.empty()


async def test_frames_and_hello_tell_how_far_the_log_is(coordinator: PaperCoordinator, listener: Listener) -> None:
    listener.at = 5
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        assert await stream.heard("position") == 5
        welcome = participant_pb2.Welcome(protocol_version=1, coordinator="c1", epoch=1)
        stream.say(welcome=welcome, position=31)
        number = await listener.stream()
        assert listener.heard == 31
        listener.at = 6
        session.send(number, "votes", vote("t1"))
        assert await stream.heard("position") == 6


async def test_a_lost_stream_is_dialled_again_and_the_old_ones_messages_are_dropped(
    coordinator: PaperCoordinator, listener: Listener
) -> None:
    async with dialled(coordinator, listener) as (session, _):
        first = await coordinator.accept()
        first.welcome()
        old = await listener.stream()
        first.end()
        second = await coordinator.accept()
        second.welcome()
        new = await listener.stream()
        assert new > old
        assert await listener.closed_streams.get() == old
        session.send(old, "votes", vote("late"))
        session.send(new, "votes", vote("now"))
        assert (await second.heard("votes")).transaction_id == "now"


async def test_the_last_report_carries_the_mark(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        stream.welcome(frame_bytes_max=100)
        number = await listener.stream()
        for at in range(20):
            session.send(number, "reports", participant_pb2.BranchReport(transaction_id=f"t{at}", detail="x" * 50))
        session.send_reports_complete(number)
        await stream.heard("reports_complete")
        reporting = [frame for frame in stream.frames if frame.reports]
        assert [frame.reports_complete for frame in reporting] == [False] * (len(reporting) - 1) + [True]
        assert sum(len(frame.reports) for frame in reporting) == 20


async def test_no_reports_are_complete_at_once(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        stream.welcome()
        session.send_reports_complete(await listener.stream())
        assert await stream.heard("reports_complete")


@pytest.mark.parametrize("reason", [Reason.FOREIGN_LOG, Reason.STALE_INCARNATION, Reason.VERSION_MISMATCH])
@pytest.mark.parametrize("greeted", [False, True])
async def test_a_goodbye_for_good_ends_the_session_with_its_reason(
    coordinator: PaperCoordinator, listener: Listener, reason: Reason, greeted: bool
) -> None:
    async with dialled(coordinator, listener) as (_, task):
        stream = await coordinator.accept()
        if greeted:
            stream.welcome()
            await listener.stream()
        stream.goodbye(reason.name, retryable=False)
        stream.end()
        with pytest.raises(RequestError) as caught:
            await asyncio.wait_for(task, PATIENCE_SECONDS)
        assert caught.value.reason is reason


async def test_a_goodbye_for_now_is_dialled_again(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener):
        for _ in range(3):
            stream = await coordinator.accept()
            stream.goodbye("DRAINING", retryable=True)
            stream.end()
        (await coordinator.accept()).welcome()
        await listener.stream()


async def test_a_stale_coordinator_is_not_listened_to_and_dialled_again(coordinator: PaperCoordinator, listener: Listener) -> None:
    listener.refusal = ProtocolError("old", reason=Reason.STALE_EPOCH)
    async with dialled(coordinator, listener):
        stream = await coordinator.accept()
        stream.welcome()
        await stream.until_ended()
        listener.refusal = None
        (await coordinator.accept()).welcome()
        await listener.stream()
        assert listener.closed_streams.empty()


@pytest.mark.parametrize("first", ["decisions", "future version"])
async def test_a_first_frame_that_is_no_welcome_for_us_is_refused(
    coordinator: PaperCoordinator, listener: Listener, first: str
) -> None:
    async with dialled(coordinator, listener):
        stream = await coordinator.accept()
        if first == "decisions":
            stream.say(decisions=[participant_pb2.Decision(transaction_id="t")])
        else:
            stream.welcome(version=9)
        await stream.until_ended()
        await coordinator.accept()
        assert listener.streams.empty() and listener.frames.empty()


async def test_a_dropped_stream_is_dialled_again(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        stream.welcome()
        session.drop(await listener.stream(), ProtocolError("no", reason=Reason.STALE_EPOCH))
        await stream.until_ended()
        (await coordinator.accept()).welcome()
        await listener.stream()


async def test_ending_writes_what_waits(coordinator: PaperCoordinator, listener: Listener) -> None:
    async with dialled(coordinator, listener) as (session, task):
        stream = await coordinator.accept()
        stream.welcome()
        session.send(await listener.stream(), "votes", vote("last"))
        session.end()
        await asyncio.wait_for(task, PATIENCE_SECONDS)
        assert (await stream.heard("votes")).transaction_id == "last"


async def test_a_coordinator_that_is_away_is_waited_for(listener: Listener) -> None:
    coordinator = PaperCoordinator()
    await coordinator.listen(0)
    port = int(coordinator.address.rpartition(":")[2])
    await coordinator.__aexit__()
    async with dialled(coordinator, listener) as (_, task):
        await asyncio.sleep(0)
        await coordinator.listen(port)
        (await coordinator.accept()).welcome()
        await listener.stream()
        assert not task.done()
    await coordinator.__aexit__()


async def test_an_overloaded_participant_reads_no_further(
    coordinator: PaperCoordinator, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    def count() -> int:
        if listener.waiting:
            reached.set()
        return listener.waiting

    monkeypatch.setattr(listener, "backlog", count)
    async with dialled(coordinator, listener):
        stream = await coordinator.accept()
        stream.welcome()
        await listener.frame()
        listener.waiting = BACKLOG_EVENTS_MAX + 1
        for number in (1, 2):
            stream.say(decisions=[participant_pb2.Decision(transaction_id=f"t{number}")])
        assert (await listener.frame()).decisions[0].transaction_id == "t1"
        await reached.wait()
        assert listener.frames.empty()
        listener.waiting = 0
        assert (await listener.frame()).decisions[0].transaction_id == "t2"


# ---- back-off


class Attempts:
    """In place of a back-off: waits for nothing, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[int] = asyncio.Queue()

    def delay_seconds(self, attempt: int, what: str) -> float:
        self.asked.put_nowait(attempt)
        return 0.001


async def test_whoever_is_not_answered_dials_ever_more_rarely(
    coordinator: PaperCoordinator, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts()
    monkeypatch.setattr(session_module, "REDIAL", attempts)
    async with dialled(coordinator, listener), asyncio.timeout(PATIENCE_SECONDS):
        for number in (1, 2, 3):
            (await coordinator.accept()).end()
            assert await attempts.asked.get() == number
        stream = await coordinator.accept()
        stream.welcome()
        await listener.stream()
        stream.end()
        assert await attempts.asked.get() == 0
        (await coordinator.accept()).end()
        assert await attempts.asked.get() == 1
        for number in (2, 3):  # welcomed, and sent away each time
            stream = await coordinator.accept()
            stream.welcome()
            await listener.stream()
            stream.goodbye("DRAINING", retryable=True)
            stream.end()
            assert await attempts.asked.get() == number


async def test_a_report_that_no_frame_could_carry_goes_without_its_results(
    coordinator: PaperCoordinator, listener: Listener
) -> None:
    """Otherwise its Hello would never be complete: the coordinator's limits may have been lowered since it was prepared."""
    async with dialled(coordinator, listener) as (session, _):
        stream = await coordinator.accept()
        stream.welcome(frame_bytes_max=10_000)
        number = await listener.stream()
        prepared = participant_pb2.BRANCH_STATE_PREPARED
        for name, results in (("t1", b"x" * 20_000), ("t2", b"x" * 5_000)):
            report = participant_pb2.BranchReport(transaction_id=name, order=3, state=prepared, results=results)
            session.send(number, "reports", report)
        session.send_reports_complete(number)
        cut, whole = await stream.heard("reports"), await stream.heard("reports")
        assert (cut.transaction_id, cut.order, cut.state, cut.results, cut.results_lost) == ("t1", 3, prepared, b"", True)
        assert (whole.results, whole.results_lost) == (b"x" * 5_000, False)
        assert await stream.heard("reports_complete")
