"""Invariants: what is wrong in committed data is found, told, and told to be mended; what a check does wrong harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator, Stream, operation, transaction

from participant_sdk import Participant, SqliteResource, watch
from participant_sdk.invariants import Standing
from troth.logs import heard_by
from troth.v1 import participant_pb2 as pb

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
SOON = 0.02
"""Between two checks."""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", SOON)


def make_bank(directory: Path, declare: Callable[[Participant], None], address: str = "127.0.0.1:1") -> Participant:
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    bank = Participant("bank", resource=resource, data_directory=directory, coordinator=address)

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def pay(db: Any, *, account: str, amount: int) -> None:
        db.execute("INSERT INTO account VALUES (?1, ?2) ON CONFLICT DO UPDATE SET balance = balance + ?2", (account, amount))

    declare(bank)
    return bank


def never_negative(bank: Participant) -> None:
    """What most of these tests look at."""

    @bank.invariant(every_seconds=SOON)
    def never_negative(db: Any) -> str | None:
        row = db.one("SELECT name, balance FROM account WHERE balance < 0")
        return f"{row[0]} has {row[1]}" if row else None


async def found(bank: Participant, name: str, standing: Standing | None) -> str:
    """Wait until an invariant stands so; returns its detail."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            finding = bank.findings.get(name)
            if (None if finding is None else finding.standing) is standing:
                return "" if finding is None else finding.detail
            await asyncio.sleep(SOON / 4)


async def told(stream: Stream, state: int) -> pb.InvariantReport:
    """Wait until the coordinator is told that an invariant is so."""
    while True:
        report: pb.InvariantReport = await stream.heard("invariants")
        if report.state == state:
            return report


async def test_a_violation_is_told_and_logged_and_so_is_that_it_is_mended(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    said: list[str] = []
    with heard_by(lambda level, event, fields: said.append(event)):
        async with make_bank(tmp_path, never_negative, coordinator.address) as bank:
            stream = await coordinator.welcomed()
            assert (await told(stream, pb.INVARIANT_STATE_HOLDS)).name == "never_negative"
            await bank.local(lambda db: db.execute("INSERT INTO account VALUES ('alice', -5)"))
            report = await told(stream, pb.INVARIANT_STATE_VIOLATED)
            assert report.detail == "alice has -5" and report.since_ms == bank.findings["never_negative"].since_ms
            stream.end()
            again = await told(await coordinator.welcomed(), pb.INVARIANT_STATE_VIOLATED)
            assert again == report, "whoever comes later is told of it, and since when"
            await bank.local(lambda db: db.execute("UPDATE account SET balance = 0"))
            await found(bank, "never_negative", Standing.HOLDS)
    assert [event for event in said if event.startswith("invariant")] == ["invariant violated", "invariant holds again"]


async def test_what_is_not_decided_is_not_seen(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    async with make_bank(tmp_path, never_negative, coordinator.address) as bank:
        stream = await coordinator.welcomed()
        await found(bank, "never_negative", Standing.HOLDS)
        prepare = pb.Prepare(
            transaction_id=transaction(1), operations=[operation("pay", account="alice", amount=-5)], order=1, timeout_ms=5000,
            incarnation=stream.hello.incarnation,
        )  # fmt: skip
        stream.say(prepares=[prepare])
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        checked = bank.ages["never_negative"]
        await asyncio.sleep(10 * SOON)
        assert bank.findings["never_negative"].standing is Standing.HOLDS
        assert bank.ages["never_negative"] > checked, "it waits for the outcome"
        stream.say(decisions=[pb.Decision(transaction_id=transaction(1), order=1, kind=pb.DECISION_KIND_COMMIT, acknowledge=True)])
        assert await found(bank, "never_negative", Standing.VIOLATED) == "alice has -5"
