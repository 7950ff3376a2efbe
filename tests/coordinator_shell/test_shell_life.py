"""The daemon's life: ports, directories, health, drains, failed logs, and strangers at the port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from shell_harness import SECONDS, FakeParticipant, ScriptedCore, hello, make_config, scripted_daemon
from test_shell_streams import FakeClient

from coordinator.alone import failed_before
from coordinator.directory import read_address
from coordinator.port import LIVENESS, READINESS
from coordinator.server import Daemon, make_daemon
from troth.errors import ConfigError, LogError, LogForeign, LogLocked, Reason, TrothError
from troth.log.memory import Disk
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, participant_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel: grpc.aio.Channel, name: str) -> Any:
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def test_a_daemon_whose_log_has_lost_something_is_not_ready_until_that_is_accepted(tmp_path: Path) -> None:
    first = make_daemon(make_config(tmp_path))
    await first.start()
    await first.stop()
    daemon = make_daemon(make_config(tmp_path))
    await daemon.start()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        heard = participant_pb2.Heard(coordinator="c1", log_id=daemon.context.core.log_id, epoch=1, nonce="feedfeed")
        other, said = FakeParticipant(channel), hello("stock")
        said.heard.append(heard)
        other.send(hello=said, reports_complete=True)
        goodbye = (await other.read_until("goodbye")).goodbye
        assert goodbye.cause.reason == "LOG_WENT_BACK" and goodbye.cause.retryable
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        await admin.ListParticipants(admin_pb2.ListParticipantsRequest())
        assert (await health(channel, READINESS), await health(channel, LIVENESS)) == (NOT_SERVING, SERVING)
        accepted = await admin.AcceptLoss(admin_pb2.AcceptLossRequest(who="ann", why="restored"))
        assert list(accepted.participants) == ["stock"]
        assert await health(channel, READINESS) == SERVING
    await daemon.stop()


async def test_the_address_is_written_and_removed(tmp_path: Path) -> None:
    daemon = make_daemon(make_config(tmp_path))
    await daemon.start()
    assert read_address(tmp_path) == daemon.address
    assert not daemon.address.endswith(":0")
    await daemon.stop()
    assert read_address(tmp_path) == ""


async def test_each_start_is_a_new_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2):
        daemon = make_daemon(make_config(tmp_path))
        await daemon.start()
        assert daemon.epoch == epoch
        await daemon.stop()


async def test_a_taken_port_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        daemon = make_daemon(make_config(tmp_path, listen=f"127.0.0.1:{port}"))
        with pytest.raises(TrothError) as caught:
            await daemon.start()
    assert caught.value.reason is Reason.PORT_TAKEN
    assert not (tmp_path / "coordinator.db").exists()


async def test_two_daemons_cannot_share_a_port(daemon: Daemon, tmp_path: Path) -> None:
    second = make_daemon(make_config(tmp_path / "c2", listen=daemon.address))
    with pytest.raises(TrothError) as caught:
        await second.start()
    assert caught.value.reason is Reason.PORT_TAKEN


async def test_an_address_that_is_not_ours_is_a_configuration_error(tmp_path: Path) -> None:
    daemon = make_daemon(make_config(tmp_path, listen="192.0.2.1:7420", insecure=True))
    with pytest.raises(ConfigError):
        await daemon.start()


async def test_a_data_directory_belongs_to_one_daemon(daemon: Daemon, tmp_path: Path) -> None:
    second = make_daemon(make_config(tmp_path / "c1"))
    with pytest.raises(LogLocked):
        await second.start()
    assert read_address(tmp_path / "c1") == daemon.address


async def test_the_directory_of_another_coordinator_is_refused(tmp_path: Path) -> None:
    first = make_daemon(make_config(tmp_path))
    await first.start()
    await first.stop()
    with pytest.raises(LogForeign):
        await make_daemon(make_config(tmp_path, name="c2")).start()
    again = make_daemon(make_config(tmp_path))
    await again.start()
    await again.stop()


async def test_a_directory_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(LogError) as caught:
        await make_daemon(make_config(Path("/proc/troth"))).start()
    assert caught.value.reason is Reason.LOG_READ_ONLY


async def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c1").write_text("I am a file")
    with pytest.raises(LogError):
        await make_daemon(make_config(tmp_path / "c1")).start()


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: troth\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(range(200)),
        bytes((7 * n * n + 3 * n) % 256 for n in range(5000)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"",
    ],
    ids=["http", "tls", "random", "http2", "nothing"],
)
async def test_strangers_at_the_port_do_no_harm(daemon: Daemon, channel: grpc.aio.Channel, noise: bytes) -> None:
    host, _, port = daemon.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(noise)
    writer.write_eof()
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):  # being cut off is an answer too
            await reader.read()
    writer.close()
    status = await admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest())
    assert status.coordinator == "c1"
    assert status.counters["internal_errors"] == 0


async def test_a_drain_is_not_ready_but_alive(channel: grpc.aio.Channel) -> None:
    assert [await health(channel, name) for name in (LIVENESS, READINESS, "")] == [SERVING] * 3
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    transactions = client_pb2_grpc.TransactionServiceStub(channel)
    begun = await transactions.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    assert (await admin.Drain(admin_pb2.DrainRequest())).undecided == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await transactions.Begin(client_pb2.BeginRequest(timeout_ms=5000))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await transactions.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id))
    async with asyncio.timeout(SECONDS):
        while await health(channel, "") == SERVING:
            pass
    assert [await health(channel, name) for name in (LIVENESS, READINESS)] == [SERVING, NOT_SERVING]
    assert (await admin.GetStatus(admin_pb2.GetStatusRequest())).draining


async def test_a_stop_waits_for_the_undecided_and_says_goodbye(tmp_path: Path) -> None:
    daemon = make_daemon(make_config(tmp_path))
    await daemon.start()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        person, client = FakeParticipant(channel), FakeClient(channel)
        await person.greet("payments")
        await client.greet()
        transactions = client_pb2_grpc.TransactionServiceStub(channel)
        begun = await transactions.Begin(client_pb2.BeginRequest(timeout_ms=60_000))
        draining = asyncio.create_task(daemon.drain())
        async with asyncio.timeout(SECONDS):
            while await health(channel, READINESS) == SERVING:
                pass
        assert not draining.done()
        await transactions.Abort(client_pb2.AbortRequest(transaction_id=begun.transaction_id))
        await draining
        stopping = asyncio.create_task(daemon.stop())
        assert (await person.read_until("goodbye")).goodbye.cause.reason == "DRAINING"
        assert (await client.read_until("goodbye")).goodbye.cause.reason == "DRAINING"
        await stopping


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    core = ScriptedCore()
    core.open = 3
    daemon = scripted_daemon(make_config(tmp_path, drain_seconds=3600.0), core)
    await daemon.start()
    daemon.hurry.set()
    async with asyncio.timeout(SECONDS):
        await daemon.drain()
    await daemon.stop()


async def test_a_failed_log_ends_the_daemon(tmp_path: Path) -> None:
    disk = Disk()
    core = ScriptedCore()
    core.react = lambda event: core.append() or ()  # type: ignore[func-returns-value]  # appends, wants nothing else
    daemon = scripted_daemon(make_config(tmp_path), core, disk)
    await daemon.start()
    disk.fail_at[disk.calls + 1] = "input/output error"
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        asking = asyncio.ensure_future(
            client_pb2_grpc.TransactionServiceStub(channel).Get(client_pb2.GetRequest(transaction_id="c1.7.0badcafe.0.1"))
        )
        async with asyncio.timeout(SECONDS):
            assert await failed_before(asyncio.Event().wait(), daemon)
        assert daemon.failed.result().reason is Reason.LOG_FAILED
        await daemon.abandon()
        with pytest.raises(grpc.aio.AioRpcError):
            await asking


async def test_a_log_that_fails_at_the_start_is_told_at_the_start(tmp_path: Path) -> None:
    core = ScriptedCore()
    core.append()
    disk = Disk(fail_at={2: "disk full"})
    with pytest.raises(LogError) as caught:
        await scripted_daemon(make_config(tmp_path), core, disk).start()
    assert caught.value.reason is Reason.LOG_FAILED
    assert read_address(tmp_path) == ""


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for response in call:
        names = {service.name for service in response.list_services_response.service}
        assert {"troth.v1.TransactionService", "troth.v1.ParticipantService", "troth.v1.AdminService"} <= names
