"""Where calls come in: administration apart from the rest, over a unix socket; reflection; and how many calls one identity has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, Start, reason_of
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.identity.audit import lines_of
from coordinator.port import connections_max
from coordinator.services.crowd import PUBLIC_CALLS_MAX, Calls
from coordinator.shell_settings import ShellSettings
from participant_sdk import Tls
from troth.errors import ConfigError, Reason, RequestError
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc

ADA, WEB = "spiffe://example.org/people/ada", "spiffe://example.org/web"


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a socket may be: its whole path has at most 107 bytes, and pytest's own directories may be deeper than that."""
    with tempfile.TemporaryDirectory(prefix="troth-") as directory:
        yield Path(directory)


async def test_administration_over_a_unix_socket_alone(
    start: Start, pki: Pki, tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "admin.sock"
    daemon = await start(admin_listen=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as public:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminServiceStub(public).GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)
        assert (reason_of(caught.value), str(path) in str(caught.value.details())) == ("FORBIDDEN", True)
    audited = [json.loads(line) for line in lines_of(tmp_path / "c1" / "audit")]
    assert [one["who"] for one in audited if one["kind"] == "refused"] == [ADA], "he is known, and at the wrong door"
    assert await asyncio.to_thread(run, ("status", "--json", "--coordinator", f"unix:{path}")) == 0
    assert '"caller": "socket:admin"' in capsys.readouterr().out
    assert await asyncio.to_thread(run, ("drain", "--coordinator", f"unix:{path}")) == 0
    assert daemon.context.core.is_draining


async def test_administration_at_another_address(start: Start, pki: Pki) -> None:
    daemon = await start(admin_listen="127.0.0.1:0")
    async with grpc.aio.secure_channel(daemon.admin_address, pki.tls("ada", ADA).channel_credentials()) as admin:
        answer = await admin_pb2_grpc.AdminServiceStub(admin).GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)
    assert answer.caller == ADA


async def test_a_socket_that_a_process_has_left_behind_is_taken(start: Start, place: Path, tmp_path: Path) -> None:
    path = place / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await start(admin_listen=f"unix:{path}")
    with pytest.raises(ConfigError, match="cannot be bound"):
        await start(admin_listen=f"unix:{place}/nowhere/admin.sock", data_directory=str(tmp_path / "c2"))


@pytest.mark.parametrize(
    ("settings", "there"), [({}, True), ({"reflection": "false"}, False), ({"admin_listen": "127.0.0.1:0"}, False)]
)
async def test_reflection_where_it_is_wanted(start: Start, pki: Pki, settings: dict[str, str], *, there: bool) -> None:
    daemon = await start(**settings)
    async with grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as channel:
        method = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        call = method()
        code = grpc.StatusCode.OK
        try:
            # A refusal may be here before the request was written: then it is the writing that fails.
            await call.write(b"\x3a\x00")
            await call.done_writing()
            assert await call.read() is not None
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert (code is not grpc.StatusCode.UNIMPLEMENTED) is there


async def test_one_identity_has_so_many_calls_at_once_and_others_are_not_kept_out(start: Start, pki: Pki) -> None:
    daemon = await start(identity_calls_max="1")
    async with (
        grpc.aio.secure_channel(daemon.address, pki.tls("web", WEB).channel_credentials()) as web,
        grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as ada,
    ):
        stub = client_pb2_grpc.TransactionServiceStub(web)
        begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        watching = stub.Watch(client_pb2.WatchRequest(transaction_id=begun.transaction_id))
        await watching.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        assert reason_of(caught.value) == "OVERLOADED"
        await admin_pb2_grpc.AdminServiceStub(ada).GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)
        watching.cancel()


async def test_one_identity_has_so_many_connections_and_others_are_not_kept_out(start: Start, pki: Pki) -> None:
    daemon = await start(identity_connections_max="2")
    async with contextlib.AsyncExitStack() as stack:

        async def channel(tls: Tls) -> grpc.aio.Channel:
            own = [("grpc.use_local_subchannel_pool", 1)]
            return await stack.enter_async_context(grpc.aio.secure_channel(daemon.address, tls.channel_credentials(), options=own))

        web, ada = pki.tls("web", WEB), pki.tls("ada", ADA)
        stubs = [client_pb2_grpc.TransactionServiceStub(await channel(web)) for _ in range(3)]
        begun = await stubs[0].Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        held = [stub.Watch(client_pb2.WatchRequest(transaction_id=begun.transaction_id)) for stub in stubs[:2]]
        for watching in held:
            await watching.read()
        await stubs[1].Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs[2].Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        assert reason_of(caught.value) == "OVERLOADED"
        status = admin_pb2_grpc.AdminServiceStub(await channel(ada)).GetStatus
        fills = (await status(admin_pb2.GetStatusRequest(), timeout=PATIENCE_SECONDS)).fills
        assert [one.used for one in fills if one.limit == "identity_connections_max"] == [2]
        held[0].cancel()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while daemon.context.calls.fill()["identity_connections_max"] == 2:  # noqa: ASYNC110 - there is nothing to wait for
                await asyncio.sleep(0.01)
        await stubs[2].Begin(client_pb2.BeginRequest(timeout_ms=30_000))
        held[1].cancel()


@pytest.mark.parametrize(
    "method", ["/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
)
def test_what_anybody_may_ask_takes_nobody_else_s_place(method: str) -> None:
    calls = Calls(ShellSettings())
    with contextlib.ExitStack() as stack:
        for _ in range(PUBLIC_CALLS_MAX):
            stack.enter_context(calls.one(method, waits=True))
        with pytest.raises(RequestError) as caught, calls.one(method, waits=True):
            pass
        assert caught.value.reason is Reason.OVERLOADED
        with calls.one("/troth.v1.AdminService/GetStatus", waits=True):
            pass


@pytest.mark.parametrize(
    ("files", "settings", "most"),
    [
        (20_000, {}, 10_000), (resource.RLIM_INFINITY, {}, 10_000), (1_024, {}, 768), (100, {}, 50),
        (1_024, {"admin_listen": "127.0.0.1:0"}, 384), (1_024, {"admin_listen": "127.0.0.1:0", "token_listen": "127.0.0.1:0"}, 256),
    ],
)  # fmt: skip
def test_connections_leave_files_for_the_log(
    monkeypatch: pytest.MonkeyPatch, files: int, settings: dict[str, str], most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert connections_max(ShellSettings(**settings)) == most  # type: ignore[arg-type]  # they are texts
