"""A participant and a client whose coordinator sends what is no frame: they say goodbye to that stream, and dial again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from participant_sdk import LogResource, Participant
from participant_sdk import session as participant_session
from participant_sdk.client import Client, call, connection
from tests.fuzz.raw_server import RawServer
from troth.backoff import Backoff
from troth.errors import Aborted, OutcomeUnknown, RequestError
from troth.v1 import client_pb2, common_pb2, participant_pb2

PATIENCE_SECONDS = 20.0
GARBAGE = (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x03\x0a\x01\xff", b"", b"HTTP/1.1 400 Bad Request\r\n\r\n")
LIMITS = common_pb2.Limits(frame_bytes_max=1, timeout_ms_max=60_000)
HEARD = participant_pb2.SessionResponse(watermark=participant_pb2.Watermark()).SerializeToString()
"""The answer to a Hello that is complete."""


def welcome(coordinator: str = "c1", epoch: int = 1, version: int = 1) -> bytes:
    frame = participant_pb2.Welcome(protocol_version=version, coordinator=coordinator, epoch=epoch, nonce="0123abcd", limits=LIMITS)
    return participant_pb2.SessionResponse(welcome=frame).SerializeToString()


def client_welcome(session: str = "c1.1.0123abcd.1", version: int = 1) -> bytes:
    frame = client_pb2.ClientWelcome(protocol_version=version, session=session, coordinator="c1", epoch=1, limits=LIMITS)
    return client_pb2.ConnectResponse(welcome=frame).SerializeToString()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant_session, "REDIAL", Backoff(0.01, 0.02))
    monkeypatch.setattr(connection, "REDIAL", Backoff(0.01, 0.02))


async def until_streams(server: RawServer, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await server.has_streams(count)


def participant_of(server: RawServer, directory: Path) -> Participant:
    return Participant("bank", resource=LogResource(), data_directory=directory, coordinator=server.address)


@pytest.mark.parametrize("bad", GARBAGE, ids=range(5))
async def test_a_participant_survives_garbage(tmp_path: Path, bad: bytes) -> None:
    """As the first frame, and after Welcome."""
    async with RawServer([[bad], [welcome(), bad], [welcome(), HEARD]]) as server, participant_of(server, tmp_path) as bank:
        await until_streams(server, 3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bank.wait_connected()


@pytest.mark.parametrize("name", ["", "c1\x00", "C1", "x" * 1000])
async def test_a_participant_takes_no_coordinator_without_a_name(tmp_path: Path, name: str) -> None:
    scripts = [[welcome(name)], [welcome(name, 2**64 - 1)], [welcome(), HEARD]]
    async with RawServer(scripts) as server, participant_of(server, tmp_path) as bank:
        await until_streams(server, 3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await bank.wait_connected()


@pytest.mark.parametrize("bad", GARBAGE, ids=range(5))
async def test_a_client_survives_garbage(bad: bytes) -> None:
    async with RawServer([[bad], [client_welcome(), bad], [client_welcome()]]) as server, Client(server.address) as client:
        await until_streams(server, 3)
        with pytest.raises((Aborted, OutcomeUnknown, RequestError)):
            await client.run(call("bank", "debit"), timeout=0.05)
