"""Services see who began the transaction, in one-shot and in interactive work; no client can say otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from closed_world import PATIENCE_SECONDS, connected
from fastapi import FastAPI
from private_authority import Pki

from coordinator.server import Daemon
from participant_sdk import LogResource, Participant, SqliteResource, current_caller
from participant_sdk.client import Client, call
from participant_sdk.context import entered
from participant_sdk.frameworks.asgi import TransactionMiddleware
from troth.errors import Reason, RequestError
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2
from troth.values import decode_value, encode_arguments

NOTES, WEB, ADA = (f"spiffe://example.org/{one}" for one in ("notes", "web", "people/ada"))
METHOD = "/notes.Service/Who"


def make_asking(directory: Path, daemon: Daemon, pki: Pki, kind: str = "plain") -> Participant:
    """A participant that says who called."""
    resource: Any = SqliteResource(directory / "notes.db") if kind == "plain" else LogResource()
    asking = Participant(
        "notes", resource=resource, data_directory=directory / "notes", coordinator=daemon.address, tls=pki.tls("notes", NOTES)
    )
    if kind == "plain":

        @asking.operation(name="who")
        def plain(db: Any) -> str:
            return current_caller()
    else:

        @asking.operation(name="who")
        async def coroutine(branch: Any) -> str:
            return current_caller()

    return asking


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_an_operation_sees_who_began_its_transaction(guarded: Daemon, pki: Pki, tmp_path: Path, kind: str) -> None:
    tls = pki.tls("web", WEB)
    async with make_asking(tmp_path, guarded, pki, kind) as asking, Client(guarded.address, tls=tls) as web:
        await connected(asking)
        assert (await web.run(call("notes", "who"), timeout=PATIENCE_SECONDS)).results == {"notes": [WEB]}
        async with grpc.aio.secure_channel(guarded.address, tls.channel_credentials()) as channel:
            forged = common_pb2.Operation(name="who", arguments=encode_arguments({}), caller=ADA)
            branch = client_pb2.BranchRequest(participant="notes", operations=[forged])
            stub = client_pb2_grpc.TransactionServiceStub(channel)
            done = await stub.Run(client_pb2.RunRequest(branches=[branch], timeout_ms=30_000))
        results = common_pb2.Results.FromString(done.answer.results[0].results)
        assert [decode_value(one) for one in results.values] == [WEB]
    assert current_caller() == ""


# ---- interactive work


@pytest_asyncio.fixture
async def asking(guarded: Daemon, pki: Pki, tmp_path: Path) -> AsyncIterator[Participant]:
    async with make_asking(tmp_path, guarded, pki) as one:
        await connected(one)
        yield one


@pytest_asyncio.fixture
async def web(guarded: Daemon, pki: Pki) -> AsyncIterator[Client]:
    async with Client(guarded.address, tls=pki.tls("web", WEB)) as client:
        yield client


async def heard(asking: Participant) -> str:
    """What a handler and its operation know before and after it has asked."""
    branch = asking.branch()
    told = [current_caller() or "-", await branch.caller(), current_caller(), await branch.run("who")]
    return " ".join(told)


async def test_a_handler_of_grpc_asks_and_its_operations_know(asking: Participant, web: Client) -> None:
    async def who(request: bytes, context: Any) -> bytes:
        return (await heard(asking)).encode()

    server = grpc.aio.server(interceptors=asking.interceptors(), options=[("grpc.so_reuseport", 0)])
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("notes.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=web.interceptors()) as channel,
            web.transaction(timeout=PATIENCE_SECONDS),
        ):
            assert (await channel.unary_unary(METHOD)(b"")).decode() == f"- {WEB} {WEB} {WEB}"
    finally:
        await server.stop(None)
    assert current_caller() == ""


async def test_a_handler_of_http_asks_and_its_operations_know(asking: Participant, web: Client) -> None:
    app = FastAPI()

    @app.get("/who")
    async def who() -> str:
        return await heard(asking)

    transport = httpx.ASGITransport(TransactionMiddleware(app, asking))
    http = web.carry(httpx.AsyncClient(transport=transport, base_url="http://notes"))
    async with http, web.transaction(timeout=PATIENCE_SECONDS):
        assert (await http.get("/who")).json() == f"- {WEB} {WEB} {WEB}"


async def test_a_handler_in_a_thread_asks(asking: Participant, web: Client) -> None:
    def in_thread() -> list[str]:
        branch = asking.branch_sync()
        return [branch.caller(), current_caller(), branch.run("who")]

    async with web.transaction(timeout=PATIENCE_SECONDS) as tx:
        with entered(tx.context(), tells=True) as scope:
            assert await asyncio.to_thread(in_thread) == [WEB, WEB, WEB]
        tx.acknowledge(*scope.acknowledgements)


async def test_who_knows_an_id_cannot_call_in_the_name_of_its_owner(asking: Participant, web: Client) -> None:
    async with web.transaction(timeout=PATIENCE_SECONDS) as of_ours:
        right = of_ours.context()
        for proof in (b"", b"x" * 32, right.proof[:-1] + bytes([right.proof[-1] ^ 1])):
            forged = common_pb2.TransactionContext()
            forged.CopyFrom(right)
            forged.proof = proof
            with pytest.raises(RequestError) as caught:
                await asking.branch(forged).caller()
            assert caught.value.reason is Reason.FORBIDDEN
        other = common_pb2.TransactionContext()
        other.CopyFrom(right)
        other.transaction_id = f"{right.transaction_id.rpartition('.')[0]}.999"
        with pytest.raises(RequestError):
            await asking.branch(other).caller()
        assert await asking.branch(right).caller() == WEB


async def test_a_transaction_that_a_unary_call_began_has_its_proof(asking: Participant, guarded: Daemon, pki: Pki) -> None:
    async with grpc.aio.secure_channel(guarded.address, pki.tls("web", WEB).channel_credentials()) as channel:
        begun = await client_pb2_grpc.TransactionServiceStub(channel).Begin(client_pb2.BeginRequest(timeout_ms=30_000))
    context = common_pb2.TransactionContext(transaction_id=begun.transaction_id, call_id="1", proof=begun.proof)
    assert await asking.branch(context).caller() == WEB
    context.proof = b""
    with pytest.raises(RequestError):
        await asking.branch(context).caller()


async def test_a_participant_that_is_not_invited_is_not_told(web: Client, guarded: Daemon) -> None:
    async with web.transaction(timeout=PATIENCE_SECONDS) as tx:
        context = tx.context()
        question = participant_pb2.CallerQuestion(transaction_id=context.transaction_id, proof=context.proof)
        assert guarded.callers.answer("ledger", question).refusal.reason == "FORBIDDEN"
        assert guarded.callers.answer("notes", question).caller == WEB


async def test_without_a_policy_nobody_is_named(closed: Daemon, pki: Pki, tmp_path: Path) -> None:
    async with make_asking(tmp_path, closed, pki) as asking, Client(closed.address, tls=pki.tls("web", WEB)) as client:
        await connected(asking)
        async with client.transaction(timeout=PATIENCE_SECONDS) as tx:
            assert await asking.branch(tx.context()).caller() == ""
