"""What was tried against an open coordinator, and worked: each of it against a closed one, by somebody with a certificate of its
authority, who is given what a client is given and no more. Where a fence of the core stops it, it is stopped in the open too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from closed_world import PATIENCE_SECONDS, POLICY, connected, make_notes, reason_of
from private_authority import Pki

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import Tls
from participant_sdk.client import Client, call
from troth.errors import Aborted
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc

NOTES, WEB, EVE, ADA = (f"spiffe://example.org/{one}" for one in ("notes", "web", "eve", "people/ada"))
ATTACKER = '\n[[grant]]\nto = ["spiffe://example.org/eve"]\nbegin = ["other/*"]\nparticipate = ["other"]\n'
PROTOCOL = common_pb2.ProtocolRange(lowest=1, highest=1)


@pytest_asyncio.fixture
async def attacked(guarded: Daemon, tmp_path: Path) -> Daemon:
    """A closed daemon at which the attacker may be one participant, and run what that one offers."""
    (tmp_path / "policy.toml").write_text(POLICY + ATTACKER)
    gate = guarded.context.common.gate
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not gate.decision(EVE, "begin", "").allowed:  # noqa: ASYNC110 - the file is looked at once a second
            await asyncio.sleep(0.05)
    return guarded


@asynccontextmanager
async def channel_of(daemon: Daemon, tls: Tls) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.secure_channel(daemon.address, tls.channel_credentials()) as channel:
        yield channel


async def refusal(call_made: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_made
    return reason_of(caught.value)


async def goodbye(channel: grpc.aio.Channel, hello: participant_pb2.Hello) -> str:
    """Why a Hello is answered by Goodbye; empty when it is welcomed."""
    stream = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
    await stream.write(participant_pb2.SessionRequest(hello=hello, reports_complete=True))
    async with asyncio.timeout(PATIENCE_SECONDS):
        frame = await stream.read()
    stream.cancel()
    return str(frame.goodbye.cause.reason)


# ---- participants


async def test_pose_as_a_bound_participant_with_a_larger_incarnation(attacked: Daemon, pki: Pki, tmp_path: Path) -> None:
    """Its log id is listed. As it, the attacker acknowledged commits that were never done."""
    async with make_notes(tmp_path, attacked, pki.tls("notes", NOTES)) as notes, channel_of(attacked, pki.tls("ada", ADA)) as ada:
        await connected(notes)
        listed = await admin_pb2_grpc.AdminServiceStub(ada).ListParticipants(admin_pb2.ListParticipantsRequest())
        (row,) = listed.participants
        hello = participant_pb2.Hello(protocol=PROTOCOL, participant="notes", log_id=row.log_id, incarnation=row.incarnation + 5)
        async with channel_of(attacked, pki.tls("eve", EVE)) as eve:
            assert await goodbye(eve, hello) == "FORBIDDEN"
        async with Client(attacked.address, tls=pki.tls("web", WEB)) as web:
            assert (await web.run(call("notes", "note", text="x"), timeout=PATIENCE_SECONDS)).results == {"notes": [1]}


@pytest.mark.parametrize("incarnation", [2**64 - 1, 2**63, 1_000_001])
async def test_an_incarnation_that_locks_the_real_one_out(attacked: Daemon, pki: Pki, incarnation: int) -> None:
    hello = participant_pb2.Hello(protocol=PROTOCOL, participant="other", log_id="22" * 16, incarnation=incarnation)
    async with channel_of(attacked, pki.tls("eve", EVE)) as eve:
        assert await goodbye(eve, hello) == "IMPLAUSIBLE"
        hello.incarnation = 1
        assert await goodbye(eve, hello) == ""


async def test_fill_the_table_of_participants(attacked: Daemon, pki: Pki) -> None:
    """Each name that was ever said was remembered, beyond restarts."""
    async with channel_of(attacked, pki.tls("eve", EVE)) as eve:
        for number in range(5):
            hello = participant_pb2.Hello(protocol=PROTOCOL, participant=f"name{number}", log_id="22" * 16, incarnation=1)
            assert await goodbye(eve, hello) == "FORBIDDEN"
    assert not attacked._core._book.participants  # type: ignore[attr-defined]  # the real core's


async def test_veto_by_a_branch_that_nobody_has_asked_for(attacked: Daemon, pki: Pki, tmp_path: Path) -> None:
    """A branch that the commit does not name is a NO: any participant could abort any transaction whose id it had seen."""
    async with channel_of(attacked, pki.tls("web", WEB)) as web, channel_of(attacked, pki.tls("eve", EVE)) as eve:
        stub = client_pb2_grpc.TransactionServiceStub(web)
        begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        stream = participant_pb2_grpc.ParticipantServiceStub(eve).Session()
        hello = participant_pb2.Hello(protocol=PROTOCOL, participant="other", log_id="22" * 16, incarnation=1)
        await stream.write(participant_pb2.SessionRequest(hello=hello, reports_complete=True))
        assert (await stream.read()).HasField("welcome")
        await stream.write(participant_pb2.SessionRequest(enlists=[participant_pb2.Enlist(transaction_id=begun.transaction_id)]))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (frame := await stream.read()).enlisted:
                pass
        assert frame.enlisted[0].refusal.reason == "FORBIDDEN"
        done = await stub.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id))
        assert done.answer.outcome == common_pb2.OUTCOME_COMMITTED
        stream.cancel()


# ---- clients


async def test_commit_or_abort_another_s_transaction(attacked: Daemon, pki: Pki) -> None:
    """From its listed id: half a business action."""
    async with channel_of(attacked, pki.tls("web", WEB)) as web, channel_of(attacked, pki.tls("eve", EVE)) as eve:
        owner, thief = (client_pb2_grpc.TransactionServiceStub(one) for one in (web, eve))
        name = (await owner.Begin(client_pb2.BeginRequest(timeout_ms=30_000))).transaction_id
        assert await refusal(thief.Commit(client_pb2.CommitRequest(transaction_id=name))) == "FORBIDDEN"
        assert await refusal(thief.Abort(client_pb2.AbortRequest(transaction_id=name))) == "FORBIDDEN"
        assert await refusal(thief.Get(client_pb2.GetRequest(transaction_id=name))) == "FORBIDDEN"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in thief.Watch(client_pb2.WatchRequest(transaction_id=name)):
                raise AssertionError("it was told a state")
        assert reason_of(caught.value) == "FORBIDDEN"
        assert (await owner.Abort(client_pb2.AbortRequest(transaction_id=name))).answer.outcome == common_pb2.OUTCOME_ABORTED
        async with channel_of(attacked, pki.tls("ada", ADA)) as ada:  # whom the policy lets
            told = await client_pb2_grpc.TransactionServiceStub(ada).Get(client_pb2.GetRequest(transaction_id=name))
            assert told.answer.outcome == common_pb2.OUTCOME_ABORTED


async def test_take_over_a_session(attacked: Daemon, pki: Pki) -> None:
    """Also with its token, should that be stolen: a session is its identity's."""
    async with channel_of(attacked, pki.tls("web", WEB)) as web, channel_of(attacked, pki.tls("eve", EVE)) as eve:
        owner = client_pb2_grpc.TransactionServiceStub(web).Connect()
        await owner.write(client_pb2.ConnectRequest(hello=client_pb2.ClientHello(protocol=PROTOCOL)))
        welcome = (await owner.read()).welcome
        assert len(welcome.token) == 16
        for token in (b"", welcome.token):
            thief = client_pb2_grpc.TransactionServiceStub(eve).Connect()
            hello = client_pb2.ClientHello(protocol=PROTOCOL, session=welcome.session, token=token)
            await thief.write(client_pb2.ConnectRequest(hello=hello))
            told = (await thief.read()).welcome
            assert (told.resumed, told.session == welcome.session) == (False, False)
            thief.cancel()
        owner.cancel()


