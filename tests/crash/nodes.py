"""Nodes of a cell on a PostgreSQL server as processes at addresses that they keep: what whoever supervises them does, what cuts
them off, and copies of their logs for the checker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
from bank_cluster import SETTINGS, _environment
from demo import settle
from processes import Process

from troth.log.postgres import PostgresLog
from troth.log.sqlite import SqliteLog
from troth.ready import Append


def make_nodes(directory: Path, count: int, store: str, lease_seconds: float) -> list[Process]:
    """Not started."""
    settings = SETTINGS | {"TROTH_STORE": store, "TROTH_LEASE_SECONDS": str(lease_seconds)}
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--listen", "{listen}"]
    return [Process(f"node{number}", command, directory / f"node{number}", _environment(settings)) for number in range(count)]


async def supervise(processes: Sequence[Process]) -> None:
    """A process that began while there was no database has ended: whoever supervises it begins it again."""
    for process in processes:
        if not process.running:
            await process.spawn()


async def at_rest(nodes: Sequence[Process]) -> None:
    """Wait until nobody owes the cell anything."""
    while True:
        await supervise(nodes)
        with contextlib.suppress(grpc.aio.AioRpcError):  # a log may be on its way from one node to another
            return await settle(nodes[0].address)
        await asyncio.sleep(0.1)


def cut(dsn: str) -> int:
    """Terminate what the database has for Troth's processes; returns how many sessions that were."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        ended = connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'troth%'")
        return ended.rowcount


async def copy_log(dsn: str, role: str, name: str, path: Path, record: Any) -> None:
    """Write a log whose owner has gone into a file, as the checker wants it. `record` is the class of its records."""
    log = PostgresLog(dsn, role=role, name=name)
    _, records = await log.open()
    await log.close()
    copy = SqliteLog(path, role=role, name=name)
    await copy.open()
    await copy.write([Append(record.FromString(stored.body)) for stored in records], sync=True)
    await copy.close()
