"""Unary calls: what is OK, what is a status, and what a caller that goes away changes (nothing)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from shell_harness import SECONDS, FakeParticipant, ScriptedCore, details, reason_of

from coordinator.core import effects, events
from troth.errors import Reason, RemoteProtocolError
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2, participant_pb2


def transactions(channel: grpc.aio.Channel) -> Any:
    return client_pb2_grpc.TransactionServiceStub(channel)


def run_request(*participants: str, **fields: Any) -> client_pb2.RunRequest:
    branches = [
        client_pb2.BranchRequest(participant=name, operations=[common_pb2.Operation(name="work")]) for name in participants
    ]
    return client_pb2.RunRequest(**{"branches": branches, "timeout_ms": 5000, **fields})


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(SECONDS):
            await call
    return caught.value


async def test_a_run_over_two_participants_commits(channel: grpc.aio.Channel) -> None:
    people = [FakeParticipant(channel), FakeParticipant(channel)]
    for person, name in zip(people, ("orders", "payments"), strict=True):
        await person.greet(name)
    working = [asyncio.create_task(person.serve()) for person in people]
    response = await transactions(channel).Run(run_request("orders", "payments", wait=common_pb2.WAIT_COMPLETE))
    assert response.answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert not response.answer.pending
    for person, task in zip(people, working, strict=True):
        person.leave()
        await task


async def test_what_is_left_under_a_key_is_told_to_whoever_begins_under_it_again(channel: grpc.aio.Channel) -> None:
    calls = transactions(channel)
    keyed = client_pb2.BeginRequest(timeout_ms=5000, key="k", first_attempt_ms=time.time_ns() // 1_000_000)
    begun = await calls.Begin(keyed)
    left = client_pb2.KeptResult(value=common_pb2.Value(integer=7)).SerializeToString()
    committed = await calls.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id, result=left))
    assert committed.answer.outcome == common_pb2.OUTCOME_COMMITTED and not committed.answer.result
    again = await calls.Begin(keyed)
    assert (again.holder.transaction_id, again.holder.result) == (begun.transaction_id, left)
    got = await calls.Get(client_pb2.GetRequest(transaction_id=begun.transaction_id, key="k"))
    assert got.answer.result == left
    unkeyed = await calls.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    error = await failure(calls.Commit(client_pb2.CommitRequest(transaction_id=unkeyed.transaction_id, result=left)))
    assert reason_of(error) == "INVALID_ARGUMENT"


async def test_the_trace_of_a_caller_is_taken_from_its_metadata(channel: grpc.aio.Channel) -> None:
    people = [FakeParticipant(channel), FakeParticipant(channel)]
    for person, name in zip(people, ("orders", "payments"), strict=True):
        await person.greet(name)
    metadata = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("other", "c"))
    running = asyncio.ensure_future(transactions(channel).Run(run_request("orders", "payments"), metadata=metadata))
    prepare = (await people[0].read_until("prepares")).prepares[0]
    assert prepare.trace == common_pb2.TraceContext(traceparent="00-1-2-01", tracestate="a=b")
    running.cancel()


async def test_an_aborted_run_is_no_success(channel: grpc.aio.Channel) -> None:
    people = [FakeParticipant(channel), FakeParticipant(channel)]
    for person, name in zip(people, ("orders", "payments"), strict=True):
        await person.greet(name)
    running = asyncio.ensure_future(transactions(channel).Run(run_request("orders", "payments")))
    prepare = (await people[0].read_until("prepares")).prepares[0]
    cause = common_pb2.Cause(reason="REFUSED", code="NO_FUNDS", message="no funds")
    vote = participant_pb2.Vote(transaction_id=prepare.transaction_id, kind=participant_pb2.VOTE_KIND_NO, cause=cause)
    people[0].send(votes=[vote])
    error = await failure(running)
    assert error.code() is grpc.StatusCode.ABORTED
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain) == ("REFUSED", "troth")
    assert info.metadata["code"] == "NO_FUNDS"
    assert info.metadata["outcome"] == "ABORTED"
    assert info.metadata["participant"] == "orders"
    assert info.metadata["transaction_id"] == prepare.transaction_id


@pytest.mark.parametrize(
    ("request_fields", "code", "reason"),
    [
        ({"branches": []}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ({"timeout_ms": 0}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TIMEOUT"),
        ({"timeout_ms": 4_000_000_000}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TIMEOUT"),
        ({}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_PARTICIPANT"),
        ({"key": "k" * 300}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_KEY"),
        ({"first_attempt_ms": 1}, grpc.StatusCode.FAILED_PRECONDITION, "EXPIRED"),
        ({"number": 3}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ],
)
async def test_refusals_have_their_code_and_reason(
    channel: grpc.aio.Channel, request_fields: dict[str, Any], code: grpc.StatusCode, reason: str
) -> None:
    error = await failure(transactions(channel).Run(run_request("nobody", **request_fields)))
    assert error.code() is code
    assert reason_of(error) == reason
    assert Reason[reason].hint in error.details()


async def test_an_interactive_transaction_begins_commits_and_stays_committed(channel: grpc.aio.Channel) -> None:
    stub = transactions(channel)
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    commit = client_pb2.CommitRequest(transaction_id=begun.transaction_id)
    assert (await stub.Commit(commit)).answer.outcome == common_pb2.OUTCOME_COMMITTED
    assert (await stub.Commit(commit)).answer.outcome == common_pb2.OUTCOME_COMMITTED
    error = await failure(stub.Abort(client_pb2.AbortRequest(transaction_id=begun.transaction_id)))
    assert reason_of(error) == "ALREADY_COMMITTED"


async def test_commit_after_abort_says_aborted(channel: grpc.aio.Channel) -> None:
    stub = transactions(channel)
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    aborted = await stub.Abort(client_pb2.AbortRequest(transaction_id=begun.transaction_id))
    assert aborted.answer.outcome == common_pb2.OUTCOME_ABORTED
    error = await failure(stub.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id)))
    assert error.code() is grpc.StatusCode.ABORTED
    assert reason_of(error) == "CLIENT_ABORT"


async def test_a_begin_that_is_refused_is_no_success(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.Begin):
            return []
        refusal = common_pb2.Cause(reason="OVERLOADED", retryable=True)
        return [effects.Begun(event.session, client_pb2.BeginResponse(number=event.request.number, refusal=refusal))]

    channel = await scripted(ScriptedCore(react))
    error = await failure(transactions(channel).Begin(client_pb2.BeginRequest(timeout_ms=5000)))
    assert reason_of(error) == "OVERLOADED"


async def test_two_callers_who_wait_for_one_commit_are_both_answered(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        if isinstance(event, events.Begin):
            number = event.request.number
            told = client_pb2.BeginResponse(number=number, transaction_id=f"{event.session}.{number}")
            return [effects.Begun(event.session, told)]
        if sum(isinstance(one, events.Commit) for one in core.events) < 2:
            return []
        answer = client_pb2.Answer(number=event.request.number, outcome=common_pb2.OUTCOME_COMMITTED)
        return [effects.Answered(event.session, answer)]

    core = ScriptedCore(react)
    stub = transactions(await scripted(core))
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    commit = client_pb2.CommitRequest(transaction_id=begun.transaction_id)
    async with asyncio.timeout(SECONDS):
        both = await asyncio.gather(stub.Commit(commit), stub.Commit(commit))
    assert [one.answer.outcome for one in both] == [common_pb2.OUTCOME_COMMITTED] * 2


async def test_two_callers_of_one_commit_are_both_answered(channel: grpc.aio.Channel) -> None:
    stub = transactions(channel)
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    commit = client_pb2.CommitRequest(transaction_id=begun.transaction_id)
    both = await asyncio.gather(stub.Commit(commit), stub.Commit(commit))
    assert [one.answer.outcome for one in both] == [common_pb2.OUTCOME_COMMITTED] * 2


@pytest.mark.parametrize("transaction_id", ["", "c1", "c1.1.zz.0.1", "c1.1.0badcafe.0.01", "x" * 10_000])
async def test_what_is_no_transaction_id_is_refused(channel: grpc.aio.Channel, transaction_id: str) -> None:
    stub = transactions(channel)
    for call in (
        stub.Get(client_pb2.GetRequest(transaction_id=transaction_id)),
        stub.Commit(client_pb2.CommitRequest(transaction_id=transaction_id)),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason_of(error) == "INVALID_TRANSACTION_ID"


async def test_nobody_is_told_aborted_about_the_unknown(channel: grpc.aio.Channel) -> None:
    stub = transactions(channel)
    unknown = "c1.1.0badcafe.3.4"
    got = await stub.Get(client_pb2.GetRequest(transaction_id=unknown))
    assert got.answer.outcome == common_pb2.OUTCOME_IN_DOUBT
    assert got.answer.cause.reason == "UNKNOWN_TRANSACTION"
    error = await failure(stub.Commit(client_pb2.CommitRequest(transaction_id=unknown)))
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert reason_of(error) == "IN_DOUBT"


async def test_watch_tells_until_the_end(channel: grpc.aio.Channel) -> None:
    stub = transactions(channel)
    begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    watching = stub.Watch(client_pb2.WatchRequest(transaction_id=begun.transaction_id))
    states: list[str] = []
    async for state in watching:
        if not states:
            await stub.Abort(client_pb2.AbortRequest(transaction_id=begun.transaction_id))
        states.append(state.state)
    assert (states[0], states[-1]) == ("ACTIVE", "ABORTED")


async def test_overload_says_when_to_come_back(scripted: Any) -> None:
    cause = common_pb2.Cause(reason="OVERLOADED", message="20000 transactions are open", retryable=True)

    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.Run):
            return []
        answer = client_pb2.Answer(number=event.request.number, outcome=common_pb2.OUTCOME_ABORTED, cause=cause)
        return [effects.Answered(event.session, answer)]

    channel = await scripted(ScriptedCore(react))
    error = await failure(transactions(channel).Run(run_request("orders")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["RetryInfo"].retry_delay.seconds >= 1


async def test_long_messages_are_cut_to_fit_the_trailers(scripted: Any) -> None:
    cause = common_pb2.Cause(reason="REFUSED", message="é" * 100_000, code="C" * 100_000)

    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.Run):
            return []
        answer = client_pb2.Answer(number=event.request.number, outcome=common_pb2.OUTCOME_ABORTED, cause=cause)
        return [effects.Answered(event.session, answer)]

    channel = await scripted(ScriptedCore(react))
    error = await failure(transactions(channel).Run(run_request("orders")))
    assert reason_of(error) == "REFUSED"
    assert sum(len(value) for _, value in error.trailing_metadata() or ()) <= 4096


async def test_a_caller_that_gives_up_cancels_nothing(scripted: Any) -> None:
    core = ScriptedCore()
    channel = await scripted(core)
    for seconds in (0.2, 2.0, 20.0):  # which a busy machine may need to bring it here
        error = await failure(transactions(channel).Run(run_request("orders"), timeout=seconds))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if any(isinstance(event, events.Run) for event in core.events):
            break
    await core.saw(events.Run)
    assert not [event for event in core.events if isinstance(event, events.Abort)]


async def test_the_text_of_an_exception_stays_here(daemons: Any) -> None:
    def react(event: Any) -> list[Any]:
        return [effects.Got(event.ticket, object())] if isinstance(event, events.Get) else []

    daemon, channel = await daemons(ScriptedCore(react))
    error = await failure(transactions(channel).Get(client_pb2.GetRequest(transaction_id="c1.7.0badcafe.0.1")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"
    assert "object" not in error.details()
    assert "internal error " in error.details()
    counters = daemon.counters()
    assert (counters["internal_errors"], counters["unary_calls"]) == (1, 1), "they are counted, so that 0 means none"


async def test_an_illegal_event_answers_its_caller(scripted: Any) -> None:
    def react(event: Any) -> list[Any]:
        raise RemoteProtocolError("no such transition")

    channel = await scripted(ScriptedCore(react))
    for call in (
        transactions(channel).Run(run_request("orders")),
        transactions(channel).Get(client_pb2.GetRequest(transaction_id="c1.7.0badcafe.0.1")),
    ):
        error = await failure(call)
        assert reason_of(error) == "PROTOCOL_ERROR"


async def test_bytes_that_are_no_message_are_refused(channel: grpc.aio.Channel) -> None:
    raw = channel.unary_unary("/troth.v1.TransactionService/Run")
    error = await failure(raw(b"\xff\xff\xff\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error) == "INVALID_ARGUMENT"


async def test_a_message_over_the_limit_is_refused_with_a_reason(scripted: Any) -> None:
    channel = await scripted(ScriptedCore(), frame_bytes_max=100_000, payload_bytes_max=1000)
    error = await failure(transactions(channel).Run(run_request("orders", key="k" * 110_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "FRAME_TOO_LARGE"
    huge = await failure(transactions(channel).Run(run_request("orders", key="k" * 200_000)))
    assert huge.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_admin_service_checks_who_and_why(channel: grpc.aio.Channel) -> None:
    stub = admin_pb2_grpc.AdminServiceStub(channel)
    request = admin_pb2.ResolveRequest(
        transaction_id="c1.1.0badcafe.3.4", action=admin_pb2.RESOLVE_ACTION_ABORT, who="ann", why=" "
    )
    error = await failure(stub.Resolve(request))
    assert reason_of(error) == "INVALID_ARGUMENT"
    status = await stub.GetStatus(admin_pb2.GetStatusRequest())
    assert (status.coordinator, status.epoch, status.draining) == ("c1", 1, False)
    assert status.limits.frame_bytes_max == 4_194_304
    assert "forced_records" in status.counters


@pytest.mark.parametrize(
    ("outcome", "cause", "code", "told"),
    [
        (common_pb2.OUTCOME_ABORTED, "REFUSED", grpc.StatusCode.ABORTED, "ABORTED"),
        (common_pb2.OUTCOME_ABORTED, "EXPIRED", grpc.StatusCode.FAILED_PRECONDITION, "EXPIRED"),
        (common_pb2.OUTCOME_IN_DOUBT, "TIMEOUT", grpc.StatusCode.UNKNOWN, "IN_DOUBT"),
        (common_pb2.OUTCOME_EXPIRED, "", grpc.StatusCode.FAILED_PRECONDITION, "EXPIRED"),
        (common_pb2.OUTCOME_MIXED, "REFUSED", grpc.StatusCode.INTERNAL, "MIXED"),
        (common_pb2.OUTCOME_HAZARD, "CONFLICT", grpc.StatusCode.INTERNAL, "HAZARD"),
        (common_pb2.OUTCOME_UNSPECIFIED, "", grpc.StatusCode.INTERNAL, ""),
    ],
)
async def test_only_a_clean_no_says_aborted(
    scripted: Any, outcome: common_pb2.Outcome.ValueType, cause: str, code: grpc.StatusCode, told: str
) -> None:
    def react(event: Any) -> list[Any]:
        if not isinstance(event, events.Run):
            return []
        why = common_pb2.Cause(reason=cause) if cause else None
        return [effects.Answered(event.session, client_pb2.Answer(number=event.request.number, outcome=outcome, cause=why))]

    channel = await scripted(ScriptedCore(react))
    error = await failure(transactions(channel).Run(run_request("orders")))
    assert error.code() is code
    assert details(error)["ErrorInfo"].metadata["outcome"] == told
