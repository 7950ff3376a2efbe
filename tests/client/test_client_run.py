"""One-shot transactions: results, errors, checks of the input, batching, and bounded memory."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from fake_coordinator import ABORTED, COMMITTED, IN_DOUBT, FakeCoordinator, cause, results

from participant_sdk.client import (
    Aborted,
    Call,
    Client,
    Committed,
    HeuristicOutcome,
    OutcomeUnknown,
    RequestError,
    call,
)
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2
from troth.values import decode_arguments

DEBIT = call("payments", "debit", account="a", amount=5)


async def test_a_commit_returns_the_results_of_every_participant(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(
        run.number, results=[results("orders", "o1"), results("payments", 95, None)], results_available=True
    )
    done = await client.run(call("orders", "place", id="o1"), DEBIT, DEBIT, timeout=5.0, key="order-o1")
    assert done.results == {"orders": ["o1"], "payments": [95, None]}
    assert (done.transaction_id, done.pending, done.replayed) == ("c1.1.9f2c4e1a.1.1", False, False)
    assert done.results_available
    assert "c1.1.9f2c4e1a.1.1" in repr(done)


async def test_the_request_carries_what_was_asked_for(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT)
    await coordinator.next("runs")
    await client.run(DEBIT, timeout=0.25, key="k", wait="complete", first_attempt_ms=77, hold_read_locks=True)
    run = await coordinator.next("runs")
    assert (run.timeout_ms, run.key, run.wait) == (250, "k", common_pb2.WAIT_COMPLETE)
    assert (run.first_attempt_ms, run.hold_read_locks) == (77, True)


async def test_calls_of_one_participant_are_one_branch_in_order(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT, call("orders", "place", id="o1"), call("payments", "credit", account="b", amount=5))
    run = await coordinator.next("runs")
    work = {branch.participant: [operation.name for operation in branch.operations] for branch in run.branches}
    assert work == {"payments": ["debit", "credit"], "orders": ["place"]}
    assert decode_arguments(run.branches[0].operations[1].arguments) == {"account": "b", "amount": 5}


@pytest.mark.parametrize(
    ("outcome", "fields", "error", "reason"),
    [
        (ABORTED, {"cause": cause("REFUSED", participant="payments", code="NO_FUNDS")}, Aborted, "REFUSED"),
        (ABORTED, {"cause": cause("OVERLOADED", retryable=True)}, Aborted, "OVERLOADED"),
        (ABORTED, {"cause": cause("DRAINING", retryable=True)}, Aborted, "DRAINING"),
        (ABORTED, {"cause": cause("UNKNOWN_PARTICIPANT")}, Aborted, "UNKNOWN_PARTICIPANT"),
        (ABORTED, {"cause": cause("PAYLOAD_TOO_LARGE", participant="payments")}, Aborted, "PAYLOAD_TOO_LARGE"),
        (ABORTED, {"cause": cause("NEWER_THAN_THIS")}, Aborted, "INTERNAL"),
        (ABORTED, {"cause": cause("KEY_REUSED")}, RequestError, "KEY_REUSED"),
        (ABORTED, {"cause": cause("CLOCK_SKEW")}, RequestError, "CLOCK_SKEW"),
        (ABORTED, {"cause": cause("EXPIRED")}, OutcomeUnknown, "EXPIRED"),
        (ABORTED, {"cause": cause("EXPIRED", participant="payments")}, Aborted, "EXPIRED"),
        (common_pb2.OUTCOME_EXPIRED, {}, OutcomeUnknown, "EXPIRED"),
        (IN_DOUBT, {}, OutcomeUnknown, "IN_DOUBT"),
        (IN_DOUBT, {"cause": cause("PARTICIPANT_AWAY", retryable=True)}, OutcomeUnknown, "PARTICIPANT_AWAY"),
        (common_pb2.OUTCOME_UNSPECIFIED, {}, OutcomeUnknown, "IN_DOUBT"),
        (common_pb2.OUTCOME_UNSPECIFIED, {"cause": cause("INVALID_ARGUMENT")}, RequestError, "INVALID_ARGUMENT"),
        (common_pb2.OUTCOME_MIXED, {}, HeuristicOutcome, "HEURISTIC"),
        (common_pb2.OUTCOME_HAZARD, {"cause": cause("HEURISTIC", participant="payments")}, HeuristicOutcome, "HEURISTIC"),
    ],
)
async def test_every_other_outcome_is_raised(
    coordinator: FakeCoordinator, client: Client, outcome: Any, fields: dict[str, Any], error: type, reason: str
) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, outcome, **fields)
    with pytest.raises(error) as caught:
        await client.run(DEBIT, first_attempt_ms=77, attempts=1)
    raised = caught.value
    assert type(raised) is error
    assert raised.reason.name == reason
    told = fields.get("cause", common_pb2.Cause())
    if isinstance(raised, Aborted):
        assert (raised.participant, raised.code, raised.retryable) == (told.participant, told.code, told.retryable)
        assert raised.transaction_id == "c1.1.9f2c4e1a.1.1"
    if isinstance(raised, OutcomeUnknown):
        assert (raised.transaction_id, raised.participants) == ("c1.1.9f2c4e1a.1.1", ("payments",))
        assert (raised.first_attempt_ms, raised.retryable) == (77, False)


async def test_the_hint_is_told_once(coordinator: FakeCoordinator, client: Client) -> None:
    told = common_pb2.Cause(reason="CONFLICT", message=f"a lock is held ({Reason.CONFLICT.hint})")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, ABORTED, cause=told)
    with pytest.raises(Aborted) as caught:
        await client.run(DEBIT)
    assert str(caught.value) == f"CONFLICT: a lock is held ({Reason.CONFLICT.hint})"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (IN_DOUBT, Reason.PARTICIPANT_AWAY),
        (common_pb2.OUTCOME_EXPIRED, Reason.EXPIRED),
        (common_pb2.OUTCOME_MIXED, Reason.HEURISTIC),
    ],
)
async def test_the_hint_is_told_once_also_of_what_is_no_abort(
    coordinator: FakeCoordinator, client: Client, outcome: Any, reason: Reason
) -> None:
    told = common_pb2.Cause(reason=reason.name, message=f"it is so ({reason.hint})")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, outcome, cause=told)
    with pytest.raises((OutcomeUnknown, HeuristicOutcome)) as caught:
        await client.run(DEBIT, attempts=1)
    assert caught.value.message.endswith("it is so")


async def test_a_key_that_was_used_before_answers_with_its_holder(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(
        run.number, transaction_id="c1.1.9f2c4e1a.9.9", replayed=True, pending=True
    )
    done = await client.run(DEBIT, key="k")
    assert (done.transaction_id, done.replayed, done.pending) == ("c1.1.9f2c4e1a.9.9", True, True)
    assert (done.results, done.results_available) == ({}, False)


async def test_results_that_cannot_be_decoded_do_not_hide_the_commit(coordinator: FakeCoordinator, client: Client) -> None:
    broken = client_pb2.BranchResults(participant="payments", results=b"\xff")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number, results=[broken])
    done = await client.run(DEBIT)
    assert isinstance(done, Committed)
    with pytest.raises(RequestError) as caught:
        _ = done.results
    assert caught.value.reason is Reason.BAD_RESULT


# ---- bad input


@pytest.mark.parametrize("seconds", [0, -1, -0.0, float("nan"), float("inf"), 1e12, "5", None, True, 60.001, 60.0001])
async def test_absurd_timeouts_are_refused(coordinator: FakeCoordinator, client: Client, seconds: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await client.run(DEBIT, timeout=seconds)
    assert caught.value.reason is Reason.INVALID_TIMEOUT
    with pytest.raises(RequestError) as caught:
        async with client.transaction(timeout=seconds):
            pass
    assert caught.value.reason is Reason.INVALID_TIMEOUT
    assert coordinator.arrived("runs") == coordinator.arrived("begins") == 0


@pytest.mark.parametrize("key", ["", 7, b"k", "\ud800", "k" * 17, "é" * 9])
async def test_keys_that_no_coordinator_would_take_are_refused(coordinator: FakeCoordinator, client: Client, key: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await client.run(DEBIT, key=key)
    assert caught.value.reason is Reason.INVALID_KEY
    with pytest.raises(RequestError) as caught:
        async with client.transaction(key=key):
            pass
    assert caught.value.reason is Reason.INVALID_KEY


@pytest.mark.parametrize(
    ("limits", "calls", "reason"),
    [
        ({"payload_bytes_max": 8}, [DEBIT], Reason.PAYLOAD_TOO_LARGE),
        ({"operations_max": 1}, [DEBIT, DEBIT], Reason.TOO_MANY_OPERATIONS),
        ({"participants_max": 1}, [DEBIT, call("orders", "place")], Reason.TOO_MANY_PARTICIPANTS),
        ({"frame_bytes_max": 16}, [DEBIT], Reason.FRAME_TOO_LARGE),
        ({}, [], Reason.INVALID_ARGUMENT),
    ],
)
async def test_what_is_over_a_limit_is_refused_before_it_is_sent(
    coordinator: FakeCoordinator, client: Client, limits: dict[str, int], calls: list[Call], reason: Reason
) -> None:
    coordinator.limits = common_pb2.Limits(**limits)
    with pytest.raises(RequestError) as caught:
        await client.run(*calls)
    assert caught.value.reason is reason
    assert coordinator.arrived("runs") == 0
    assert client.session.pending == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"wait": "soon"}, Reason.INVALID_ARGUMENT),
        ({"first_attempt_ms": 0}, Reason.INVALID_ARGUMENT),
        ({"first_attempt_ms": 1.5}, Reason.INVALID_ARGUMENT),
        ({"attempts": 0}, Reason.INVALID_ARGUMENT),
    ],
)
async def test_other_bad_arguments_are_refused(client: Client, arguments: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RequestError) as caught:
        await client.run(DEBIT, **arguments)
    assert caught.value.reason is reason


def test_a_call_is_checked_when_it_is_made() -> None:
    for participant, operation, arguments, reason in [
        ("Payments", "debit", {}, Reason.INVALID_NAME),
        ("payments", "", {}, Reason.INVALID_NAME),
        ("payments", "debit", {"amount": object()}, Reason.BAD_ARGUMENTS),
    ]:
        with pytest.raises(RequestError) as caught:
            call(participant, operation, **arguments)
        assert caught.value.reason is reason


async def test_a_client_is_used_inside_its_block_and_entered_once(coordinator: FakeCoordinator) -> None:
    client = Client(coordinator.address)
    with pytest.raises(RequestError):
        await client.run(DEBIT)
    async with client:
        await client.run(DEBIT)
        with pytest.raises(RequestError):
            await client.__aenter__()
    with pytest.raises(RequestError) as caught:
        await client.run(DEBIT)
    assert caught.value.reason is Reason.SHUTTING_DOWN


# ---- batches, limits, deadlines


async def test_many_runs_share_few_frames(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT)
    before = len(coordinator.frames)
    done = await asyncio.gather(*(client.run(DEBIT) for _ in range(500)))
    assert len({each.transaction_id for each in done}) == 500
    assert len(coordinator.frames) - before < 20


async def test_past_pending_max_a_run_waits_for_room(coordinator: FakeCoordinator) -> None:
    coordinator.handlers["runs"] = None
    async with Client(coordinator.address, pending_max=2, grace_seconds=0.2) as client:
        runs = [asyncio.create_task(client.run(DEBIT)) for _ in range(3)]
        for _ in range(2):
            await coordinator.next("runs")
        with pytest.raises(Aborted) as caught:
            await client.run(DEBIT, timeout=0.05)
        assert (caught.value.reason, caught.value.retryable) == (Reason.OVERLOADED, True)
        assert coordinator.arrived("runs") == 0
        coordinator.stream.answer(1)
        assert (await coordinator.next("runs")).number == 3
        coordinator.stream.answer(2)
        coordinator.stream.answer(3)
        await asyncio.gather(*runs)


async def test_a_turn_that_is_not_taken_goes_to_the_next(coordinator: FakeCoordinator) -> None:
    coordinator.handlers["runs"] = None
    async with Client(coordinator.address, pending_max=1, grace_seconds=0.2) as client:
        first, second, third = (asyncio.create_task(client.run(DEBIT)) for _ in range(3))
        await coordinator.next("runs")
        # The place becomes free and its next owner is cancelled, in one turn of the loop.
        client.session.received(client_pb2.ConnectResponse(answers=[client_pb2.Answer(number=1, outcome=COMMITTED)]))
        second.cancel()
        assert (await coordinator.next("runs")).number == 2
        coordinator.stream.answer(2)
        assert isinstance(await third, Committed)
        assert isinstance(await first, Committed)
        assert second.cancelled()


async def test_who_waits_for_the_connection_is_served_in_the_order_of_coming(coordinator: FakeCoordinator) -> None:
    async with Client(coordinator.address, pending_max=1) as client:
        runs = [asyncio.create_task(client.run(call("bank", f"number{number}"))) for number in range(40)]
        await asyncio.gather(*runs)
    served = [run.branches[0].operations[0].name for frame in coordinator.frames for run in frame.runs]
    assert served == [f"number{number}" for number in range(40)]


async def test_no_answer_in_time_is_an_unknown_outcome(coordinator: FakeCoordinator, client: Client) -> None:
    await client.run(DEBIT)
    coordinator.handlers["runs"] = None
    with pytest.raises(OutcomeUnknown) as caught:
        await client.run(DEBIT, timeout=2.5)  # in which it is sent
    assert (caught.value.reason, caught.value.transaction_id) == (Reason.IN_DOUBT, "c1.1.9f2c4e1a.1.2")
    assert client.session.pending == 0
    coordinator.stream.answer(2)  # too late: nobody is confused by it
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number)
    assert (await client.run(DEBIT)).transaction_id.endswith(".3")


async def test_a_cancelled_caller_cancels_nothing(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = None
    run = asyncio.create_task(client.run(DEBIT))
    await coordinator.next("runs")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert client.session.pending == 1
    assert coordinator.arrived("aborts") == 0
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number)
    coordinator.stream.answer(1)
    await client.run(DEBIT)
    assert client.session.pending == 0


async def test_seen_answers_are_acknowledged_with_the_next_frame(coordinator: FakeCoordinator, client: Client) -> None:
    for _ in range(3):
        await client.run(DEBIT)
    assert [frame.answered_below for frame in coordinator.frames] == [0, 2, 3]


async def test_seen_answers_are_acknowledged_also_when_nothing_follows(
    coordinator: FakeCoordinator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("participant_sdk.client.session.WATERMARK_SECONDS", 0.01)
    await client.run(DEBIT)
    while await coordinator.next("answered_below") != 2:
        pass


async def test_the_oldest_open_number_holds_the_watermark(coordinator: FakeCoordinator, client: Client) -> None:
    coordinator.handlers["runs"] = None
    first = asyncio.create_task(client.run(DEBIT))
    await coordinator.next("runs")
    coordinator.handlers["runs"] = lambda stream, run: stream.answer(run.number)
    await client.run(DEBIT)
    await client.run(DEBIT)
    assert coordinator.frames[-1].answered_below == 0  # it did not move past 1
    coordinator.stream.answer(1)
    await first
    await client.run(DEBIT)
    assert coordinator.frames[-1].answered_below == 4


# ---- no way to the coordinator


async def test_without_a_coordinator_nothing_was_sent_and_a_retry_is_safe() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with Client(f"127.0.0.1:{bound.getsockname()[1]}") as client:
            with pytest.raises(Aborted) as caught:
                await client.run(DEBIT, timeout=0.1)
            assert (caught.value.reason, caught.value.retryable) == (Reason.COORDINATOR_AWAY, True)
            with pytest.raises(Aborted):
                async with client.transaction(timeout=0.1):
                    pass


async def test_a_coordinator_of_another_version_is_not_asked_again(coordinator: FakeCoordinator) -> None:
    def refuse(stream: Any) -> bool:
        stream.goodbye("VERSION_MISMATCH", retryable=False)
        return False

    coordinator.greet = refuse
    async with Client(coordinator.address) as client:
        for _ in range(2):
            with pytest.raises(RequestError) as caught:
                await client.run(DEBIT)
            assert caught.value.reason is Reason.VERSION_MISMATCH
    assert len(coordinator.hellos) == 1


async def test_a_draining_coordinator_is_the_reason_that_is_told(coordinator: FakeCoordinator) -> None:
    def refuse(stream: Any) -> bool:
        stream.goodbye("DRAINING", retryable=True)
        return False

    coordinator.greet = refuse
    async with Client(coordinator.address) as client:
        await coordinator.next("hello")
        await coordinator.next("hello")
        with pytest.raises(Aborted) as caught:
            await client.run(DEBIT, timeout=0.05)
    assert (caught.value.reason, caught.value.retryable) == (Reason.DRAINING, True)


async def test_something_else_on_the_port_is_no_coordinator(coordinator: FakeCoordinator) -> None:
    def confuse(stream: Any) -> bool:
        stream.answer(1)
        return False

    coordinator.greet = confuse
    async with Client(coordinator.address) as client:
        with pytest.raises(Aborted) as caught:
            await client.run(DEBIT, timeout=0.05)
    assert caught.value.reason is Reason.COORDINATOR_AWAY


async def test_leaving_the_client_tells_those_who_wait(coordinator: FakeCoordinator) -> None:
    coordinator.handlers["runs"] = None
    async with Client(coordinator.address, grace_seconds=0.05) as client:
        run = asyncio.create_task(client.run(DEBIT, timeout=2.5))  # in which it is sent
        await coordinator.next("runs")
    with pytest.raises(OutcomeUnknown):
        await run


async def test_leaving_the_client_waits_for_answers_that_come(coordinator: FakeCoordinator) -> None:
    coordinator.handlers["runs"] = None
    async with Client(coordinator.address, grace_seconds=30) as client:
        run = asyncio.create_task(client.run(DEBIT))
        await coordinator.next("runs")
        coordinator.stream.answer(1)
    assert isinstance(await run, Committed)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"key": 5}, "Use a text"),
        ({"key": ""}, "Use a text"),
        ({"key": "x" * 5000}, "Use a shorter key"),
        ({"key": "\ud800"}, "surrogates"),
        ({"timeout": "5"}, "Use a number of seconds"),
        ({"timeout": 10_000}, "Use a shorter timeout"),
    ],
)
async def test_hints_say_what_to_do(client: Client, arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        await client.run(DEBIT, **arguments)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", [5, None, "No", "x" * 64])
def test_a_participants_name_is_a_text(name: Any) -> None:
    with pytest.raises(RequestError, match="INVALID_NAME"):
        call(name, "debit")
