"""Who is told what by unary calls: they name a transaction by its id, whoever began it, and all share one session of the
coordinator, in which numbers are given to calls. So an answer must reach the call that asked, and no other with the same number.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc
import pytest
from shell_harness import FakeParticipant, eventually
from test_shell_unary import failure, transactions
from test_shell_who_may import begun

from coordinator.server import Daemon
from tests.mutated import VARIABLE, SourceMutant, survivors
from troth.v1 import client_pb2, common_pb2, participant_pb2


def live(daemon: Daemon) -> set[str]:
    return {txn.id for txn in daemon._core._book.live.values()}  # type: ignore[attr-defined]  # the real core


def ending(channel: grpc.aio.Channel, how: str, transaction_id: str) -> Any:
    """A unary call that ends a transaction."""
    request = client_pb2.CommitRequest if how == "Commit" else client_pb2.AbortRequest
    return getattr(transactions(channel), how)(request(transaction_id=transaction_id))


@pytest.mark.parametrize("how", ["Commit", "Abort"])
async def test_an_answer_reaches_who_asked_and_nobody_with_the_same_number(channel: grpc.aio.Channel, how: str) -> None:
    people = [FakeParticipant(channel), FakeParticipant(channel)]
    for person, name in zip(people, ("orders", "payments"), strict=True):
        await person.greet(name)
    owner, theirs = await begun(channel)  # number 1 of its session, as the run below is of the unary one
    branches = [
        client_pb2.BranchRequest(participant=name, operations=[common_pb2.Operation(name="work")])
        for name in ("orders", "payments")
    ]
    running = asyncio.ensure_future(transactions(channel).Run(client_pb2.RunRequest(branches=branches, timeout_ms=60_000)))
    prepares = [(await person.read_until("prepares")).prepares[0] for person in people]
    assert theirs.rpartition(".")[2] == prepares[0].transaction_id.rpartition(".")[2] == "1"
    told = (await ending(channel, how, theirs)).answer
    outcome = common_pb2.OUTCOME_COMMITTED if how == "Commit" else common_pb2.OUTCOME_ABORTED
    assert (told.transaction_id, told.outcome) == (theirs, outcome)
    assert not running.done(), "it has the same number, in another session"
    for person, prepare in zip(people, prepares, strict=True):
        vote = participant_pb2.Vote(transaction_id=prepare.transaction_id, kind=participant_pb2.VOTE_KIND_YES)
        person.send(votes=[vote])
    answer = (await running).answer
    assert (answer.outcome, answer.transaction_id) == (common_pb2.OUTCOME_COMMITTED, prepares[0].transaction_id)
    owner.send(commits=[client_pb2.CommitRequest(number=1)])
    assert (await owner.read_until("answers")).answers[0].outcome == outcome, "who began it is told the same"


async def test_a_number_of_the_callers_own_is_refused(daemon: Daemon, channel: grpc.aio.Channel) -> None:
    begin = await transactions(channel).Begin(client_pb2.BeginRequest(timeout_ms=60_000))
    call = transactions(channel).Commit(client_pb2.CommitRequest(number=7, transaction_id=begin.transaction_id))
    assert (await failure(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert begin.transaction_id in live(daemon)
    assert (await ending(channel, "Abort", begin.transaction_id)).answer.outcome == common_pb2.OUTCOME_ABORTED
    await eventually(lambda: begin.transaction_id not in live(daemon))


MUTANTS = [
    SourceMutant(name, "coordinator/services/transactions.py", old, new, ("tests/coordinator_shell/test_shell_who_may_unary.py",))
    for name, old, new in [
        ("a unary call is answered under another one's number", "ours = parsed.session_prefix == self.name and ", "ours = "),
        ("a number of the caller's own is taken", "        _check_no_number(request.number)\n        request.number = self._unary.number_of(request.transaction_id)\n        answer = await self._unary.ask(events.Commit", "        request.number = request.number or self._unary.number_of(request.transaction_id)\n        answer = await self._unary.ask(events.Commit"),  # noqa: E501 - as it stands in the source
    ]
]


@pytest.mark.skipif(VARIABLE in os.environ, reason="a mutant's own run does not begin others")
def test_who_is_answered_wrongly_is_noticed() -> None:
    assert survivors(MUTANTS) == []
