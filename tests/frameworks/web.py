"""Services that speak HTTP by real servers, on free ports: ASGI on uvicorn, WSGI on werkzeug's threads; and their participants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from werkzeug.serving import make_server

from participant_sdk import Participant, Refuse, SqliteResource

SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, amount INTEGER NOT NULL)"


def bank_of(name: str, directory: Path, coordinator: str) -> Participant:
    """A participant whose operation adds an amount, or refuses it."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)

    @bank.operation(locks=[])
    def add(db: Any, *, amount: int) -> int:
        if amount < 0:
            raise Refuse("NO_FUNDS", "too little")
        db.execute("INSERT INTO entry (amount) VALUES (?)", (amount,))
        return amount

    return bank


@contextlib.asynccontextmanager
async def bank_at_work(name: str, directory: Path, coordinator: str) -> AsyncIterator[Participant]:
    """The same, connected."""
    async with bank_of(name, directory, coordinator) as bank:
        await bank.wait_connected()
        yield bank


async def total(bank: Participant) -> int:
    """What is committed, once nothing is undecided any more."""
    return int(await bank.read(lambda db: db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0], wait_seconds=60))


@contextlib.asynccontextmanager
async def on_uvicorn(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a free port of this loop; gives its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    with server.capture_signals():
        serving = asyncio.ensure_future(server._serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.002)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@contextlib.asynccontextmanager
async def on_threads(app: Any) -> AsyncIterator[str]:
    """A WSGI application with a thread for each call; gives its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = asyncio.create_task(asyncio.to_thread(server.serve_forever))
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        await serving
        server.server_close()
