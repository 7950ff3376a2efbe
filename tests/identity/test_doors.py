"""Where calls come in: administration apart from the rest, over a unix socket; reflection; and how many calls one identity has."""

from __future__ import annotations

import asyncio
import json
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
from troth.errors import ConfigError
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
