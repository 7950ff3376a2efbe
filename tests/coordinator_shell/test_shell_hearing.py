"""A daemon on a log that was put back hears its participants before it writes; a start that is refused writes nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from shell_harness import FakeParticipant, eventually, hello, make_config

from coordinator.server import Daemon, make_daemon
from troth.log import offline
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2, participant_pb2

HEARING_SECONDS = 30.0
"""In vain if it had to pass: whom the log has bound is there in each of these tests."""


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[tuple[Daemon, grpc.aio.Channel]]:
    """A daemon that is started but need not serve yet, and a channel to it."""
    daemon = make_daemon(make_config(directory, hearing_seconds=HEARING_SECONDS))
    starting = asyncio.create_task(daemon.start())
    try:
        await eventually(lambda: bool(daemon.address) or starting.done())
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            yield daemon, channel
        await starting
    finally:
        await daemon.stop()


def introduced(*heard: participant_pb2.Heard) -> participant_pb2.Hello:
    said = hello()
    said.heard.extend(heard)
    return said


async def heard_of(directory: Path) -> participant_pb2.Heard:
    """One whole life of the coordinator, with the participant there; returns what that has heard."""
    async with running(directory) as (_, channel):
        person = FakeParticipant(channel)
        welcome = await person.greet("payments")
        person.leave()
    return participant_pb2.Heard(
        coordinator=welcome.coordinator, log_id=welcome.log_id, epoch=welcome.epoch, nonce=welcome.nonce
    )


def records_of(directory: Path) -> list[tuple[int, bytes]]:
    dumped = offline.dump(directory / "coordinator.db")
    return [(record.seq, record.message.SerializeToString()) for record in dumped.records]


async def test_a_start_on_an_older_copy_leaves_it_as_it_was_five_times_over(tmp_path: Path) -> None:
    right, copy = tmp_path / "right", tmp_path / "copy"
    await heard_of(right)
    shutil.copytree(right, copy)
    heard = await heard_of(right)
    assert heard.epoch == 2
    before = records_of(copy)
    for _ in range(5):
        async with running(copy) as (daemon, channel):
            waiting = client_pb2_grpc.TransactionServiceStub(channel).Begin(client_pb2.BeginRequest(timeout_ms=1000))
            person = FakeParticipant(channel)
            person.send(hello=introduced(heard))
            assert (await person.read()).goodbye.cause.reason == "LOG_WENT_BACK"
            with pytest.raises(grpc.aio.AioRpcError, match="log has lost"):
                await waiting
            listed = await admin_pb2_grpc.AdminServiceStub(channel).ListParticipants(admin_pb2.ListParticipantsRequest())
            assert "never began" in listed.participants[0].loss and daemon.epoch == 3, "above what was heard"
        assert records_of(copy) == before
    async with running(right) as (daemon, channel):
        person = FakeParticipant(channel)
        person.send(hello=introduced(heard), reports_complete=True)
        assert (await person.read()).welcome.epoch == 3, "the right log is taken up where it was"
        person.leave()


async def test_a_client_waits_until_the_participants_were_heard(tmp_path: Path) -> None:
    await heard_of(tmp_path)
    async with running(tmp_path) as (daemon, channel):
        call = client_pb2_grpc.TransactionServiceStub(channel).Connect()
        speaks = common_pb2.ProtocolRange(lowest=1, highest=1)
        await call.write(client_pb2.ConnectRequest(hello=client_pb2.ClientHello(protocol=speaks)))
        reading = asyncio.ensure_future(call.read())
        person = FakeParticipant(channel)
        assert not reading.done(), "no session of a life that may never begin"
        await person.greet("payments")
        assert (await reading).welcome.epoch == daemon.epoch == 2
        call.cancel()
        person.leave()
