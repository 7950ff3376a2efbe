"""The floor: the messages, records and syncs of two-phase commit, and nothing else.

Streams that batch, one log with group commit in each process, protobuf, the same durability (SQLite, WAL, `synchronous=FULL`). No
check, no timeout, no lock, no repeat, no recovery, no identity; an operation does nothing. It shows what this machine, its Python
and its gRPC leave to be had, so that what Troth adds can be told from what nobody can avoid.

    python -m bench.floor --directory DIR                                        a participant
    python -m bench.floor --directory DIR --participants ADDRESS,ADDRESS        the coordinator
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio

from bench.service import run_role, serve, stream
from troth.v1 import client_pb2, common_pb2, participant_pb2

Write = Callable[[bytes], Awaitable[None]]


class Records:
    """A log with group commit: what arrives while one sync runs is written with the next."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(directory / "log.db", isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "locking_mode = EXCLUSIVE"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[bytes, Callable[[], None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def force(self, body: bytes, then: Callable[[], None]) -> None:
        """Write a record, and call `then` when it is durable."""
        self._waiting.append((body, then))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await loop.run_in_executor(self._thread, self._insert, [(body,) for body, _ in batch])
            for _, then in batch:
                then()
        self._writing = None

    def _insert(self, rows: list[tuple[bytes]]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO records (body) VALUES (?)", rows)
        self._connection.execute("COMMIT")


class Outbox:
    """The next frame of a stream; whatever is put into it while one is written goes with the next."""

    def __init__(self, make_frame: Callable[[], Any]) -> None:
        self._make_frame = make_frame
        self._frame = make_frame()
        self._wake = asyncio.Event()

    def put(self, field: str, message: Any) -> None:
        """Add a message to a repeated field."""
        getattr(self._frame, field).append(message)
        self._wake.set()

    async def pump(self, write: Write) -> None:
        """Write frames for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            frame, self._frame = self._frame, self._make_frame()
            await write(frame.SerializeToString())


def participant(records: Records) -> Any:
    """Votes YES to everything once that is durable, and acknowledges every decision once that is."""

    async def session(incoming: Any, context: Any) -> None:
        outbox = Outbox(participant_pb2.SessionRequest)
        pump = asyncio.create_task(outbox.pump(context.write))

        def vote(name: str) -> None:
            outbox.put("votes", participant_pb2.Vote(transaction_id=name, kind=participant_pb2.VOTE_KIND_YES))

        def acknowledge(name: str) -> None:
            done = participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
            outbox.put("acknowledgements", participant_pb2.Acknowledgement(transaction_id=name, kind=done))

        async for raw in incoming:
            frame = participant_pb2.SessionResponse.FromString(raw)
            for prepare in frame.prepares:
                records.force(b"prepared " + prepare.SerializeToString(), partial(vote, prepare.transaction_id))
            for decision in frame.decisions:
                name = decision.transaction_id
                records.force(b"committed " + name.encode(), partial(acknowledge, name))
        pump.cancel()

    return session


class Coordinator:
    """One client, and participants that always vote YES."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._client = Outbox(client_pb2.ConnectResponse)
        self._participants: list[Outbox] = []
        self._missing: dict[str, int] = {}

    async def dial(self, channel: grpc.aio.Channel) -> None:
        """Keep a stream with one participant."""
        call = stream(channel)()
        outbox = Outbox(participant_pb2.SessionResponse)
        self._participants.append(outbox)
        pump = asyncio.create_task(outbox.pump(call.write))
        try:
            async for raw in call:
                frame = participant_pb2.SessionRequest.FromString(raw)
                for vote in frame.votes:
                    self._count(vote.transaction_id, decided=False)
                for acknowledgement in frame.acknowledgements:
                    self._count(acknowledgement.transaction_id, decided=True)
        finally:
            pump.cancel()

    async def connect(self, incoming: Any, context: Any) -> None:
        """Carry the client's stream."""
        pump = asyncio.create_task(self._client.pump(context.write))
        async for raw in incoming:
            for run in client_pb2.ConnectRequest.FromString(raw).runs:
                name = f"floor.{run.number}"
                self._missing[name] = len(self._participants)
                for outbox, branch in zip(self._participants, run.branches, strict=True):
                    outbox.put("prepares", participant_pb2.Prepare(transaction_id=name, operations=branch.operations))
        pump.cancel()

    def _count(self, name: str, *, decided: bool) -> None:
        """One vote or acknowledgement more; after the last vote the decision, after the last acknowledgement the end."""
        self._missing[name] -= 1
        if not self._missing[name] and decided:
            del self._missing[name]
            self._records.force(b"ended " + name.encode(), lambda: None)
        elif not self._missing[name]:
            self._records.force(b"commit " + name.encode(), lambda: self._decided(name))

    def _decided(self, name: str) -> None:
        number = int(name.removeprefix("floor."))
        answer = client_pb2.Answer(number=number, transaction_id=name, outcome=common_pb2.OUTCOME_COMMITTED)
        self._client.put("answers", answer)
        self._missing[name] = len(self._participants)
        for outbox in self._participants:
            kind = participant_pb2.DECISION_KIND_COMMIT
            outbox.put("decisions", participant_pb2.Decision(transaction_id=name, kind=kind, acknowledge=True))


class Caller:
    """The load generator's side: one stream, a future for each transaction."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = stream(channel)()
        self._outbox = Outbox(client_pb2.ConnectRequest)
        self._futures: dict[int, asyncio.Future[bool]] = {}
        self._number = 0
        self._tasks = [asyncio.create_task(self._outbox.pump(self._call.write)), asyncio.create_task(self._read())]

    async def run(self) -> bool:
        """One transaction with one operation at each of two participants."""
        self._number += 1
        future = self._futures[self._number] = asyncio.get_running_loop().create_future()
        request = client_pb2.RunRequest(number=self._number)
        for name in ("left", "right"):
            request.branches.add(participant=name).operations.add(name="note", arguments=b"x" * 30)
        self._outbox.put("runs", request)
        committed: bool = await future
        return committed

    async def _read(self) -> None:
        async for raw in self._call:
            for answer in client_pb2.ConnectResponse.FromString(raw).answers:
                self._futures.pop(answer.number).set_result(bool(answer.outcome == common_pb2.OUTCOME_COMMITTED))

    async def close(self) -> None:
        """End the stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def work(directory: Path, addresses: list[str]) -> None:
    """Serve either role until SIGTERM."""
    records = Records(directory)
    if not addresses:
        await serve(directory, {}, stream=participant(records))
        return
    coordinator = Coordinator(records)
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address)) for address in addresses]
        dialled = [asyncio.create_task(coordinator.dial(channel)) for channel in channels]
        await serve(directory, {}, stream=coordinator.connect)
        for task in dialled:
            task.cancel()
        await asyncio.gather(*dialled, return_exceptions=True)


if __name__ == "__main__":
    run_role(work)
