"""A shard of a cell: it runs no key of another shard, and says where that is; who dials a shard that is not here is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from shell_harness import FakeParticipant, eventually, hello, make_config
from test_shell_streams import FakeClient

from coordinator.cell import questions
from coordinator.cell.forwarding import Forward
from coordinator.cell.questions import Questions
from coordinator.core.model import Participant as Known
from coordinator.server import Daemon, make_daemon
from troth import features
from troth.cell import shard_of_key
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2, participant_pb2

SHARDS = ("c1", "c2")
DIRECTORY = common_pb2.Directory(
    cell="c",
    shards=[
        common_pb2.ShardPlace(coordinator="c1", address="a:1", claim=1),
        common_pb2.ShardPlace(coordinator="c2", address="b:1", claim=1),
    ],
)


@pytest.fixture
def shard(daemon: Daemon) -> Daemon:
    """The daemon as the shard c1 of a cell of two."""
    daemon._routes.names = SHARDS
    daemon.context.common.shard_of_key = daemon._routes.of_key
    daemon.context.common.directory = DIRECTORY
    return daemon


def key_of(shard: int) -> str:
    return next(f"key-{number}" for number in range(100) if shard_of_key(f"key-{number}", 2) == shard)


async def test_a_key_of_another_shard_is_not_run_and_its_place_is_told(shard: Daemon, channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    client.send(hello=client_hello())
    assert (await client.read_until("welcome")).directory == DIRECTORY
    client.send(
        runs=[client_pb2.RunRequest(number=1, key=key_of(1), first_attempt_ms=1, timeout_ms=1000)],
        begins=[client_pb2.BeginRequest(number=2, key=key_of(1), first_attempt_ms=1, timeout_ms=1000)],
    )
    frame = await client.read_until("answers")
    (answer,) = frame.answers
    assert (answer.number, answer.outcome, answer.cause.reason) == (1, common_pb2.OUTCOME_IN_DOUBT, "WRONG_SHARD")
    assert "c2, which is at b:1" in answer.cause.message
    begun = frame.begun or (await client.read_until("begun")).begun
    assert begun[0].refusal.reason == "WRONG_SHARD"
    assert shard.undecided == 0


def client_hello() -> client_pb2.ClientHello:
    return client_pb2.ClientHello(protocol=common_pb2.ProtocolRange(lowest=1, highest=1))


async def test_who_dials_a_shard_that_is_not_here_is_told_where_it_is(shard: Daemon, channel: grpc.aio.Channel) -> None:
    client = FakeClient(channel)
    said = client_hello()
    said.coordinator = "c2"
    client.send(hello=said)
    frame = await client.read_until("goodbye")
    assert (frame.goodbye.cause.reason, frame.goodbye.cause.retryable, frame.directory) == ("WRONG_NODE", True, DIRECTORY)
    person, theirs = FakeParticipant(channel), hello()
    theirs.coordinator = "c2"
    person.send(hello=theirs)
    told = await person.read_until("goodbye")
    assert (told.goodbye.cause.reason, told.directory) == ("WRONG_NODE", DIRECTORY)


async def test_a_participant_that_knows_of_no_shards_is_refused_and_one_that_does_is_welcome(
    shard: Daemon, channel: grpc.aio.Channel
) -> None:
    old, new = FakeParticipant(channel), FakeParticipant(channel)
    old.send(hello=hello("old"))
    assert (await old.read_until("goodbye")).goodbye.cause.reason == "VERSION_MISMATCH"
    said: participant_pb2.Hello = hello("new")
    said.capabilities.append("directory")
    new.send(hello=said, reports_complete=True)
    frame = await new.read_until("welcome")
    assert (frame.welcome.coordinator, frame.directory) == ("c1", DIRECTORY)


async def test_nothing_comes_before_welcome_also_when_shards_move_meanwhile(shard: Daemon, channel: grpc.aio.Channel) -> None:
    """Who waits to be welcomed, while a shard hears its participants, took a directory for a bug of the peer, and dialled again."""
    person, said = FakeParticipant(channel), hello()
    said.capabilities.append("directory")
    person.send(hello=said)
    await eventually(lambda: shard.participants.open_streams() == 1)
    shard.tell_directory()
    person.send(reports_complete=True)
    frame = await person.read()
    assert (frame.welcome.coordinator, frame.directory) == ("c1", DIRECTORY)


@pytest.fixture
async def nodes(shard: Daemon, tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """The shard c1, and a second daemon as the shard c2 at another node."""
    other = make_daemon(make_config(tmp_path / "c2", name="c2"))
    await other.start()
    forward = shard._routes._forward = Forward(lambda name: other.address)
    shard.context.common.questions = Questions(shard._routes.of_question, shard._routes._ask_ourselves)
    yield shard, other
    await forward.close()
    await other.stop()


@pytest.fixture
def passing_on(nodes: tuple[Daemon, Daemon]) -> Daemon:
    """The first of them."""
    return nodes[0]


async def test_what_is_affected_at_a_participant_is_listed_from_all_nodes(
    nodes: tuple[Daemon, Daemon], channel: grpc.aio.Channel
) -> None:
    """Half of it is known to one node, half to the other, and some to both."""
    ids = [f"c9.1.0badcafe.3.{number}" for number in range(350)]
    for daemon, known in zip(nodes, (ids[:200], ids[150:]), strict=True):
        bank = daemon._core._book.participants["bank"] = Known("bank")  # type: ignore[attr-defined]  # as its reports would make it
        bank.stranded = dict.fromkeys(known, b"")
    stub, seen = admin_pb2_grpc.AdminServiceStub(channel), list[str]()
    request = admin_pb2.ListParticipantDetailsRequest(participant="bank", detail=admin_pb2.PARTICIPANT_DETAIL_STRANDED)
    while True:
        page = await stub.ListParticipantDetails(request)
        seen += [row.name for row in page.rows]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == sorted(ids) and len(page.rows) == 50
    del nodes[1]._core._book.participants["bank"]  # type: ignore[attr-defined]  # as before: only one node knows it
    request.page_token = ""
    assert (await stub.ListParticipantDetails(request)).total == 200
    request.participant = "nobody"
    assert (await stub.ListParticipantDetails(request)).refusal.reason == "UNKNOWN_PARTICIPANT"


@pytest.mark.parametrize("older", [True, False])
async def test_what_an_older_node_would_take_for_another_order_is_not_passed_on_to_it(
    nodes: tuple[Daemon, Daemon], channel: grpc.aio.Channel, older: bool
) -> None:
    """It passes over what it does not know: it would do at once what was to wait for a second person, and accept its own loss in
    place of a participant's."""
    admin: Any = admin_pb2_grpc.AdminServiceStub(channel)
    forward, other, came = nodes[0]._routes._forward, nodes[1], list[str]()
    assert forward is not None
    forward._features_of = lambda address: () if older and address == other.address else features.NAMES
    for method in ("Resolve", "AcceptLoss"):
        note(other.admin, method, came)
    orders = {
        "Resolve": admin_pb2.ResolveRequest(
            transaction_id="c2.1.0badcafe.1.1", action=admin_pb2.RESOLVE_ACTION_ABORT, who="ada", why="a test", review=True
        ),
        "AcceptLoss": admin_pb2.AcceptLossRequest(participant="bank", who="ada", why="a test"),
    }
    for method, order in orders.items():
        asking = getattr(admin, method)(order)
        if older:
            with pytest.raises(grpc.aio.AioRpcError, match=r"VERSION_MISMATCH: the node at .* is of an earlier version"):
                await asking
        else:
            assert (await asking).refusal.reason
    assert came == ([] if older else list(orders))
    orders["Resolve"].review = False
    await admin.Resolve(orders["Resolve"])
    assert came[-1] == "Resolve", "what it understands is passed on"


