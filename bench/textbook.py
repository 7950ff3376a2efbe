"""Two-phase commit as a textbook has it, for comparison: one unary RPC for each message, one sync for each record.

It keeps the durability that Troth keeps (SQLite, WAL, `synchronous=FULL`), and has nothing else: no recovery, no timeouts, no keys,
no locks, no checks. Records are written on the loop's own thread, which is cheaper than a hop to another one.

    python -m bench.textbook --directory DIR                                        a participant
    python -m bench.textbook --directory DIR --participants ADDRESS,ADDRESS        the coordinator
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench.service import Handler, method, run_role, serve


class Records:
    """A log: one transaction, and one sync, for each record."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(directory / "log.db", isolation_level=None)
        for setting in ("journal_mode = WAL", "synchronous = FULL", "locking_mode = EXCLUSIVE"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        self.syncs = 0

    def force(self, body: bytes) -> None:
        """Return when the record is durable."""
        self._connection.execute("INSERT INTO records (body) VALUES (?)", (body,))
        self.syncs += 1


def participant(records: Records) -> dict[str, Handler]:
    """Votes YES to everything."""

    async def prepare(request: bytes, context: Any) -> bytes:
        records.force(b"prepared " + request)
        return b"YES"

    async def commit(request: bytes, context: Any) -> bytes:
        records.force(b"committed " + request)
        return b"DONE"

    return {"Prepare": prepare, "Commit": commit}


def coordinator(records: Records, channels: list[grpc.aio.Channel]) -> dict[str, Handler]:
    """Runs a transaction: prepare in parallel, one decision record, answer, commit in parallel."""
    prepares = [method(channel, "Prepare") for channel in channels]
    commits = [method(channel, "Commit") for channel in channels]
    numbers = itertools.count(1)
    phase_two: set[asyncio.Task[None]] = set()

    async def tell(name: bytes) -> None:
        await asyncio.gather(*(commit(name) for commit in commits))

    async def run(request: bytes, context: Any) -> bytes:
        name = b"%d" % next(numbers)
        votes = await asyncio.gather(*(prepare(name + b" " + request) for prepare in prepares))
        if any(vote != b"YES" for vote in votes):
            return b"ABORTED"
        records.force(b"commit " + name)
        task = asyncio.create_task(tell(name))
        phase_two.add(task)
        task.add_done_callback(phase_two.discard)
        return b"COMMITTED"

    return {"Run": run}


async def work(directory: Path, addresses: list[str]) -> None:
    """Serve either role until SIGTERM."""
    records = Records(directory)
    if not addresses:
        await serve(directory, participant(records))
        return
    channels = [grpc.aio.insecure_channel(address) for address in addresses]
    await serve(directory, coordinator(records, channels))
    await asyncio.gather(*(channel.close() for channel in channels))


if __name__ == "__main__":
    run_role(work)
