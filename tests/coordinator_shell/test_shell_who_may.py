"""Who may say what: a stream speaks of its own session's transactions, and of nothing else."""

from __future__ import annotations

import grpc
import pytest
from shell_harness import FakeParticipant, eventually
from test_shell_streams import FakeClient

from coordinator.server import Daemon
from troth.v1 import client_pb2, common_pb2, participant_pb2


async def begun(channel: grpc.aio.Channel) -> tuple[FakeClient, str]:
    """A client with a transaction of its own."""
    client = FakeClient(channel)
    await client.greet()
    client.send(begins=[client_pb2.BeginRequest(number=1, timeout_ms=60_000)])
    return client, (await client.read_until("begun")).begun[0].transaction_id


@pytest.mark.parametrize("field", ["commits", "aborts"])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_client_ends_no_transaction_of_another_session(
    daemon: Daemon, channel: grpc.aio.Channel, field: str, number: int
) -> None:
    owner, transaction_id = await begun(channel)
    other, _ = await begun(channel)
    kind = client_pb2.CommitRequest if field == "commits" else client_pb2.AbortRequest
    other.send(**{field: [kind(number=number, transaction_id=transaction_id)]})
    cause = (await other.read_until("goodbye")).goodbye.cause
    assert cause.reason == "INVALID_ARGUMENT" and "is not the transaction" in cause.message
    assert transaction_id in {txn.id for txn in daemon._core._book.live.values()}  # type: ignore[attr-defined]  # the real core
    owner.send(commits=[client_pb2.CommitRequest(number=1)])
    assert (await owner.read_until("answers")).answers[0].outcome == common_pb2.OUTCOME_COMMITTED


async def test_a_client_takes_no_answers_of_another_session_away(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    owner, _ = await begun(channel)
    other, _ = await begun(channel)
    owner.send(aborts=[client_pb2.AbortRequest(number=1)])
    await owner.read_until("answers")
    other.send(answered_below=100)
    sessions = daemon._core._book.sessions  # type: ignore[attr-defined]  # the real core
    await eventually(lambda: any(session.answered_below == 100 for session in sessions.values()))
    assert sum(len(session.answers) for session in sessions.values()) == 1


async def test_a_participant_without_a_branch_is_told_so_and_changes_nothing(channel: grpc.aio.Channel) -> None:
    people = {name: FakeParticipant(channel) for name in ("orders", "payments", "stranger")}
    for name, person in people.items():
        await person.greet(name)
    client = FakeClient(channel)
    await client.greet()
    work = [common_pb2.Operation(name="work")]
    branches = [client_pb2.BranchRequest(participant=name, operations=work) for name in ("orders", "payments")]
    client.send(runs=[client_pb2.RunRequest(number=1, branches=branches, timeout_ms=60_000)])
    prepare = (await people["orders"].read_until("prepares")).prepares[0]
    vote = participant_pb2.Vote(kind=participant_pb2.VOTE_KIND_YES, transaction_id=prepare.transaction_id)
    people["stranger"].send(votes=[vote] * 3)
    cause = (await people["stranger"].read_until("goodbye")).goodbye.cause
    assert cause.reason == "PROTOCOL_ERROR" and "stranger has no branch in" in cause.message
    for name in ("orders", "payments"):
        people[name].send(votes=[vote])
    assert (await client.read_until("answers")).answers[0].outcome == common_pb2.OUTCOME_COMMITTED


async def test_nothing_is_heard_over_a_stream_that_another_one_has_replaced(channel: grpc.aio.Channel) -> None:
    older, newer, other = FakeParticipant(channel), FakeParticipant(channel), FakeParticipant(channel)
    await older.greet("orders")
    await other.greet("payments")
    await newer.greet("orders")
    client = FakeClient(channel)
    await client.greet()
    work = [common_pb2.Operation(name="work")]
    branches = [client_pb2.BranchRequest(participant=name, operations=work) for name in ("orders", "payments")]
    client.send(runs=[client_pb2.RunRequest(number=1, branches=branches, timeout_ms=60_000)])
    prepare = (await newer.read_until("prepares")).prepares[0]
    refused = participant_pb2.Vote(kind=participant_pb2.VOTE_KIND_NO, transaction_id=prepare.transaction_id)
    older.send(votes=[refused])
    assert (await older.read_until("goodbye")).goodbye.cause.reason == "SUPERSEDED_STREAM"
    vote = participant_pb2.Vote(kind=participant_pb2.VOTE_KIND_YES, transaction_id=prepare.transaction_id)
    for person in (newer, other):
        person.send(votes=[vote])
    assert (await client.read_until("answers")).answers[0].outcome == common_pb2.OUTCOME_COMMITTED