async def test_a_result_that_an_older_node_would_not_keep_is_left_out_where_it_may_be(
    nodes: tuple[Daemon, Daemon], channel: grpc.aio.Channel
) -> None:
    stub: Any = client_pb2_grpc.TransactionServiceStub(channel)
    forward, other = nodes[0]._routes._forward, nodes[1]
    assert forward is not None
    forward._features_of = lambda address: ()
    came: list[client_pb2.CommitRequest] = []

    async def committed(request: client_pb2.CommitRequest, context: Any) -> client_pb2.Answer:
        came.append(request)
        return client_pb2.Answer(outcome=common_pb2.OUTCOME_COMMITTED)

    other.transactions.Commit = committed  # type: ignore[method-assign]  # as an older one would take it
    commit = client_pb2.CommitRequest(transaction_id="c2.1.0badcafe.1.1", result=b"seven")
    with pytest.raises(grpc.aio.AioRpcError, match="holds this back: key_results"):
        await stub.Commit(commit)
    assert not came, "it would commit, and nobody would learn what it came to"
    commit.result_optional = True
    await stub.Commit(commit)
    assert came == [client_pb2.CommitRequest(transaction_id=commit.transaction_id)]


def note(service: Any, method: str, came: list[str]) -> None:
    """Write down that a method of a shard's service is asked."""
    asked = getattr(service, method)

    async def noted(request: Any, context: Any) -> Any:
        came.append(method)
        return await asked(request, context)

    setattr(service, method, noted)


