"""Whom a branch in doubt holds up is seen by `troth participants`, by `troth txn explain` and in the console; and gone with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_console_invariants import daemon, troth

from coordinator.server import Daemon
from participant_sdk import Aborted, Limits, LogBranch, LogResource, Participant, SqliteResource
from participant_sdk.client import Client, call
from participant_sdk.core.blocking import shortened
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.backoff import Backoff

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
KEY = "account/alice"

__all__ = ["daemon"]


def make_bank(daemon: Daemon, directory: Path) -> Participant:
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    limits = Limits(local_wait_seconds=10 * PATIENCE_SECONDS)
    bank = Participant("bank", resource=resource, data_directory=directory / "bank", coordinator=daemon.address, limits=limits)
    bank._setup.limits["inquiry"] = Backoff(0.05, 0.1)  # it asks at once, and often

    @bank.operation(locks=lambda name: [f"account/{name}", "fees"])
    def credit(db: Any, *, name: str) -> None:
        db.execute("INSERT INTO account VALUES (?, 1) ON CONFLICT DO UPDATE SET balance = balance + 1", (name,))

    return bank


@pytest.fixture
async def go_on(daemon: Daemon, tmp_path: Path) -> AsyncIterator[asyncio.Event]:
    """A participant that votes once this is set."""
    event = asyncio.Event()
    other = Participant("other", resource=LogResource(), data_directory=tmp_path / "other", coordinator=daemon.address)

    @other.operation
    async def take_time(branch: LogBranch) -> None:
        await event.wait()

    async with other:
        await other.wait_connected()
        yield event


async def seen(daemon: Daemon, *parts: str) -> str:
    """What `troth participants` prints once it has all of this."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            text = await troth("participants", "--coordinator", daemon.address)
            if all(part in text for part in parts):
                return text


async def test_whom_it_holds_up_is_seen_and_gone_once_it_has_ended(daemon: Daemon, go_on: asyncio.Event, tmp_path: Path) -> None:
    assert daemon.observing.console is not None
    browser = httpx.AsyncClient(base_url=daemon.observing.console.url)
    async with make_bank(daemon, tmp_path) as bank, Client(daemon.address) as client, browser:
        await bank.wait_connected()
        calls = call("bank", "credit", name="alice"), call("other", "take_time")
        first = asyncio.create_task(client.run(*calls, timeout=120, wait="complete"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not bank.health.in_doubt:  # noqa: ASYNC110 - its vote is awaited by others
                await asyncio.sleep(0.01)
        waiting = asyncio.create_task(bank.local(lambda db: None, locks=[KEY]))
        await seen(daemon, "1 request for its locks in line")
        with pytest.raises(Aborted):
            await client.run(call("bank", "credit", name="alice"), timeout=5)
        text = await seen(daemon, "turned away so far", "it holds 2 lock keys")
        assert f"{shortened(KEY)}" in text and "alice" not in text and ", since 20" in text
        name = text.split("bank is in doubt about ")[1].split(":")[0]
        explained = await troth("txn", "explain", name, "--coordinator", daemon.address)
        assert "bank says: it holds 2 lock keys (such as account/#" in explained and "Begun by " in explained
        assert "other says" not in explained, "it has not voted"
        for page in ("/participants/bank", f"/transactions/{name}"):
            told = (await browser.get(page)).text
            assert "it holds 2 lock keys" in told and "turned away so far" in told and "alice" not in told
        go_on.set()
        await first
        await waiting
        assert "hold somebody up" not in (await browser.get("/participants/bank")).text
        assert "in doubt" not in await troth("participants", "--coordinator", daemon.address)
