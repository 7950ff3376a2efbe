"""A closed coordinator: who is given something can do it, and nobody else can, over streams, unary calls and the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, POLICY, connected, make_notes, reason_of
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.identity import followed
from coordinator.server import Daemon
from participant_sdk import Condition, Tls
from participant_sdk.client import Client, call
from troth.errors import Aborted, OutcomeUnknown
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2

NOTES, WEB, ADA, EVE = (f"spiffe://example.org/{one}" for one in ("notes", "web", "people/ada", "eve"))


async def test_who_is_given_it_runs_transactions(guarded: Daemon, pki: Pki, tmp_path: Path) -> None:
    async with (
        make_notes(tmp_path, guarded, pki.tls("notes", NOTES)) as notes,
        Client(guarded.address, tls=pki.tls("web", WEB)) as web,
    ):
        await connected(notes)
        done = await web.run(call("notes", "note", text="hello"), attempts=20, timeout=PATIENCE_SECONDS)
        assert done.results == {"notes": [1]}
        with pytest.raises(Aborted) as caught:
            await web.run(call("ledger", "book"), timeout=PATIENCE_SECONDS)
        assert caught.value.reason.name == "FORBIDDEN"
        assert not caught.value.retryable


async def test_who_is_not_given_a_participant_s_name_does_not_get_it(guarded: Daemon, pki: Pki, tmp_path: Path) -> None:
    """Whoever has a certificate of the authority could pose as any participant that was not bound yet."""
    async with make_notes(tmp_path, guarded, pki.tls("eve", EVE)) as eve:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not guarded.context.common.gate.refused:  # noqa: ASYNC110 - there is nothing to wait for
                await asyncio.sleep(0.05)
        assert eve.health.condition is not Condition.CONNECTED


async def test_every_unary_call_is_refused_to_who_is_given_nothing(guarded: Daemon, pki: Pki) -> None:
    tls = pki.tls("eve", EVE)
    async with grpc.aio.secure_channel(guarded.address, tls.channel_credentials()) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        branch = client_pb2.BranchRequest(participant="notes", operations=[common_pb2.Operation(name="note")])
        for method, request in (
            (stub.Run, client_pb2.RunRequest(branches=[branch], timeout_ms=1000)),
            (stub.Begin, client_pb2.BeginRequest(timeout_ms=1000)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(request, timeout=PATIENCE_SECONDS)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert reason_of(caught.value) == "FORBIDDEN"


async def test_operators_over_the_command_line(guarded: Daemon, pki: Pki, capsys: pytest.CaptureFixture[str]) -> None:
    assert await troth(guarded, pki.tls("eve", EVE), "drain") == 1
    assert "FORBIDDEN" in capsys.readouterr().err
    assert await troth(guarded, pki.tls("web", WEB), "txn", "list") == 1
    assert await troth(guarded, pki.tls("ada", ADA), "txn", "list") == 0
    assert await troth(guarded, pki.tls("ada", ADA), "status", "--json") == 0
    assert '"access": "closed"' in capsys.readouterr().out
    assert not guarded.context.core.is_draining
    assert await troth(guarded, pki.tls("ada", ADA), "drain") == 0
    assert guarded.context.core.is_draining


async def troth(daemon: Daemon, tls: Tls, *arguments: str) -> int:
    """The exit code of a command at the daemon."""
    flags = ("--tls-authorities", str(tls.authorities), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    return await asyncio.to_thread(run, (*arguments, "--coordinator", daemon.address, *flags))


async def test_a_new_policy_ends_what_it_forbids_and_lets_it_come_back(
    guarded: Daemon, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in a policy, once mended, must not leave services ended."""
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.0)
    async with (
        make_notes(tmp_path, guarded, pki.tls("notes", NOTES)) as notes,
        Client(guarded.address, tls=pki.tls("web", WEB)) as web,
    ):
        await connected(notes)
        (tmp_path / "policy.toml").write_text(POLICY.replace('participate = ["notes"]', 'participate = ["nothing"]'))
        with pytest.raises(OutcomeUnknown) as caught:  # it did the work, and then nobody listened to it
            await web.run(call("notes", "note", text="hello"), attempts=1, timeout=1.0)
        (tmp_path / "policy.toml").write_text(POLICY)
        unknown = caught.value
        done = await web.get(
            unknown.transaction_id, participants=unknown.participants, first_attempt_ms=unknown.first_attempt_ms,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.transaction_id == unknown.transaction_id