async def test_a_question_about_another_shard_is_answered_by_that_one(passing_on: Daemon, channel: grpc.aio.Channel) -> None:
    """Also one under its key, whatever the id: what asked before knew no shards, and "aborted" was told of what was committed."""
    client = FakeClient(channel)
    client.send(hello=client_hello())
    await client.read_until("welcome")
    asked = [
        client_pb2.GetRequest(transaction_id="c2.1.00000000.1.1"),
        client_pb2.GetRequest(transaction_id="c1.1.00000000.1.7", key=key_of(1), participants=["p"], first_attempt_ms=1),
        client_pb2.GetRequest(transaction_id="c1.1.00000000.1.8"),
        client_pb2.GetRequest(transaction_id="c9.1.00000000.1.1"),
    ]
    client.send(gets=asked)
    told: dict[str, client_pb2.Answer] = {}
    while len(told) < len(asked):
        told |= {got.transaction_id: got.answer for got in (await client.read_until("got")).got}
    assert all(answer.outcome == common_pb2.OUTCOME_IN_DOUBT for answer in told.values())
    why = {name[:2] + name[-1]: answer.cause.message for name, answer in told.items()}
    assert why["c21"].startswith("nothing is known of c2.1")
    assert "c1.1.00000000.1.7 belongs to another coordinator" in why["c17"]
    assert "nothing is known of c1.1" in why["c18"] and "belongs to another" in why["c91"]


async def test_a_question_whose_shard_is_away_is_in_doubt(
    passing_on: Daemon, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient(channel)
    client.send(hello=client_hello())
    await client.read_until("welcome")
    passing_on._routes._forward._address_of = lambda name: ""
    question = client_pb2.GetRequest(transaction_id="c2.1.00000000.1.1")
    client.send(gets=[question])
    (got,) = (await client.read_until("got")).got
    assert (got.answer.outcome, got.answer.cause.reason) == (common_pb2.OUTCOME_IN_DOUBT, "WRONG_NODE")
    monkeypatch.setattr(questions, "UNDER_WAY_MAX", 0)
    client.send(gets=[question])
    (got,) = (await client.read_until("got")).got
    assert (got.answer.outcome, got.answer.cause.reason) == (common_pb2.OUTCOME_IN_DOUBT, "OVERLOADED")