async def test_squat_a_key(attacked: Daemon, pki: Pki, tmp_path: Path) -> None:
    """Its owner was told KEY_REUSED, or the outcome of another's work."""
    async with (
        make_notes(tmp_path, attacked, pki.tls("notes", NOTES)) as notes, channel_of(attacked, pki.tls("eve", EVE)) as eve,
        Client(attacked.address, tls=pki.tls("web", WEB)) as web,
    ):  # fmt: skip
        await connected(notes)
        stub = client_pb2_grpc.TransactionServiceStub(eve)
        first = attacked.context.now_ms()
        await stub.Begin(client_pb2.BeginRequest(timeout_ms=30_000, key="invoice-1", first_attempt_ms=first))
        done = await web.run(call("notes", "note", text="x"), key="invoice-1", timeout=PATIENCE_SECONDS)
        assert done.results == {"notes": [1]}


# ---- operators


async def test_drain_and_who_root_at_prod(attacked: Daemon, pki: Pki) -> None:
    async with channel_of(attacked, pki.tls("eve", EVE)) as eve, channel_of(attacked, pki.tls("web", WEB)) as web:
        admin = admin_pb2_grpc.AdminServiceStub(eve)
        name = (await client_pb2_grpc.TransactionServiceStub(web).Begin(client_pb2.BeginRequest(timeout_ms=30_000))).transaction_id
        resolve = admin_pb2.ResolveRequest(
            transaction_id=name, action=admin_pb2.RESOLVE_ACTION_ABORT, who="root@prod", why="because"
        )
        forget = admin_pb2.ForgetParticipantRequest(participant="notes", who="root@prod", why="because")
        for made in (
            admin.Drain(admin_pb2.DrainRequest()), admin.Resolve(resolve), admin.ForgetParticipant(forget),
            admin.AcceptLoss(admin_pb2.AcceptLossRequest(who="root@prod", why="because")),
            admin.ListTransactions(admin_pb2.ListTransactionsRequest()), admin.GetStatus(admin_pb2.GetStatusRequest()),
        ):  # fmt: skip
            assert await refusal(made) == "FORBIDDEN"
    assert not attacked.context.core.is_draining


