"""Under an idempotency key: what is uncertain is asked under the key, and only the coordinator can say that nothing happened."""

from __future__ import annotations

import asyncio
import socket

import pytest
from fake_coordinator import ABORTED, COMMITTED, IN_DOUBT, FakeCoordinator, cause

from participant_sdk.client import Aborted, AlreadyCommitted, Client, Committed, OutcomeUnknown, call
from troth.errors import Reason
from troth.keys import INTERACTIVE_HASH, body_hash
from troth.v1 import client_pb2

DEBIT = call("payments", "debit", account="a", amount=5)
DEBIT_WORK = client_pb2.BranchRequest(participant="payments", operations=[DEBIT.operation])
HOLDER = "c1.1.9f2c4e1a.9.9"


async def _restart_under(coordinator: FakeCoordinator, client: Client, attempts: int = 1) -> asyncio.Task[Committed]:
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT, key="k", first_attempt_ms=77, attempts=attempts))
    await coordinator.next("runs")
    coordinator.restart()
    return run


async def test_a_run_whose_answer_is_lost_is_asked_about_under_its_key(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["gets"] = None
    run = await _restart_under(coordinator, client)
    get = await coordinator.next("gets")
    assert (get.key, get.first_attempt_ms, get.transaction_id) == ("k", 77, "c1.1.9f2c4e1a.1.1")
    assert get.body_hash == body_hash([DEBIT_WORK])
    coordinator.stream.got(HOLDER, COMMITTED, asked=get.transaction_id)
    assert (await run).transaction_id == HOLDER


async def test_what_is_not_known_carries_what_asking_under_the_key_needs(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, IN_DOUBT, cause=cause("IN_DOUBT"))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.run(DEBIT, key="k", first_attempt_ms=77, attempts=1)
    unknown = caught.value
    coordinator.handlers["gets"] = lambda stream, get: stream.got(HOLDER, COMMITTED, asked=get.transaction_id)
    done = await client.get(
        unknown.transaction_id, participants=unknown.participants, first_attempt_ms=unknown.first_attempt_ms, key=unknown.key,
        body_hash=unknown.body_hash,
    )  # fmt: skip
    assert done.transaction_id == HOLDER
    get = await coordinator.next("gets")
    assert (get.key, get.body_hash) == ("k", body_hash([DEBIT_WORK]))


async def test_a_keyed_run_that_was_never_sent_is_not_known_to_be_aborted() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with Client(f"127.0.0.1:{bound.getsockname()[1]}") as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await client.run(DEBIT, key="k", timeout=0.1, attempts=1)
            assert (caught.value.reason, caught.value.key) == (Reason.COORDINATOR_AWAY, "k")
            with pytest.raises(OutcomeUnknown):
                async with client.transaction(key="k", timeout=0.1):
                    pytest.fail("the body ran")


async def test_a_keyed_run_that_waits_in_an_outbox_past_its_time_neither(coordinator: FakeCoordinator) -> None:
    async with Client(coordinator.address, grace_seconds=0.05) as client:
        await coordinator.next("hello")
        await client.run(DEBIT)
        client.session.lost(Reason.COORDINATOR_AWAY, "gone")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.run(DEBIT, key="k", timeout=0.05, attempts=1)
    assert caught.value.reason is Reason.COORDINATOR_AWAY


async def test_under_a_key_an_unknown_outcome_is_run_again(coordinator: FakeCoordinator, client: Client) -> None:
    outcomes = [IN_DOUBT, IN_DOUBT, COMMITTED]
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, outcomes.pop(0), cause=cause("IN_DOUBT"))
    assert isinstance(await client.run(DEBIT, key="k", attempts=3), Committed)
    first, *others = [await coordinator.next("runs") for _ in range(3)]
    assert {(one.key, one.first_attempt_ms) for one in others} == {("k", first.first_attempt_ms)}


async def test_without_a_key_it_is_not(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, IN_DOUBT, cause=cause("IN_DOUBT"))
    with pytest.raises(OutcomeUnknown):
        await client.run(DEBIT, attempts=3)
    assert coordinator.arrived("runs") == 1


async def test_what_is_too_old_is_not_run_again(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, ABORTED, cause=cause("EXPIRED"))
    with pytest.raises(OutcomeUnknown) as caught:
        await client.run(DEBIT, key="k", attempts=3)
    assert caught.value.reason is Reason.EXPIRED and coordinator.arrived("runs") == 1


async def test_a_keyed_begin_without_an_answer_is_not_known_to_be_aborted(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["begins"] = None
    with pytest.raises(OutcomeUnknown):
        async with client.transaction(key="k", timeout=0.05):
            pytest.fail("the body ran")


@pytest.mark.parametrize(("outcome", "error"), [(COMMITTED, AlreadyCommitted), (ABORTED, Aborted)])
async def test_a_keyed_commit_whose_answer_is_lost_is_asked_about_under_its_key(
    coordinator: FakeCoordinator, client: Client, outcome: int, error: type[Exception]
) -> None:
    coordinator.handlers["commits"] = None
    coordinator.handlers["gets"] = lambda stream, get: stream.got(
        HOLDER, outcome, asked=get.transaction_id, cause=cause("COORDINATOR_RESTARTED")
    )

    async def body() -> None:
        async with client.transaction(key="k") as tx:
            tx.acknowledge("payments")

    running = asyncio.create_task(body())
    await coordinator.next("commits")
    coordinator.restart()
    with pytest.raises(error):
        await running
    get = await coordinator.next("gets")
    assert (get.key, get.body_hash) == ("k", INTERACTIVE_HASH)


async def test_its_own_commit_is_a_commit(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["commits"] = None
    coordinator.handlers["gets"] = lambda stream, get: stream.got(get.transaction_id, COMMITTED)
    async with client.transaction(key="k") as tx:
        commit = asyncio.create_task(tx.commit())
        await coordinator.next("commits")
        coordinator.restart()
        assert (await commit).transaction_id == tx.transaction_id
