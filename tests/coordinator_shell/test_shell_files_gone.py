"""A daemon whose log is removed while it runs: it says COMMITTED of nothing that only the removed file knows, and ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from shell_harness import SECONDS, FakeParticipant, eventually, make_config

from coordinator.server import Daemon, make_daemon
from troth.errors import Reason
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2


async def decided(person: FakeParticipant) -> list[int]:
    """Vote YES on whatever is asked; what was decided, when the stream has ended."""
    heard: list[int] = []
    while (frame := await person.call.read()) is not grpc.aio.EOF:
        heard += [decision.kind for decision in frame.decisions]
        if frame.prepares:
            yes = participant_pb2.VOTE_KIND_YES
            person.send(votes=[participant_pb2.Vote(transaction_id=one.transaction_id, kind=yes) for one in frame.prepares])
    return heard


def remove(directory: Path, *, again: bool) -> None:
    """As a cleaner does; `again` puts an empty file in the place of each."""
    for file in directory.glob("coordinator.db*"):
        file.unlink()
        if again:
            file.write_bytes(b"")


def request() -> client_pb2.RunRequest:
    branches = [
        client_pb2.BranchRequest(participant=name, operations=[common_pb2.Operation(name="add")]) for name in ("north", "south")
    ]
    return client_pb2.RunRequest(branches=branches, timeout_ms=5000)


@pytest.mark.parametrize("again", [False, True])
async def test_a_commit_into_a_file_that_is_gone_is_told_to_nobody(tmp_path: Path, again: bool) -> None:
    daemon: Daemon = make_daemon(make_config(tmp_path))
    await daemon.start()
    try:
        await nobody_is_told(daemon, tmp_path, again=again)
    finally:
        await daemon.abandon()


async def nobody_is_told(daemon: Daemon, directory: Path, *, again: bool) -> None:
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        people = [FakeParticipant(channel) for _ in "12"]
        for person, name in zip(people, ("north", "south"), strict=True):
            await person.greet(name)
        hearing = [asyncio.create_task(decided(person)) for person in people]
        remove(directory, again=again)
        running = client_pb2_grpc.TransactionServiceStub(channel).Run(request())
        await eventually(daemon.failed.done)
        assert daemon.failed.result().reason is Reason.LOG_FAILED
        await daemon.abandon()
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(running, SECONDS)
        told = await asyncio.gather(*hearing, return_exceptions=True)
    assert not any(told_one for told_one in told if isinstance(told_one, list)), "nobody is told a decision"
