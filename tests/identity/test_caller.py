"""Operations see who began the transaction; no client can say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, connected
from private_authority import Pki

from coordinator.server import Daemon
from participant_sdk import LogResource, Participant, SqliteResource, current_caller
from participant_sdk.client import Client, call
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2
from troth.values import decode_value, encode_arguments

NOTES, WEB = "spiffe://example.org/notes", "spiffe://example.org/web"


def make_asking(directory: Path, daemon: Daemon, pki: Pki, kind: str) -> Participant:
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
            forged = common_pb2.Operation(name="who", arguments=encode_arguments({}), caller="spiffe://example.org/people/ada")
            branch = client_pb2.BranchRequest(participant="notes", operations=[forged])
            stub = client_pb2_grpc.TransactionServiceStub(channel)
            done = await stub.Run(client_pb2.RunRequest(branches=[branch], timeout_ms=30_000))
        results = common_pb2.Results.FromString(done.answer.results[0].results)
        assert [decode_value(one) for one in results.values] == [WEB]
    assert current_caller() == ""
