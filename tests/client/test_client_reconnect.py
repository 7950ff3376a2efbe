"""Lost streams, lost answers, restarted coordinators: what a client is owed, and what it may conclude."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from fake_coordinator import ABORTED, COMMITTED, IN_DOUBT, FakeCoordinator, cause, results

from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    Client,
    Committed,
    OutcomeUnknown,
    RequestError,
    call,
)
from participant_sdk.client.cell import Sessions
from participant_sdk.client.exchange import Lost
from participant_sdk.client.session import Session
from troth.backoff import Backoff
from troth.errors import Reason
from troth.v1 import client_pb2

DEBIT = call("payments", "debit", account="a", amount=5)


pytestmark = pytest.mark.usefixtures("quick")


# ---- the session is resumed


async def test_a_lost_answer_is_got_after_the_session_is_resumed(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT))
    sent = await coordinator.next("runs")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number)
    coordinator.drop()
    again = await coordinator.next("runs")
    assert again == sent
    assert (await run).transaction_id == "c1.1.9f2c4e1a.1.1"
    assert [hello.session for hello in coordinator.hellos] == ["", "c1.1.9f2c4e1a.1"]


async def test_an_interactive_transaction_survives_a_lost_stream(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction() as tx:
        coordinator.drop()
        for _ in range(2):
            await coordinator.next("hello")
        tx.acknowledge("payments", 2)
    commit = await coordinator.next("commits")
    assert [(each.participant, each.count) for each in commit.acknowledged] == [("payments", 2)]
    assert coordinator.arrived("begins") == 1
    assert tx.outcome is not None and tx.outcome.transaction_id == tx.transaction_id


async def test_an_unanswered_request_is_sent_again_on_a_live_stream(
    coordinator: FakeCoordinator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant_sdk.client.session.RESEND", Backoff(0.01, 0.02))
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT))
    sent = await coordinator.next("runs")
    assert await coordinator.next("runs") == sent
    assert await coordinator.next("runs") == sent
    coordinator.stream.answer(1)
    assert isinstance(await run, Committed)
    assert client.session.counters.resent >= 2


async def test_a_repeated_answer_is_ignored(coordinator: FakeCoordinator, client: Client) -> None:
    def twice(stream: Any, run: Any) -> None:
        stream.answer(run.number)
        stream.answer(run.number, ABORTED, cause=cause("CONFLICT"))

    coordinator.handlers["runs"] = twice
    for number in (1, 2):
        assert (await client.run(DEBIT)).transaction_id.endswith(f".{number}")


# ---- the session is gone: one-shot


async def _restart_under(coordinator: FakeCoordinator, client: Client, **arguments: Any) -> asyncio.Task[Committed]:
    """A run that was sent and not answered when the coordinator was restarted."""
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT, first_attempt_ms=77, **arguments))
    await coordinator.next("runs")
    coordinator.restart()
    return run


async def test_a_sent_run_is_settled_by_asking(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = None
    run = await _restart_under(coordinator, client)
    for _ in range(2):
        get = await coordinator.next("gets")
        assert (get.transaction_id, list(get.participants)) == ("c1.1.9f2c4e1a.1.1", ["payments"])
        assert get.first_attempt_ms == 77
        coordinator.stream.got(get.transaction_id, IN_DOUBT, cause=cause("UNKNOWN_TRANSACTION"))
    await coordinator.next("gets")
    coordinator.stream.got("c1.1.9f2c4e1a.1.1", COMMITTED, results=[results("payments", 95)], results_available=True)
    assert (await run).results == {"payments": [95]}
    assert coordinator.arrived("runs") == 0, "a run that may have happened was run again"


async def test_a_sent_run_may_turn_out_aborted(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = lambda stream, get: stream.got(
        get.transaction_id, ABORTED, cause=cause("COORDINATOR_RESTARTED", retryable=True)
    )
    run = await _restart_under(coordinator, client, attempts=1)
    with pytest.raises(Aborted) as caught:
        await run
    assert (caught.value.reason, caught.value.retryable) == (Reason.COORDINATOR_RESTARTED, True)


async def test_a_sent_run_stays_unknown_when_nobody_can_tell(coordinator: FakeCoordinator, client: Client) -> None:
    run = await _restart_under(coordinator, client)
    for _ in range(2):
        await coordinator.next("gets")
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, IN_DOUBT, cause=cause("EXPIRED"))
    with pytest.raises(OutcomeUnknown) as caught:
        await run
    assert caught.value.transaction_id == "c1.1.9f2c4e1a.1.1"


async def test_a_question_is_asked_again_after_a_lost_stream(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = None
    run = await _restart_under(coordinator, client)
    await coordinator.next("gets")
    coordinator.drop()
    get = await coordinator.next("gets")
    coordinator.stream.got(get.transaction_id, COMMITTED)
    assert isinstance(await run, Committed)


async def test_a_question_without_an_answer_is_an_unknown_outcome(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = None
    await client.run(DEBIT)
    await coordinator.next("runs")
    run = await _restart_under(coordinator, client, timeout=2.5)  # in which it is sent
    with pytest.raises(OutcomeUnknown):
        await run


async def test_new_runs_go_on_in_the_new_session(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT)
    coordinator.restart()
    for _ in range(2):
        await coordinator.next("hello")
    assert (await client.run(DEBIT)).transaction_id == "c1.2.9f2c4e1a.2.1"


# ---- the session is gone: interactive


@pytest.mark.parametrize(("restarted", "reason"), [(True, "COORDINATOR_RESTARTED"), (False, "CLIENT_GONE")])
async def test_work_in_progress_is_aborted_with_its_session(
    coordinator: FakeCoordinator, client: Client, restarted: bool, reason: str
) -> None:
    with pytest.raises(Aborted) as caught:
        async with client.transaction() as tx:
            if restarted:
                coordinator.restart()
            else:
                coordinator.known.clear()
                coordinator.drop()
            for _ in range(2):
                await coordinator.next("hello")
            await client.session.wait_ready(asyncio.get_running_loop().time() + 5)
    assert (caught.value.reason.name, caught.value.retryable) == (reason, True)
    assert caught.value.transaction_id == tx.transaction_id
    assert coordinator.arrived("commits") == 0


async def test_the_next_use_of_a_lost_transaction_says_so(coordinator: FakeCoordinator, client: Client) -> None:
    with pytest.raises(Aborted) as caught:
        async with client.transaction() as tx:
            coordinator.restart()
            for _ in range(2):
                await coordinator.next("hello")
            await client.session.wait_ready(asyncio.get_running_loop().time() + 5)
            tx.context()
    assert caught.value.reason is Reason.COORDINATOR_RESTARTED


async def test_a_sent_commit_is_settled_by_asking(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["commits"] = None
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, COMMITTED)

    async def work() -> Any:
        async with client.transaction(first_attempt_ms=77) as tx:
            tx.acknowledge("payments")
        return tx

    task = asyncio.create_task(work())
    await coordinator.next("commits")
    coordinator.restart()
    get = await coordinator.next("gets")
    assert (list(get.participants), get.first_attempt_ms) == (["payments"], 77)
    assert (await task).outcome.transaction_id == "c1.1.9f2c4e1a.1.1"


async def test_a_begin_that_was_lost_is_begun_again(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["begins"] = None
    enter = asyncio.create_task(client.transaction(key="k").__aenter__())
    await coordinator.next("begins")
    coordinator.handlers["begins"] = lambda stream, begin: stream.begun(begin.number)
    coordinator.restart()
    assert (await enter).transaction_id == "c1.2.9f2c4e1a.2.1"


# ---- the session itself, without a stream: what was never put on the wire


@pytest_asyncio.fixture
async def session() -> AsyncIterator[Session]:
    """A session that is welcomed by hand."""
    session = Session("127.0.0.1:1", pending_max=10)
    yield session
    await session.stop(0)


def _welcome(session: Session, name: str, *, epoch: int = 1, resumed: bool = False) -> Any:
    return session.welcomed(client_pb2.ClientWelcome(session=name, epoch=epoch, resumed=resumed))


def _drained(outbox: Any) -> client_pb2.ConnectRequest:
    return client_pb2.ConnectRequest.FromString(outbox.drain().data)


def _soon() -> float:
    return asyncio.get_running_loop().time() + 60


async def test_what_was_never_sent_is_known_to_be_never_sent(session: Session) -> None:
    outbox = _welcome(session, "s.1")
    sent = session.open("runs", client_pb2.RunRequest(), _soon())
    assert len(_drained(outbox).runs) == 1
    unsent = session.open("runs", client_pb2.RunRequest(), _soon())
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    _welcome(session, "s.2", epoch=2)
    assert sent.reply is not None and sent.reply.result() is Lost.SESSION_GONE
    assert unsent.reply is not None and unsent.reply.result() is Lost.NEVER_SENT


async def test_a_resumed_session_sends_both(session: Session) -> None:
    outbox = _welcome(session, "s.1")
    session.open("runs", client_pb2.RunRequest(), _soon())
    outbox.drain()
    session.open("runs", client_pb2.RunRequest(), _soon())
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    again = _drained(_welcome(session, "s.1", resumed=True))
    assert [run.number for run in again.runs] == [1, 2]


async def test_what_was_sent_once_stays_sent_over_streams(session: Session) -> None:
    outbox = _welcome(session, "s.1")
    run = session.open("runs", client_pb2.RunRequest(), _soon())
    outbox.drain()
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    _welcome(session, "s.1", resumed=True)  # the repeat waits in the outbox and is lost with it
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    _welcome(session, "s.2", epoch=2)
    assert run.reply is not None and run.reply.result() is Lost.SESSION_GONE


async def test_a_repeat_that_waits_does_not_make_the_first_unsent(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("participant_sdk.client.session.RESEND", Backoff(0.001, 0.001))
    outbox = _welcome(session, "s.1")
    run = session.open("runs", client_pb2.RunRequest(), _soon())
    outbox.drain()
    assert outbox.drain() is None
    await outbox.wait()
    assert len(outbox) == 1, "the repeat waits"
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    _welcome(session, "s.2", epoch=2)
    assert run.reply is not None and run.reply.result() is Lost.SESSION_GONE


async def test_a_commit_that_was_never_sent_can_never_commit(session: Session) -> None:
    outbox = _welcome(session, "s.1")
    exchange = session.open("begins", client_pb2.BeginRequest(), _soon())
    outbox.drain()
    session.received(client_pb2.ConnectResponse(begun=[client_pb2.BeginResponse(number=1, transaction_id="s.1.1")]))
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    reply = session.ask(exchange, "commits", client_pb2.CommitRequest(number=1))
    _welcome(session, "s.2", epoch=2)
    assert reply.result() is Lost.NEVER_SENT
    assert exchange.over is Reason.COORDINATOR_RESTARTED


async def test_a_deadline_tells_whether_the_request_was_sent(session: Session) -> None:
    now = asyncio.get_running_loop().time()
    outbox = _welcome(session, "s.1")
    sent = session.open("runs", client_pb2.RunRequest(), now)
    outbox.drain()
    unsent = session.open("runs", client_pb2.RunRequest(), now)
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    assert sent.reply is not None and unsent.reply is not None
    assert await sent.reply is Lost.DEADLINE
    assert await unsent.reply is Lost.DEADLINE_NEVER_SENT
    assert session.pending == 0


async def test_a_run_that_could_not_be_sent_in_time_is_aborted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("127.0.0.1:1", grace_seconds=0.001)
    monkeypatch.setattr(client, "_running", Sessions(lambda seat: session))
    _welcome(session, "s.1")
    run = asyncio.create_task(client.run(DEBIT, timeout=0.05))
    await asyncio.sleep(0)  # the request waits in the outbox
    assert session.pending == 1
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    with pytest.raises(Aborted) as caught:
        await run
    assert (caught.value.reason, caught.value.transaction_id) == (Reason.COORDINATOR_AWAY, "s.1.1")


async def test_a_run_that_was_never_sent_gets_a_new_number(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("127.0.0.1:1")
    monkeypatch.setattr(client, "_running", Sessions(lambda seat: session))
    _welcome(session, "s.1")
    run = asyncio.create_task(client.run(DEBIT))
    await asyncio.sleep(0)
    session.lost(Reason.COORDINATOR_AWAY, "gone")
    outbox = _welcome(session, "s.2", epoch=2)
    await outbox.wait()
    assert [request.number for request in _drained(outbox).runs] == [1]
    session.received(client_pb2.ConnectResponse(answers=[client_pb2.Answer(number=1, outcome=COMMITTED)]))
    assert (await run).transaction_id == "s.2.1"


# ---- asking by hand


async def test_get_tells_each_outcome(coordinator: FakeCoordinator, client: Client) -> None:
    transaction_id = "c1.1.9f2c4e1a.9.9"
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, COMMITTED)
    assert (await client.get(transaction_id)).transaction_id == transaction_id
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, ABORTED, cause=cause("TIMEOUT"))
    with pytest.raises(Aborted):
        await client.get(transaction_id)
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, IN_DOUBT, cause=cause("UNKNOWN_TRANSACTION"))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.get(transaction_id, timeout=60)  # at once: without participants nobody can be asked
    assert caught.value.reason is Reason.UNKNOWN_TRANSACTION
    with pytest.raises(OutcomeUnknown):
        await client.get(transaction_id, participants=["payments"], first_attempt_ms=77, timeout=0.05)


async def test_two_may_ask_about_one_transaction(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = None
    asking = [asyncio.create_task(client.get("c1.1.9f2c4e1a.9.9")) for _ in range(2)]
    for _ in range(2):
        await coordinator.next("gets")
    coordinator.stream.got("c1.1.9f2c4e1a.9.9", COMMITTED)
    coordinator.stream.got("c1.1.9f2c4e1a.9.9", COMMITTED)
    assert all(isinstance(done, Committed) for done in await asyncio.gather(*asking))


async def test_get_checks_what_it_is_given(client: Client) -> None:
    for arguments, reason in [
        ({"transaction_id": "c1"}, Reason.INVALID_TRANSACTION_ID),
        ({"transaction_id": "c1.1.9f2c4e1a.9.9", "participants": ["No"]}, Reason.INVALID_NAME),
        ({"transaction_id": "c1.1.9f2c4e1a.9.9", "timeout": 0}, Reason.INVALID_TIMEOUT),
    ]:
        with pytest.raises(RequestError) as caught:
            await client.get(**arguments)
        assert caught.value.reason is reason


def test_already_committed_is_a_request_error() -> None:
    answer = client_pb2.Answer(transaction_id="c1.1.9f2c4e1a.9.9", outcome=COMMITTED)
    error = AlreadyCommitted(Committed(answer, ""))
    assert isinstance(error, RequestError)
    assert error.reason is Reason.ALREADY_COMMITTED
