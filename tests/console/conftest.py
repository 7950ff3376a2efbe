"""Fixtures: a daemon with a console, two participants, and transactions of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import load
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogResource, Participant, Refuse
from participant_sdk.client import Client, call
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import Aborted


@dataclass
class Shown:
    """A console, and what stands behind it."""

    daemon: Daemon
    client: Client
    bank: Participant
    stock: Participant
    committed: str = ""
    refused: str = ""
    waiting: str = ""
    release: asyncio.Event | None = None
    wrong: list[str] = field(default_factory=list)
    """What is wrong with the stock, in the words of its invariant; empty while it holds."""

    @property
    def url(self) -> str:
        """Without the last slash."""
        console = self.daemon.observing.console
        assert console is not None
        return console.url.rstrip("/")


def participant(daemon: Daemon, directory: Path, name: str, release: asyncio.Event, wrong: list[str]) -> Participant:
    """A service with an operation that does, one that refuses, and one that waits; and with two invariants."""
    made = Participant(name, coordinator=daemon.address, resource=LogResource(), data_directory=directory / name)

    @made.operation
    def note(_: Any, *, text: str) -> str:
        return text

    @made.operation
    def refuse(_: Any) -> None:
        raise Refuse("NO_STOCK", "<script>alert(1)</script>")

    @made.operation
    async def wait(_: Any) -> None:
        await release.wait()

    @made.invariant(every_seconds=0.1)
    def never_negative() -> str:
        return "".join(wrong)

    @made.invariant(every_seconds=0.1)
    def adds_up() -> bool:
        return True

    return made


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Shown]:
    """One committed, one refused, and one that waits for a vote."""
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "console_listen": "127.0.0.1:0", "drain_seconds": 1.0}
    daemon, release = make_daemon(load(environment={}, flags=flags).config), asyncio.Event()
    await daemon.start()
    wrong: list[str] = []
    bank, stock = participant(daemon, tmp_path, "bank", release, []), participant(daemon, tmp_path, "stock", release, wrong)
    async with bank, stock, Client(daemon.address) as client:
        await asyncio.gather(bank.wait_connected(), stock.wait_connected())
        shown = Shown(daemon, client, bank, stock, release=release, wrong=wrong)
        done = await client.run(call("bank", "note", text="a"), call("stock", "note", text="b"), key="order-<7>", wait="complete")
        shown.committed = done.transaction_id
        with pytest.raises(Aborted) as refused:
            await client.run(call("bank", "note", text="a"), call("stock", "refuse"))
        shown.refused = refused.value.transaction_id
        running = asyncio.create_task(client.run(call("bank", "note", text="a"), call("stock", "wait"), timeout=600.0, attempts=1))
        shown.waiting = await _begun(daemon)
        await _looked_at(daemon)
        yield shown
        release.set()
        await asyncio.gather(running, return_exceptions=True)
    await daemon.stop()


async def _begun(daemon: Daemon) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for name, txn in daemon._core._book.live.items():  # type: ignore[attr-defined]  # the core is the real one
                if txn.state.value == "PREPARING" and txn.missing == 1:
                    return name
            await asyncio.sleep(0.01)


async def _looked_at(daemon: Daemon) -> None:
    """Wait until both have told of all of their invariants."""
    known = daemon._core._book.participants  # type: ignore[attr-defined]  # as above
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(len(known[name].invariants) < 2 for name in ("bank", "stock")):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
