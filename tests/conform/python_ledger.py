"""A participant of the Python SDK for `troth conform`: accounts that never go below zero, and an API for calls inside transactions.

    TROTH_COORDINATOR=HOST:PORT python tests/conform/python_ledger.py DIRECTORY

The API listens on the socket DIRECTORY/calls: one method, /ledger.Ledger/Run, which takes an Operation.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from participant_sdk import Participant, Refuse, SqliteResource
from troth.v1 import common_pb2
from troth.values import decode_arguments

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seat (number INTEGER PRIMARY KEY NOT NULL, guest INTEGER NOT NULL UNIQUE);
WITH RECURSIVE upto(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM upto WHERE number < 5000)
    INSERT OR IGNORE INTO seat SELECT number, number FROM upto;
"""
SLOW_SECONDS = 0.2


def pause() -> None:
    """How long the slow operation takes."""
    time.sleep(SLOW_SECONDS)


def make(directory: Path, coordinator: str) -> Participant:
    """The participant."""
    directory.mkdir(parents=True, exist_ok=True)
    resource = SqliteResource(directory / "ledger.db", schema=SCHEMA)
    ledger = Participant("ledger", resource=resource, data_directory=directory / "log", coordinator=coordinator)

    @ledger.operation(locks=lambda account: [account])
    def add(db: Any, *, account: str, amount: int) -> int:
        if amount < 0:
            raise Refuse("NO_FUNDS", "there is too little")
        db.execute(
            "INSERT INTO account VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (account, amount),
        )
        return int(db.one("SELECT balance FROM account WHERE name = ?", (account,))[0])

    @ledger.operation(locks=lambda account: [account])
    def look(db: Any, *, account: str) -> int:
        row = db.one("SELECT balance FROM account WHERE name = ?", (account,))
        return int(row[0]) if row else 0

    @ledger.operation(locks=lambda account: [account])
    def add_slowly(db: Any, *, account: str, amount: int) -> int:
        pause()
        return add(db, account=account, amount=amount)

    @ledger.operation(locks=lambda seat: [f"seat/{seat}"])
    def leave(db: Any, *, seat: int) -> None:
        """The guest of a seat leaves; its UNIQUE number is free."""
        db.execute("UPDATE seat SET guest = -guest WHERE number = ?", (seat,))

    @ledger.operation(locks=lambda guest: [f"stool/{guest}"])
    def sit_elsewhere(db: Any, *, guest: int) -> None:
        """Locks are declared too narrowly: while it is undecided that the guest has left, this keeps that from being undone."""
        db.execute("INSERT INTO seat VALUES (10000 + ?1, ?1)", (guest,))

    return ledger


def serving(ledger: Participant, directory: Path) -> Any:
    """The API of the service."""

    async def run(request: common_pb2.Operation, context: Any) -> common_pb2.Operation:
        value = await ledger.branch().run(request.name, **decode_arguments(request.arguments))
        return common_pb2.Operation(name=f"{value}")

    socket = directory / "calls"
    socket.unlink(missing_ok=True)
    server = grpc.aio.server(interceptors=ledger.interceptors())
    method = grpc.unary_unary_rpc_method_handler(
        run, common_pb2.Operation.FromString, common_pb2.Operation.SerializeToString
    )  # fmt: skip
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ledger.Ledger", {"Run": method}),))
    server.add_insecure_port(f"unix:{socket}")
    return server


async def main() -> None:
    """Serve until killed."""
    directory = Path(sys.argv[1])
    async with make(directory, os.environ["TROTH_COORDINATOR"]) as ledger:
        server = serving(ledger, directory)
        await server.start()
        try:
            await ledger.serve()
        finally:
            await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