async def test_who_is_the_identity_and_not_what_was_said(attacked: Daemon, pki: Pki) -> None:
    async with channel_of(attacked, pki.tls("ada", ADA)) as ada, channel_of(attacked, pki.tls("web", WEB)) as web:
        stub = client_pb2_grpc.TransactionServiceStub(web)
        name = (await stub.Begin(client_pb2.BeginRequest(timeout_ms=30_000))).transaction_id
        resolve = admin_pb2.ResolveRequest(
            transaction_id=name, action=admin_pb2.RESOLVE_ACTION_ABORT, who="root@prod", why="because"
        )
        await admin_pb2_grpc.AdminServiceStub(ada).Resolve(resolve)
        told = await stub.Get(client_pb2.GetRequest(transaction_id=name))
        assert ADA in told.answer.cause.message
        assert "root@prod" not in told.answer.cause.message


# ---- the coordinator


async def test_pose_as_the_coordinator_on_its_port_while_it_is_down(pki: Pki, tmp_path: Path) -> None:
    """It executed any operation, and an epoch of 2**62 made every participant refuse the real one for ever. The attacker has a
    certificate of the same authority, but not with the coordinator's name."""
    fake = make_daemon(load(environment={}, flags=_flags(pki, tmp_path / "fake", pki.tls("eve", EVE))).config)
    await fake.start()
    try:
        web_files = pki.tls("web", WEB)
        async with (
            make_notes(tmp_path, fake, pki.tls("notes", NOTES)),
            Client(fake.address, tls=web_files, grace_seconds=0.1) as web,
        ):
            with pytest.raises(Aborted) as caught:
                await web.run(call("notes", "note", text="x"), timeout=1.0, attempts=1)
            assert caught.value.reason.name == "COORDINATOR_AWAY"
        assert fake.counters()["participant_streams"] == fake.counters()["client_streams"] == 0
    finally:
        await fake.stop()


def _flags(pki: Pki, directory: Path, tls: Tls) -> dict[str, Any]:
    return {
        "listen": "127.0.0.1:0", "data_directory": str(directory), "drain_seconds": 1.0, "policy": "open",
        "tls_certificate": str(tls.certificate), "tls_key": str(tls.key), "tls_authorities": str(tls.authorities),
    }  # fmt: skip
