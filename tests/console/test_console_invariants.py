"""An invariant that does not hold is seen by `troth participants`, in the console and as metrics; and gone once it is mended."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.attention import attention
from coordinator.config import load
from coordinator.inside import Inside
from coordinator.server import Daemon, make_daemon
from participant_sdk import Participant, SqliteResource, watch
from participant_sdk.metrics import ParticipantCollector
from tests.patience import SECONDS as PATIENCE_SECONDS

SCHEMA = "CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY NOT NULL, left_over INTEGER NOT NULL) WITHOUT ROWID"
SOON = 0.05
WORDS = "the invariant never_negative of stock does not hold"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "console_listen": "127.0.0.1:0", "drain_seconds": 1.0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


def make_stock(daemon: Daemon, directory: Path) -> Participant:
    resource = SqliteResource(directory / "stock.db", schema=SCHEMA)
    stock = Participant("stock", resource=resource, data_directory=directory / "stock", coordinator=daemon.address)

    @stock.invariant(every_seconds=SOON)
    def never_negative(db: Any) -> str | None:
        row = db.one("SELECT item, left_over FROM stock WHERE left_over < 0")
        return f"{row[0]} has {row[1]} <b>left</b>" if row else None

    @stock.invariant(every_seconds=SOON)
    def broken() -> None:
        raise ValueError

    return stock


async def troth(*arguments: str) -> str:
    """What the command prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coordinator.cli", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


async def needed(daemon: Daemon, kinds: set[str]) -> dict[str, str]:
    """Wait until what needs people is of these kinds; returns the words of each."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            items = {item.kind: item.text for item in await attention(Inside(daemon.observing._routes))}
            if items.keys() == kinds:
                return items
            await asyncio.sleep(SOON)


def measured(stock: Participant) -> dict[str, float]:
    """What the SDK's collector says of `never_negative`, by the metric's name."""
    samples = [sample for one in ParticipantCollector(stock).collect() for sample in one.samples]
    return {sample.name: sample.value for sample in samples if sample.labels.get("invariant") == "never_negative"}


async def test_what_does_not_hold_is_seen_and_gone_once_it_is_mended(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", SOON)
    at = ("--coordinator", daemon.address)
    assert daemon.observing.console is not None
    url = daemon.observing.console.url
    async with make_stock(daemon, tmp_path) as stock, httpx.AsyncClient(base_url=url) as browser:
        told = await needed(daemon, {"unchecked"})
        assert told["unchecked"] == "the invariant broken of stock cannot be checked: it raised ValueError"
        assert measured(stock)["troth_sdk_invariant_violated"] == 0
        await stock.local(lambda db: db.execute("INSERT INTO stock VALUES ('chair', -2)"))
        assert (await needed(daemon, {"invariant", "unchecked"}))["invariant"] == f"{WORDS}: chair has -2 <b>left</b>"
        assert measured(stock)["troth_sdk_invariant_violated"] == 1 and measured(stock)["troth_sdk_invariant_age_seconds"] >= 0
        plain = await troth("participants", *at)
        assert f"{WORDS}, since 20" in plain and "chair has -2" in plain
        row = json.loads(await troth("participants", "--json", *at))["participants"][0]["invariants"][1]
        assert (row["name"], row["state"], row["detail"]) == ("never_negative", "VIOLATED", "chair has -2 <b>left</b>")
        for page in ("/", "/participants/stock"):
            text = (await browser.get(page)).text
            assert "never_negative" in text and "chair has -2 &lt;b&gt;left" in text
        assert "never_negative violated" in (await browser.get("/participants")).text
        await stock.local(lambda db: db.execute("UPDATE stock SET left_over = 0"))
        await needed(daemon, {"unchecked"})
        assert measured(stock)["troth_sdk_invariant_violated"] == 0
        assert WORDS not in await troth("participants", *at)
        assert WORDS not in (await browser.get("/")).text
        assert 'tag good">holds' in (await browser.get("/participants/stock")).text


async def test_going_away_mends_nothing(daemon: Daemon, tmp_path: Path) -> None:
    async with make_stock(daemon, tmp_path) as stock:
        await stock.local(lambda db: db.execute("INSERT INTO stock VALUES ('chair', -2)"))
        await needed(daemon, {"invariant", "unchecked"})
    async with asyncio.timeout(PATIENCE_SECONDS):
        while ", as it said last: chair has -2" not in await troth("participants", "--coordinator", daemon.address):
            pass
    async with make_stock(daemon, tmp_path):
        await needed(daemon, {"invariant", "unchecked"})
