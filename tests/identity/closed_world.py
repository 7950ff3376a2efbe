"""A participant with one table, and what tests of a closed coordinator wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from coordinator.server import Daemon
from participant_sdk import Condition, Participant, SqliteResource, Tls
from tests.patience import SECONDS as PATIENCE_SECONDS

POLICY = """
[[grant]]
to = ["spiffe://example.org/notes"]
participate = ["notes"]

[[grant]]
to = ["spiffe://example.org/web"]
begin = ["notes/*"]

[[grant]]
to = ["spiffe://example.org/people/ada"]
roles = ["administrator"]
"""
"""Who may do what at `guarded`."""


SOCKET = '\n[[grant]]\nto = ["socket:admin"]\nroles = ["administrator"]\n'
"""Lets whoever comes by the socket do anything."""
Start = Callable[..., Awaitable[Daemon]]


def make_notes(directory: Path, daemon: Daemon, tls: Tls | None = None, *, payload_keys: str = "") -> Participant:
    """A participant with one table."""
    notes = Participant(
        "notes", resource=SqliteResource(directory / "notes.db", schema="CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)"),
        data_directory=directory / "notes", coordinator=daemon.address, tls=tls,
        payload_keys=payload_keys,
    )  # fmt: skip

    @notes.operation
    def note(db: Any, *, text: str) -> int:
        db.execute("INSERT INTO notes (text) VALUES (?)", (text,))
        return int(db.one("SELECT count(*) FROM notes")[0])

    return notes


async def connected(*participants: Participant) -> None:
    """Until they take work."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for one in participants:
            while one.health.condition is not Condition.CONNECTED:  # noqa: ASYNC110 - there is nothing to wait for
                await asyncio.sleep(0.01)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The stable reason of a failed call."""
    info = error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
